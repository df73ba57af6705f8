"""TextVQA with OCR tokens in the prompt (metric: vqa.py)."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from llava.eval.records import Question
from llava.eval.tasks.base import Benchmark, Reference
from llava.eval.tasks.files import (
    EVAL_ZIP,
    field,
    first_line,
    look_up,
    read_json,
)
from llava.eval.tasks.vqa import human_answers, vqa_scorer

logger = logging.getLogger(__name__)

QUESTIONS = "textvqa/llava_textvqa_val_v051_ocr.jsonl"
IMAGES = "textvqa/train_images"
ANNOTATIONS = "textvqa/TextVQA_0.5.1_val.json"
OBTAIN = (
    f"the question file is in {EVAL_ZIP}; get https://dl.fbaipublicfiles.com/textvqa/data/TextVQA_0.5.1_val.json and "
    "https://dl.fbaipublicfiles.com/textvqa/images/train_val_images.zip and unpack them in textvqa"
)
_OCR = "Reference OCR token:"

score = vqa_scorer("textvqa")


def question_of(text: str) -> str:
    """The question in a prompt, in lower case: its first line, or the second where the OCR tokens come first."""
    rest = text.split("\n", 1)[1] if text.startswith(_OCR) and "\n" in text else text
    return first_line(rest).lower()


def references(root: Path, questions: Sequence[Question]) -> dict[str, Reference]:
    """Ten human answers by question key."""
    return references_of(root / ANNOTATIONS, questions)


def references_of(file: Path, questions: Sequence[Question]) -> dict[str, Reference]:
    """Ten human answers, joined by picture and question text (the ids of the two files have nothing in common).

    One that is there twice with different answers has those of its last row, as in the public scorer; a warning tells.

    Raises:
        ValueError: a question that is not in the file.
    """
    rows = field(file, read_json(file, dict, OBTAIN), "data", list)
    labels = _last_labels(((_key(file, row), human_answers(file, row)) for row in rows), file)
    return look_up(questions, labels, lambda question: (str(question.question_id), question_of(question.text)), file)


def _last_labels(answers: Iterable[tuple[tuple[str, str], list[str]]], file: Path) -> dict[tuple[str, str], Reference]:
    """Labels by (picture, question). Two that differ are no error here, as they are in joins by id: nothing keeps two
    people from asking the same about a picture."""
    last: dict[tuple[str, str], list[str]] = {}
    differing: dict[tuple[str, str], None] = {}
    for key, told in answers:
        if sorted(last.get(key, told)) != sorted(told):
            differing[key] = None
        last[key] = told
    if differing:
        logger.warning(
            "%s: %d questions are there more than once with different answers, first %r; the last row counts, as in "
            "the public scorer",
            file,
            len(differing),
            next(iter(differing)),
        )
    return {key: {"answers": told} for key, told in last.items()}


def _key(file: Path, row: Any) -> tuple[str, str]:
    return field(file, row, "image_id", str), field(file, row, "question", str).strip().lower()


BENCHMARK = Benchmark(
    name="textvqa",
    title="TextVQA",
    metric="VQA accuracy on val",
    questions=QUESTIONS,
    images=IMAGES,
    annotations=(ANNOTATIONS,),
    obtain=OBTAIN,
    references=references,
    score=score,
)
