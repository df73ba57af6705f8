"""Records side by side: which may be compared, in which order, and how sure the differences are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from llava.eval.bootstrap import DRAWS, in_common, interval, resampled_headlines, share_pictures
from llava.eval.cells import COMPLETE, Items, Record
from llava.eval.methods import METHODS
from llava.eval.published import relative_average
from visionzip import Budget

BASELINE, DENSE = "visionzip", "dense"


@dataclass(frozen=True)
class Measured:
    """A record and its items, None where they were not kept (then there is no interval).

    guest: the other model it is of, by name; None for the model the table is about. source: the file it was read from.
    """

    record: Record
    items: Items | None = None
    guest: str | None = None
    source: Path | None = None


@dataclass(frozen=True)
class Row:
    """A cell with all its records, and what only the whole set can say.

    relative: mean over the declared benchmarks of headline / dense headline, percent; None while one of them is
    missing. bounds: its 95% interval. difference: relative minus that of VisionZip at the same budget, with the
    interval of the paired bootstrap. missing: declared benchmarks without a complete record. guest: see `Measured`;
    such a row is relative to the table's own dense row. split: "12+4", the dominant and contextual tokens, where the
    table has several splits of this method's total.
    """

    cell: str
    method: str
    budget: Mapping[str, int] | None
    records: Mapping[str, Record]
    relative: float | None = None
    bounds: tuple[float, float] | None = None
    difference: tuple[float, float, float] | None = None
    missing: tuple[str, ...] = field(default=())
    guest: str | None = None
    split: str | None = None

    @property
    def title(self) -> str:
        """The method's name in the table."""
        name = METHODS[self.method].title if self.method in METHODS else self.method
        name = name if self.split is None else f"{name} {self.total} ({self.split})"
        return name if self.guest is None else f"{name}, {self.guest}"

    @property
    def is_dense(self) -> bool:
        """The row that all are relative to."""
        return self.method == DENSE and self.guest is None

    @property
    def total(self) -> int | None:
        """Nominal tokens of a tile; None for dense."""
        return None if self.budget is None else self.budget["total"]

    @property
    def tokens(self) -> float | None:
        """Visual tokens an image measured at the language model's input, mean over all pictures asked about."""
        counted = [record for record in self.records.values() if record.tokens_per_image is not None]
        images = sum(record.images for record in counted)
        return sum((record.tokens_per_image or 0) * record.images for record in counted) / images if images else None


def build_rows(measured: Sequence[Measured], over: Sequence[str], draws: int = DRAWS) -> list[Row]:
    """Rows in table order: dense, then the budgets from large to small, each with its methods.

    Args:
        over: the benchmarks the relative average is taken over. A row that lacks one has no average.

    Raises:
        ValueError: a benchmark was asked different questions in two cells, or two records are of the same cell, split
            and benchmark.
    """
    cells = _by_cell(measured)
    for task in dict.fromkeys(one.record.task for one in measured):
        _check_comparable([cell[task] for cell in cells.values() if task in cell])
    bare = [_bare_row(name, cell, over) for name, cell in cells.items()]
    dense = next((row for row in bare if row.is_dense), None)
    shares = {row.cell: _relative(row, dense, over) for row in bare}
    draws_of = _resampled(cells, dense, over, draws)
    made = [_with_averages(row, shares, draws_of, _baseline(row, bare)) for row in bare]
    return sorted(made, key=_place)


def why_no_average(rows: Sequence[Row], over: Sequence[str]) -> str | None:
    """Why no row of a table has an average, and what to do; None where rows have one.

    Args:
        over: see `build_rows`.
    """
    dense = next((row for row in rows if row.is_dense), None)
    if dense is None:
        return "no averages: there is no dense row to be relative to; add the records of one"
    if dense.relative is not None or not over:
        return None
    if not dense.missing:
        nothing = ", ".join(task for task in over if not _headline(dense, task))
        return (
            f"no averages: the dense row has 0 in {nothing}; leave that out: --over names the benchmarks of the average"
        )
    there = [task for task in dense.records if complete(dense, task) and _headline(dense, task)]
    remedy = f", or take them over what it has: {' '.join(f'--over {task}' for task in there)}" if there else ""
    return f"no averages: the dense row has no figure of {', '.join(dense.missing)}; measure it{remedy}"


def complete(row: Row, task: str) -> Record | None:
    """The row's complete record of a benchmark."""
    record = row.records.get(task)
    return record if record is not None and record.status == COMPLETE else None


def _by_cell(measured: Sequence[Measured]) -> dict[str, dict[str, Measured]]:
    """Cell -> benchmark -> record. A cell's name says its total only: where that was split in several ways, each split
    is a cell of its own, with the split in its name."""
    splits: dict[str, set[str]] = {}
    for one in measured:
        splits.setdefault(one.record.cell, set()).add(_split(one.record))
    cells: dict[str, dict[str, Measured]] = {}
    for one in measured:
        name, task = one.record.cell, one.record.task
        cell = cells.setdefault(name if len(splits[name]) == 1 else f"{name} ({_split(one.record)})", {})
        if task in cell:
            raise ValueError(
                f"two records of {one.record.name}, {cell[task].source} and {one.source}; name folders that hold only "
                "one"
            )
        cell[task] = one
    return cells


