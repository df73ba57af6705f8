"""Records side by side: which may be compared, in which order, and how sure the differences are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llava.eval.bootstrap import DRAWS, interval, resampled_averages
from llava.eval.cells import COMPLETE, Record, read_items
from llava.eval.methods import METHODS

BASELINE = "visionzip"


@dataclass(frozen=True)
class Row:
    """A record with what only the whole set can say: interval of the average, share of dense, difference to
    VisionZip."""

    record: Record
    bounds: tuple[float, float] | None = None
    relative: float | None = None
    difference: tuple[float, float, float] | None = None

    @property
    def title(self) -> str:
        """The method's name in the table."""
        return METHODS[self.record.method].title if self.record.method in METHODS else self.record.method


def build_rows(records: Sequence[Record], folder: Path, draws: int = DRAWS) -> list[Row]:
    """Rows in table order: dense, then the budgets from large to small, each with its methods.

    Raises:
        ValueError: two records cover different tasks or were asked different questions: their averages must not
        stand side by side.
    """
    done = [record for record in records if record.status == COMPLETE]
    _check_comparable(done)
    items = {record.cell: read_items(folder, record.cell) for record in done}
    kept = {cell: values for cell, values in items.items() if values is not None}
    draws_of = dict(zip(kept, resampled_averages(list(kept.values()), draws), strict=True)) if kept else {}
    dense = next((record for record in done if record.budget is None), None)
    base = {total_of(record): record for record in done if record.method == BASELINE}
    return [_row(record, dense, base.get(total_of(record)), draws_of) for record in sorted(records, key=_place)]


def _check_comparable(done: Sequence[Record]) -> None:
    for record in done[1:]:
        first = done[0]
        if set(record.tasks) != set(first.tasks):
            raise ValueError(
                f"cells {first.cell} and {record.cell} cover different tasks ({', '.join(sorted(first.tasks))} and "
                f"{', '.join(sorted(record.tasks))}); averages over different sets are not compared: run the missing "
                f"ones"
            )
        if _questions(record) != _questions(first):
            raise ValueError(
                f"cells {first.cell} and {record.cell} were asked different questions (question files or limit "
                f"differ); run the grid again"
            )


def _questions(record: Record) -> tuple[Any, Any]:
    return record.inputs.get("files"), (record.inputs.get("settings") or {}).get("limit")


def _row(record: Record, dense: Record | None, base: Record | None, draws_of: Mapping[str, np.ndarray]) -> Row:
    if record.status != COMPLETE:
        return Row(record)
    mine = draws_of.get(record.cell)
    bounds = None if mine is None else interval(mine)
    relative = None if dense is None else _relative(record, dense)
    difference = None
    if base is not None and base is not record and record.average is not None and base.average is not None:
        theirs = draws_of.get(base.cell)
        if mine is not None and theirs is not None:
            difference = (record.average - base.average, *interval(mine - theirs))
    return Row(record, bounds, relative, difference)


def _relative(record: Record, dense: Record) -> float | None:
    """Mean over tasks of accuracy / dense accuracy, percent; None when dense gets nothing right somewhere."""
    shares = [
        100 * values["accuracy"] / dense.tasks[task]["accuracy"]
        for task, values in record.tasks.items()
        if dense.tasks[task]["accuracy"]
    ]
    return sum(shares) / len(shares) if len(shares) == len(record.tasks) else None


def total_of(record: Record) -> int | None:
    return None if record.budget is None else record.budget["total"]


def _place(record: Record) -> tuple[int, int, str]:
    order = [*METHODS]
    rank = order.index(record.method) if record.method in order else len(order)
    return -(total_of(record) or 10**9), rank, record.cell
