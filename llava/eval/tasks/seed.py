"""SEED-Bench: the answer must be the option letter exactly; `fixed` also reads `B.` and `B) a dog`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from llava.eval.question_set import QuestionSet
from llava.eval.records import Answer, Question, merge_answers, write_lines
from llava.eval.tasks.base import OFFICIAL, Benchmark, Reference, TaskScore, percent, percent_by, summarise
from llava.eval.tasks.choice import FIXED, letter_exact, letter_leading, score_letters
from llava.eval.tasks.files import EVAL_ZIP, by_id, field, index_labels, look_up, read_json

QUESTIONS = "seed_bench/llava-seed-bench.jsonl"
IMAGES = "seed_bench"
ANNOTATIONS = "seed_bench/SEED-Bench.json"
OBTAIN = (
    f"the question file is in {EVAL_ZIP}, with extract_video_frames.py, which takes the middle frame of each video; "
    "SEED-Bench.json, the pictures (to seed_bench/SEED-Bench-image) and the sources of the videos (frames to "
    "seed_bench/SEED-Bench-video-image) are in https://github.com/AILab-CVC/SEED-Bench/blob/main/DATASET.md"
)
_READERS = {OFFICIAL: letter_exact, FIXED: letter_leading}


def score(
    questions: Sequence[Question],
    references: Mapping[str, Reference],
    answers: Sequence[Answer],
    *,
    rule: str = OFFICIAL,
    name: str = "seed",
) -> TaskScore:
    """Accuracy over all. Where the references say so: `image`, `video` (by kind of data; a kind nobody asked about is
    absent) and `per_type`."""
    found = score_letters(name, _READERS, questions, references, answers, rule)
    kinds = percent_by([item.reference.get("data_type") for item in found.items], found.scores)
    types = percent_by([item.reference.get("question_type") for item in found.items], found.scores)
    extra: dict[str, Any] = {**found.extra, **kinds}
    if types:
        extra |= {"total": percent(found.scores), "per_type": types}
    return summarise(name, found.items, found.scores, rule, **extra)


def read_images(root: Path) -> QuestionSet:
    """The questions about images alone, SEED-I of the papers' NeXT tables.

    Raises:
        ValueError: there is none.
    """
    asked, labels = BENCHMARK.read(root), labels_of(root / ANNOTATIONS)
    chosen = tuple(one for one in asked.questions if labels.get(by_id(one), {}).get("data_type") == "image")
    if not chosen:
        raise ValueError(f"{root / ANNOTATIONS} names no question of {root / QUESTIONS} as one about an image")
    return QuestionSet(chosen, asked.pictures)


def references(root: Path, questions: Sequence[Question]) -> dict[str, Reference]:
    """Letter, kind of data and question type by question id."""
    file = root / ANNOTATIONS
    return look_up(questions, labels_of(file), by_id, file)


def labels_of(file: Path) -> dict[str, Reference]:
    """All labels of SEED-Bench.json by question id.

    Raises:
        ValueError: missing or malformed, or an id that comes twice with different labels.
    """
    whole = read_json(file, dict, OBTAIN)
    names = {number: name for name, number in field(file, whole, "question_type", dict).items()}
    rows = field(file, whole, "questions", list)
    return index_labels(
        ((str(field(file, row, "question_id", int | str)), _label(file, row, names)) for row in rows), file
    )


def submission(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """What the leaderboard takes."""
    return [{"question_id": answer.question_id, "prediction": answer.text} for answer in answers]


def submit(_root: Path, asked: QuestionSet, answers: Sequence[Answer], target: Path) -> Path:
    """Write the leaderboard's file (JSON lines)."""
    write_lines(target, submission(merge_answers(asked.questions, [answers])))
    return target


def _label(file: Path, row: Any, names: Mapping[int, str]) -> Reference:
    number = field(file, row, "question_type_id", int)
    if number not in names:
        raise ValueError(f"{file}: question_type_id {number} of {row['question_id']} is not among {sorted(names)}")
    return {
        "answer": field(file, row, "answer", str),
        "data_type": field(file, row, "data_type", str),
        "question_type": names[number],
    }


BENCHMARK = Benchmark(
    name="seed",
    title="SEED",
    metric="accuracy over images and video frames",
    questions=QUESTIONS,
    images=IMAGES,
    annotations=(ANNOTATIONS,),
    obtain=OBTAIN,
    references=references,
    score=score,
    submit=submit,
    upload="seed_bench/answers_upload/{name}.jsonl",
)
BENCHMARK_IMAGE = replace(
    BENCHMARK,
    name="seed_image",
    title="SEED-I",
    metric="accuracy over images",
    reader=read_images,
    score=partial(score, name="seed_image"),
    upload="seed_bench/answers_upload/{name}-images.jsonl",
)