def _split(record: Record) -> str:
    """ "12+4": dominant and contextual tokens, where the method tells them apart; else empty."""
    method, budget = METHODS.get(record.method), record.budget or {}
    if not {"dominant", "contextual"} <= budget.keys():
        return ""
    parts = Budget(budget["dominant"], budget["contextual"])
    if method is not None and (method.config is None or "dominant" not in method.config(parts)):
        return ""
    return f"{parts.dominant}+{parts.contextual}"


def _baseline(row: Row, rows: Sequence[Row]) -> str | None:
    """The cell that is VisionZip at the row's budget: the one of its total, among several that of its split."""
    if row.guest is not None or row.method == BASELINE:
        return None
    found = [one for one in rows if one.method == BASELINE and one.guest is None and one.total == row.total]
    if len(found) > 1:
        found = [one for one in found if one.budget == row.budget]
    return found[0].cell if found else None


def _bare_row(name: str, cell: Mapping[str, Measured], over: Sequence[str]) -> Row:
    records = {task: one.record for task, one in cell.items()}
    guest = next(iter(cell.values())).guest
    first = next(iter(records.values()))
    missing = tuple(task for task in over if task not in records or records[task].status != COMPLETE)
    split = _split(first) if name != first.cell else None
    return Row(name, first.method, first.budget, records, missing=missing, guest=guest, split=split)


def _check_comparable(measured: Sequence[Measured]) -> None:
    """Every record with every other: one that does not tell a condition agrees with two that differ in it."""
    done = [(one, _conditions(one.record)) for one in measured if one.record.status == COMPLETE]
    for (one, first), (two, other) in combinations(done, 2):
        differing = [name for name in first if first[name] != other[name] and None not in (first[name], other[name])]
        if one.guest != two.guest and "base model" in differing:
            differing.remove("base model")
        if differing or first["limit"] != other["limit"]:
            raise ValueError(
                f"{one.record.name} and {two.record.name} cannot stand side by side, they differ in "
                f"{', '.join(differing or ['limit'])}; measure both the same way"
            )


def _conditions(record: Record) -> dict[str, Any]:
    """What must be equal in two records of a benchmark: the language model, the questions, how they were asked and who
    judged. None: not told."""
    settings = record.inputs.get("settings") or {}
    return {
        "base model": _base_model(record),
        "files or pictures": record.inputs.get("files"),
        **{name: settings.get(name) for name in ("limit", "conv_mode", "num_beams", "max_new_tokens", "attention")},
        "dtype": record.stamp.get("dtype"),
        **{name: record.figures.get(name) for name in ("judge", "served_by", "prompt")},
    }


def _base_model(record: Record) -> Any:
    """What a method was put on: for one whose weights come with it, what those were tuned from; else the weights that
    ran. So a tuned checkpoint that runs dense or at another budget is no row of its base's table."""
    tuned = record.method in METHODS and METHODS[record.method].tuned
    return (record.model.get("base") if tuned else None) or record.model.get("path")


def _headline(row: Row, task: str) -> float:
    record = complete(row, task)
    assert record is not None and record.headline is not None, f"{row.cell}/{task}"
    return record.headline


def _relative(row: Row, dense: Row | None, over: Sequence[str]) -> float | None:
    """None without a dense row, with a benchmark missing, or when dense gets nothing right somewhere."""
    if dense is None or not over or row.missing or dense.missing:
        return None
    mine, full = ({task: _headline(side, task) for task in over} for side in (row, dense))
    return relative_average(mine, full, over) if all(full.values()) else None


def _resampled(
    cells: Mapping[str, Mapping[str, Measured]], dense: Row | None, over: Sequence[str], draws: int
) -> dict[str, np.ndarray]:
    """Relative averages under the draws, for the cells whose every declared benchmark kept its items. -> [R] each"""
    whole: dict[str, list[Items]] = {}
    for name, cell in cells.items():
        done = [cell[task].items for task in over if task in cell and cell[task].record.status == COMPLETE]
        kept = [items for items in done if items is not None]
        if len(kept) == len(over):
            whole[name] = kept
    if dense is None or dense.cell not in whole or not over:
        return {}
    place = list(whole).index(dense.cell)
    shares = []
    for index, task in enumerate(over):
        alike = share_pictures(in_common([items[index] for items in whole.values()]))
        headlines = resampled_headlines(task, alike, draws)
        below = headlines[place]
        shares.append(np.divide(100 * headlines, below, out=np.zeros_like(headlines), where=below > 0))
    return dict(zip(whole, np.mean(shares, axis=0), strict=True))


def _with_averages(
    row: Row, shares: Mapping[str, float | None], draws_of: Mapping[str, np.ndarray], base: str | None
) -> Row:
    share, mine = shares[row.cell], draws_of.get(row.cell)
    bounds = None if mine is None or row.is_dense else interval(mine)
    difference = None
    if base is not None and mine is not None and base in draws_of:
        theirs = shares[base]
        if share is not None and theirs is not None:
            difference = (share - theirs, *interval(mine - draws_of[base]))
    return replace(row, relative=share, bounds=bounds, difference=difference)


def _place(row: Row) -> tuple[int, str, int, str]:
    order = [*METHODS]
    rank = order.index(row.method) if row.method in order else len(order)
    return -(row.total or 10**9), row.guest or "", rank, row.cell
