"""What the benchmarks' annotation files have in common: reading them, and joining them to questions."""

import json
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar

from llava.eval.records import Answer, Question, tell_apart
from llava.eval.tasks.base import Reference, require
from llava.utils import write_text

EVAL_ZIP = (
    "eval.zip of LLaVA's evaluation guide (docs/Evaluation.md of haotian-liu/LLaVA; "
    "https://drive.google.com/file/d/1atZSBBrAX54yYpxtVVW33zFvcnaHeFPy), unpacked in the eval root"
)
Key = TypeVar("Key", bound=Hashable)


def read_json(path: Path, kind: type, obtain: str) -> Any:
    """A JSON file whose top is a `kind` (dict or list).

    Raises:
        ValueError: missing (and where to get it), not JSON, or another kind.
    """
    text = require(path, obtain).read_text(encoding="utf-8")
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error})") from error
    if not isinstance(value, kind):
        raise ValueError(f"{path}: expected a JSON {kind.__name__}, got {type(value).__name__}")
    return value


def field(path: Path, row: Any, name: str, kind: type | UnionType) -> Any:
    """One value of a row of an annotation file.

    Raises:
        ValueError: no such key, or a value of another kind; file and row are named.
    """
    value = row.get(name) if isinstance(row, dict) else None
    if not isinstance(value, kind):
        raise ValueError(f"{path}: expected {name!r} to be {kind}, got {value!r} in {str(row)[:200]}")
    return value


def index_labels(labels: Iterable[tuple[Key, Reference]], source: Path) -> dict[Key, Reference]:
    """Labels by what joins them to a question. One that comes twice and says the same is one.

    Raises:
        ValueError: two that differ, so that the join would depend on the order of the file.
    """
    known: dict[Key, Reference] = {}
    for key, label in labels:
        former = known.setdefault(key, label)
        if former != label:
            raise ValueError(f"{source}: two labels for {key!r} that differ: {dict(former)!r} and {dict(label)!r}")
    return known


def by_id(question: Question) -> str:
    """How most annotation files name a question."""
    return str(question.question_id)


def look_up(
    questions: Sequence[Question],
    labels: Mapping[Key, Reference],
    key_of: Callable[[Question], Key],
    source: Path,
) -> dict[str, Reference]:
    """Each question's label, by the question's key.

    Raises:
        ValueError: a question without one; file and id are named.
    """
    found: dict[str, Reference] = {}
    for question in questions:
        key = key_of(question)
        if key not in labels:
            raise ValueError(f"{source} has no reference for question_id {question.question_id!r} (looked for {key!r})")
        found[question.key] = labels[key]
    return found


def first_line(text: str) -> str:
    """The question itself: what stands before the benchmark's suffix."""
    return text.split("\n", 1)[0].strip()


def questions_of(answers: Sequence[Answer]) -> list[Question]:
    """The questions an answer file was made from, as far as it tells: id and text."""
    return tell_apart([Question(answer.question_id, answer.prompt) for answer in answers])


def write_json_file(target: Path, value: Any, indent: int | None = None) -> Path:
    """Write a JSON file whole or not at all. -> the path"""
    write_text(target, json.dumps(value, ensure_ascii=False, indent=indent) + "\n")
    return target
