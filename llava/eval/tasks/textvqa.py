"""TextVQA (see vqa.py)."""

from llava.eval.tasks.vqa import vqa_scorer

score = vqa_scorer("textvqa")
