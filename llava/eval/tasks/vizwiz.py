"""VizWiz (metric: vqa.py). The public test.json holds no answers: EvalAI scores the submission."""

from collections.abc import Sequence
from pathlib import Path

from llava.eval.question_set import QuestionSet
from llava.eval.records import Answer, Question, merge_answers
from llava.eval.tasks.base import Benchmark, Reference
from llava.eval.tasks.files import (
    EVAL_ZIP,
    field,
    index_labels,
    look_up,
    read_json,
    write_json_file,
)
from llava.eval.tasks.vqa import human_label, vqa_scorer
from llava.eval.tasks.vqa_text import normalise

QUESTIONS = "vizwiz/llava_test.jsonl"
IMAGES = "vizwiz/test"
ANNOTATIONS = "vizwiz/test.json"
SERVER = "the EvalAI server, https://eval.ai/web/challenges/challenge-page/1911"
OBTAIN = (
    f"the question file is in {EVAL_ZIP}; test.json is in https://vizwiz.cs.colorado.edu/VizWiz_final/vqa_data/"
    "Annotations.zip, the pictures are https://vizwiz.cs.colorado.edu/VizWiz_final/images/test.zip, unpacked in "
    "vizwiz/test"
)

score = vqa_scorer("vizwiz")


def references(root: Path, questions: Sequence[Question]) -> dict[str, Reference] | None:
    """Ten human answers and the answer type, joined by picture (one question a picture); None where the file has no
    answers, as the public one, or is not there."""
    file = root / ANNOTATIONS
    if not file.exists():
        return None
    rows = [row for row in read_json(file, list, OBTAIN) if isinstance(row, dict) and "answers" in row]
    if not rows:
        return None
    labels = index_labels(((field(file, row, "image", str), human_label(file, row)) for row in rows), file)
    return look_up(questions, labels, lambda question: question.image or "", file)


def submission(questions: Sequence[Question], answers: Sequence[Answer]) -> list[dict[str, str | None]]:
    """What the server takes: the picture and the answer, normalised.

    Raises:
        ValueError: ids that do not match.
    """
    merged = merge_answers(questions, [answers])
    return [
        {"image": question.image, "answer": normalise(answer.text)}
        for question, answer in zip(questions, merged, strict=True)
    ]


def submit(_root: Path, asked: QuestionSet, answers: Sequence[Answer], target: Path) -> Path:
    """Write the server's file."""
    return write_json_file(target, submission(asked.questions, answers))


BENCHMARK = Benchmark(
    name="vizwiz",
    title="VizWiz",
    metric="VQA accuracy on test",
    questions=QUESTIONS,
    images=IMAGES,
    annotations=(ANNOTATIONS,),
    obtain=OBTAIN,
    references=references,
    score=score,
    submit=submit,
    upload="vizwiz/answers_upload/{name}.json",
    server=SERVER,
)
