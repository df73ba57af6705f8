"""The record of one benchmark of one cell: what was run, what came out, and each item's answer and score beside it.

<out>/cells/<cell>/<task>.json   status, method, budget, measured tokens, figures, inputs, stamp
<out>/items/<cell>/<task>.json   ids, pictures, answers and scores in question order, and the ratios of the headline

A cell is a method at a budget on a checkpoint: one row of the results table.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llava.eval.records import Answer, Question
from llava.eval.tasks.base import Ratio, TaskScore, mean_ratio
from llava.provenance import without_machine_paths
from llava.utils import write_text

logger = logging.getLogger(__name__)

COMPLETE, FAILED = "complete", "failed"
ANSWERED = "answered"  # the answers are there, and a server has to score them
NO_ITEMS = {"items": "not told by the samples"}  # among a record's figures where there is a score and no item's


@dataclass(frozen=True)
class Record:
    """One benchmark of one cell.

    headline: the figure tables print (see `TaskScore`). accuracy: mean item score in percent. n: questions. figures:
    the benchmark's others. images: questions with a picture. tokens_per_image: mean over them of the visual tokens at
    the language model's input. stamp: what made it; its `how` (batch size, processes, attention kernel, fast path) is
    no part of what makes records comparable. A score that came from a server has no items.
    """

    cell: str
    task: str
    method: str
    status: str
    model: Mapping[str, Any]
    budget: Mapping[str, int] | None = None
    order: str | None = None
    headline: float | None = None
    accuracy: float | None = None
    n: int = 0
    figures: Mapping[str, Any] = field(default_factory=dict)
    tokens_per_image: float | None = None
    images: int = 0
    seconds: float | None = None
    error: str | None = None
    inputs: Mapping[str, Any] = field(default_factory=dict)
    stamp: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """<cell>/<task>."""
        return f"{self.cell}/{self.task}"

    @property
    def part(self) -> str | None:
        """Which questions were asked, where that is not all of them: "first 40", or lmms-eval's "first 50%"."""
        limit = (self.inputs.get("settings") or {}).get("limit")
        if limit is None:
            return None
        return f"first {limit:.0f}" if limit >= 1 else f"first {limit:.0%}"

    @property
    def server(self) -> str | None:
        """Who scores or scored it, where that is no program of ours."""
        return self.figures.get("server")

    @property
    def has_items(self) -> bool:
        """Its items belong beside it: not those of a server's score, nor of one whose samples do not tell them."""
        return self.server is None and "items" not in self.figures


@dataclass(frozen=True)
class Items:
    """Every item of a record, in question order. images: the picture's name, of the question itself for a text-only
    one. scores: 0..1. said: the answers. ratios: see `TaskScore`; their keys are among `ids`."""

    ids: tuple[str, ...]
    images: tuple[str, ...]
    scores: tuple[float, ...]
    said: tuple[str, ...]
    ratios: tuple[Ratio, ...]


def record_file(out: Path, cell: str, task: str) -> Path:
    """Where a record lies."""
    return out / "cells" / cell / f"{task}.json"


def items_file(out: Path, cell: str, task: str) -> Path:
    """Where a record's items lie."""
    return out / "items" / cell / f"{task}.json"


def write_record(out: Path, record: Record) -> None:
    """Write a record whole or not at all; it names no place of this machine."""
    text = json.dumps(without_machine_paths(vars(record)), indent=2, ensure_ascii=False)
    write_text(record_file(out, record.cell, record.task), text + "\n")


def read_record(path: Path) -> Record:
    """A record from its file.

    Raises:
        ValueError: not JSON, or keys that are no record's.
    """
    try:
        return Record(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, json.JSONDecodeError, TypeError) as error:
        raise ValueError(f"{path}: expected the record of a benchmark: {error}") from error


