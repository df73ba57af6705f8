"""VQAv2 (metric: vqa.py). The test-dev annotations are not public: EvalAI scores the submission."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llava.eval.question_set import QuestionSet
from llava.eval.records import Answer, Question, merge_answers, read_questions
from llava.eval.tasks.base import Benchmark, Reference, require
from llava.eval.tasks.files import (
    EVAL_ZIP,
    by_id,
    field,
    index_labels,
    look_up,
    read_json,
    write_json_file,
)
from llava.eval.tasks.vqa import human_label, vqa_scorer
from llava.eval.tasks.vqa_text import normalise

QUESTIONS = "vqav2/llava_vqav2_mscoco_test-dev2015.jsonl"
ALL_QUESTIONS = "vqav2/llava_vqav2_mscoco_test2015.jsonl"
IMAGES = "vqav2/test2015"
ANNOTATIONS = "vqav2/v2_mscoco_test-dev2015_annotations.json"
SERVER = "the EvalAI server, https://eval.ai/web/challenges/challenge-page/830"
OBTAIN = (
    f"the question files are in {EVAL_ZIP}; the pictures are http://images.cocodataset.org/zips/test2015.zip, unpacked "
    f"in vqav2; annotations of test-dev are not public ({SERVER} scores)"
)

score = vqa_scorer("vqav2")


def references(root: Path, questions: Sequence[Question]) -> dict[str, Reference] | None:
    """Ten human answers and the answer type by question id; None where the file is not there."""
    file = root / ANNOTATIONS
    if not file.exists():
        return None
    rows = field(file, read_json(file, dict, OBTAIN), "annotations", list)
    labels = ((str(field(file, row, "question_id", int | str)), human_label(file, row)) for row in rows)
    return look_up(questions, index_labels(labels, file), by_id, file)


def submission(all_ids: Sequence[str | int], answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """What the server takes: an answer, normalised, for every question of test2015; "" for those not asked.

    Raises:
        ValueError: an answer to a question that is not in test2015.
    """
    said = {str(answer.question_id): normalise(answer.text) for answer in answers}
    unknown = sorted(said.keys() - set(map(str, all_ids)))
    if unknown:
        raise ValueError(f"{len(unknown)} answers to questions that are not in test2015, first {unknown[:5]}")
    return [{"question_id": key, "answer": said.get(str(key), "")} for key in all_ids]


def submit(root: Path, asked: QuestionSet, answers: Sequence[Answer], target: Path) -> Path:
    """Write the server's file."""
    everything = [question.question_id for question in read_questions(require(root / ALL_QUESTIONS, OBTAIN))]
    return write_json_file(target, submission(everything, merge_answers(asked.questions, [answers])))


BENCHMARK = Benchmark(
    name="vqav2",
    title="VQAv2",
    metric="VQA accuracy on test-dev",
    questions=QUESTIONS,
    images=IMAGES,
    annotations=(ANNOTATIONS,),
    obtain=OBTAIN,
    references=references,
    score=score,
    submit=submit,
    upload="vqav2/answers_upload/llava_vqav2_mscoco_test-dev2015/{name}.json",
    submit_needs=(ALL_QUESTIONS,),
    server=SERVER,
)
