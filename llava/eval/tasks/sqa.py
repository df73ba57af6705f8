"""ScienceQA: option letter by the published rules, or by the corrected ones (`fixed`)."""

from llava.eval.tasks.base import OFFICIAL
from llava.eval.tasks.choice import FIXED, choice_scorer, letter_science, letter_science_fixed

score = choice_scorer("sqa", {OFFICIAL: letter_science, FIXED: letter_science_fixed})
