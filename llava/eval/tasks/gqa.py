"""GQA: exact match of the short answer."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llava.eval.question_set import QuestionSet
from llava.eval.records import Answer, Question, merge_answers
from llava.eval.tasks.base import OFFICIAL, Benchmark, Reference, TaskScore, check_rule, join, percent_by, summarise
from llava.eval.tasks.files import (
    EVAL_ZIP,
    by_id,
    field,
    index_labels,
    look_up,
    read_json,
    write_json_file,
)

QUESTIONS = "gqa/llava_gqa_testdev_balanced.jsonl"
IMAGES = "gqa/data/images"
ANNOTATIONS = "gqa/data/testdev_balanced_questions.json"
OBTAIN = (
    f"the question file is in {EVAL_ZIP}; images.zip and questions1.2.zip (testdev_balanced_questions.json) are on "
    "https://cs.stanford.edu/people/dorarad/gqa/download.html and go to gqa/data"
)


def normalise(text: str) -> str:
    """What LLaVA's conversion submits: final periods dropped, lower case."""
    return text.rstrip(".").lower()


def score(
    questions: Sequence[Question],
    references: Mapping[str, Reference],
    answers: Sequence[Answer],
    *,
    rule: str = OFFICIAL,
) -> TaskScore:
    """Share of answers that equal the reference after `normalise` (only the prediction is normalised, as in the
    official scorer). Where the references say what kind a question is: `binary` and `open` accuracy (open: the
    structural type is `query`), `per_structural`, `per_semantic`."""
    check_rule(rule, (OFFICIAL,), "gqa")
    items = join(questions, references, answers)
    scores = [float(normalise(item.text) == item.gold()) for item in items]
    structural = [item.reference.get("structural") for item in items]
    kinds = [None if kind is None else "open" if kind == "query" else "binary" for kind in structural]
    extra: dict[str, Any] = dict(percent_by(kinds, scores))
    if extra:
        extra["per_structural"] = percent_by(structural, scores)
        extra["per_semantic"] = percent_by([item.reference.get("semantic") for item in items], scores)
    return summarise("gqa", items, scores, rule, **extra)


def references(root: Path, questions: Sequence[Question]) -> dict[str, Reference]:
    """Answer and types by question id."""
    file = root / ANNOTATIONS
    rows = read_json(file, dict, OBTAIN)
    labels = index_labels(((str(key), _reference(file, row)) for key, row in rows.items()), file)
    return look_up(questions, labels, by_id, file)


def predictions(answers: Sequence[Answer]) -> list[dict[str, str]]:
    """Answers as the official scorer reads them."""
    return [{"questionId": str(answer.question_id), "prediction": normalise(answer.text)} for answer in answers]


def submit(_root: Path, asked: QuestionSet, answers: Sequence[Answer], target: Path) -> Path:
    """Write the official scorer's input (its name: testdev_balanced_predictions.json)."""
    return write_json_file(target, predictions(merge_answers(asked.questions, [answers])))


def _reference(file: Path, row: object) -> Reference:
    answer, types = field(file, row, "answer", str), field(file, row, "types", dict)
    return {"answer": answer, "structural": types.get("structural"), "semantic": types.get("semantic")}


BENCHMARK = Benchmark(
    name="gqa",
    title="GQA",
    metric="accuracy, exact match on testdev-balanced",
    questions=QUESTIONS,
    images=IMAGES,
    annotations=(ANNOTATIONS,),
    obtain=OBTAIN,
    references=references,
    score=score,
    submit=submit,
    upload="gqa/answers_upload/{name}/testdev_balanced_predictions.json",
)