def is_done(out: Path, base: Record) -> bool:
    """A complete record of the same inputs is there, with its items if it has any; or all answers, for a server. A
    record that cannot be read is not done."""
    path = record_file(out, base.cell, base.task)
    if not path.exists():
        return False
    try:
        record = read_record(path)
    except ValueError as error:
        logger.warning("%s; it is run again", error)
        return False
    if record.inputs != base.inputs or record.status not in (COMPLETE, ANSWERED):
        return False
    return not record.has_items or items_file(out, base.cell, base.task).exists()


def is_complete(out: Path, base: Record) -> bool:
    """A record with all answers of this cell and benchmark is there and can be read, whatever its inputs."""
    path = record_file(out, base.cell, base.task)
    try:
        return path.exists() and read_record(path).status in (COMPLETE, ANSWERED)
    except ValueError:
        return False


def read_records(out: Path) -> list[Record]:
    """All records under `out`, by file name.

    Raises:
        ValueError: there is none, or one is malformed.
    """
    files = sorted((out / "cells").glob("*/*.json"))
    if not files:
        below = sorted({file.parents[2] for file in out.glob("*/cells/*/*.json")})
        remedy = (
            f"they are one level down: name one or several of {', '.join(map(str, below))}"
            if below
            else "run `python -m llava.eval.grid` or a script of scripts/eval first"
        )
        raise ValueError(f"{out}: expected records in {out / 'cells'}, found none; {remedy}")
    return [read_record(file) for file in files]


def items_of(questions: Sequence[Question], answers: Sequence[Answer], score: TaskScore) -> Items:
    """The items of a scored benchmark; answers in the order of the questions. Questions without a score (a judge that
    gave no readable one) are left out."""
    pairs = [
        (question, answer) for question, answer in zip(questions, answers, strict=True) if question.key in score.items
    ]
    return Items(
        ids=tuple(question.key for question, _ in pairs),
        images=tuple(question.image or question.key for question, _ in pairs),
        scores=tuple(score.items[question.key] for question, _ in pairs),
        said=tuple(answer.text for _, answer in pairs),
        ratios=score.ratios,
    )


def write_items(out: Path, cell: str, task: str, items: Items) -> None:
    """Write a record's items: one column a line; a headline that is the mean score keeps no ratios."""
    place = {key: index for index, key in enumerate(items.ids)}
    columns: dict[str, Any] = {
        "ids": items.ids,
        "images": items.images,
        "scores": [_short(score) for score in items.scores],
        "said": items.said,
    }
    if items.ratios != (mean_ratio(items.ids, items.scores),):
        columns["ratios"] = [
            {
                "weight": ratio.weight,
                "at": [place[key] for key in ratio.keys],
                "numerators": [_short(value) for value in ratio.numerators],
                "denominators": [_short(value) for value in ratio.denominators],
            }
            for ratio in items.ratios
        ]
    lines = ",\n".join(
        f" {json.dumps(name)}: {json.dumps(column, ensure_ascii=False)}" for name, column in columns.items()
    )
    write_text(items_file(out, cell, task), f"{{\n{lines}\n}}\n")


def drop_items(out: Path, cell: str, task: str) -> None:
    """Take away what a former run left, where a record has no items."""
    items_file(out, cell, task).unlink(missing_ok=True)


def read_items(out: Path, cell: str, task: str) -> Items | None:
    """A record's items, None if they were not kept.

    Raises:
        ValueError: the file is malformed.
    """
    path = items_file(out, cell, task)
    if not path.exists():
        return None
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        ids, scores = tuple(raw["ids"]), tuple(map(float, raw["scores"]))
        ratios = [
            Ratio(
                one["weight"], tuple(ids[at] for at in one["at"]), tuple(one["numerators"]), tuple(one["denominators"])
            )
            for one in raw.get("ratios", [])
        ]
        return Items(ids, tuple(raw["images"]), scores, tuple(raw["said"]), tuple(ratios) or (mean_ratio(ids, scores),))
    except (json.JSONDecodeError, KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{path}: expected the items of a record: {type(error).__name__} {error}") from error


def _short(score: float) -> int | float:
    return int(score) if score == int(score) else round(score, 4)
