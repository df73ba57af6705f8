"""The record of one cell: what was run, what came out, and each item's score beside it.

<out>/cells/<cell>.json   status, method, budget, measured tokens, figures of every task, average, inputs, stamp
<out>/items/<cell>.json   {"images": [...], "tasks": {task: {"image": [index, ...], "scores": [...]}}}, in question
order
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llava.eval.records import Question, write_text
from llava.eval.tasks import TaskScore
from llava.provenance import without_machine_paths

COMPLETE, FAILED = "complete", "failed"


@dataclass(frozen=True)
class Record:
    """One cell's record. tasks: name -> {"accuracy", "n", ...}; average: mean accuracy over `tasks`, in percent."""

    cell: str
    method: str
    status: str
    model: Mapping[str, Any]
    budget: Mapping[str, int] | None = None
    order: str | None = None
    tokens_per_image: float | None = None
    tasks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    average: float | None = None
    seconds: float | None = None
    error: str | None = None
    inputs: Mapping[str, Any] = field(default_factory=dict)
    stamp: Mapping[str, Any] = field(default_factory=dict)


def cell_file(out: Path, cell: str) -> Path:
    """Where a cell's record lies."""
    return out / "cells" / f"{cell}.json"


def items_file(out: Path, cell: str) -> Path:
    """Where a cell's item scores lie."""
    return out / "items" / f"{cell}.json"


def write_record(out: Path, record: Record) -> None:
    """Write a record whole or not at all; it names no place of this machine."""
    text = json.dumps(without_machine_paths(vars(record)), indent=2, ensure_ascii=False)
    write_text(cell_file(out, record.cell), text + "\n")


def read_record(path: Path) -> Record:
    """A record from its file.

    Raises:
        ValueError: not JSON, or keys that are no record's.
    """
    try:
        return Record(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, json.JSONDecodeError, TypeError) as error:
        raise ValueError(f"{path}: expected the record of a cell: {error}") from error


def read_records(out: Path) -> list[Record]:
    """All records under `out`, by file name.

    Raises:
        ValueError: there is none, or one is malformed.
    """
    files = sorted((out / "cells").glob("*.json"))
    if not files:
        raise ValueError(
            f"{out}: expected records in {out / 'cells'}, found none; run `python -m llava.eval.grid` first"
        )
    return [read_record(file) for file in files]


def write_items(
    out: Path, cell: str, questions: Mapping[str, Sequence[Question]], scores: Mapping[str, TaskScore]
) -> None:
    """Write every item's score with the picture it is about (text-only questions stand for themselves)."""
    places: dict[str, int] = {}
    tasks = {}
    for task, asked in questions.items():
        names = [question.image or f"{task}/{question.key}" for question in asked]
        tasks[task] = {
            "image": [places.setdefault(name, len(places)) for name in names],
            "scores": [_short(scores[task].items[question.key]) for question in asked],
        }
    lines = ",\n".join(f"  {json.dumps(task)}: {json.dumps(values)}" for task, values in tasks.items())
    images = json.dumps(list(places), ensure_ascii=False)
    write_text(items_file(out, cell), f'{{"images": {images},\n "tasks": {{\n{lines}\n}}}}\n')


def read_items(out: Path, cell: str) -> dict[str, Any] | None:
    """A cell's item scores, None if they were not kept.

    Raises:
        ValueError: the file is malformed.
    """
    path = items_file(out, cell)
    if not path.exists():
        return None
    try:
        items: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: expected JSON item scores: {error}") from error
    return items


def _short(score: float) -> int | float:
    return int(score) if score == int(score) else round(score, 4)
