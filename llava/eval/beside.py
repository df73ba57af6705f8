"""Published rows beside ours: matched by method and budget, averaged over the same benchmarks, within a tolerance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from llava.eval.compare import DENSE, Row, complete
from llava.eval.methods import METHODS
from llava.eval.published import RIVALS, PublishedRow, PublishedTable, relative_average

FIGURE_TOLERANCE = 5.0


@dataclass(frozen=True)
class Beside:
    """A published row next to one of ours.

    average: its relative average over the benchmarks ours is taken over, None where it lacks one of them or our table
    has no column of one. gap: ours minus that, in points; None for the dense row, whose average is 100 by definition.
    model: its model, where that is not the table's. off: benchmarks whose figure is more than `FIGURE_TOLERANCE`
    percent away from the published one, with the difference in percent. whole: ours has a figure for each of its
    figures. partial: ours was asked a part of the questions only.
    """

    row: PublishedRow
    average: float | None
    gap: float | None
    model: str | None = None
    off: Mapping[str, float] = field(default_factory=dict)
    whole: bool = True
    partial: bool = False

    @property
    def title(self) -> str:
        name = METHODS[self.row.method].title if self.row.method in METHODS else RIVALS[self.row.method]
        of = "" if self.model is None else f", {self.model}"
        return f"{name}{of}, published{'' if self.row.confirmed else ' (unconfirmed)'}"

    def verdict(self, tolerance: float) -> str:
        """The gap of the averages, and whether it is within `tolerance` points and no single figure is off; "-" where
        there is nothing to judge by, "partial" where the published figures are of more questions."""
        if self.partial:
            return "partial"
        gap = "" if self.gap is None else f"{self.gap:+.1f} "
        if self.off:
            return f"{gap}(FAIL: {', '.join(f'{task} {percent:+.0f}%' for task, percent in self.off.items())})"
        if not self.whole or (self.gap is None and (self.row.method != DENSE or self.model is not None)):
            return "-"
        return f"{gap}({'pass' if abs(self.gap or 0) <= tolerance else 'FAIL'})"


def stand_beside(rows: Sequence[Row], table: PublishedTable, over: Sequence[str]) -> dict[str, Beside]:
    """Our cells that the table has a row for. -> cell name -> what was published"""
    dense = _find(table, "dense", None, table.model)
    columns = {task for row in rows for task in row.records}
    found = {}
    for row in rows:
        published = _find(table, row.method, row.total, row.guest or table.model)
        if published is not None:
            average = _average(published, dense, over) if dense is not None and columns.issuperset(over) else None
            gap = None
            if average is not None and row.relative is not None and not row.is_dense:
                gap = row.relative - average
            ours = [complete(row, task) for task in over if published.figures.get(task) is not None]
            found[row.cell] = Beside(
                row=published,
                average=average,
                gap=gap,
                model=row.guest,
                off=_off(row, published, over),
                whole=bool(ours) and None not in ours,
                partial=any(record is not None and record.part is not None for record in ours),
            )
    return found


def _off(row: Row, published: PublishedRow, over: Sequence[str]) -> dict[str, float]:
    """The figures of the declared benchmarks that are far from the published ones."""
    away = {}
    for task in over:
        record, figure = complete(row, task), published.figures.get(task)
        if record is not None and record.headline is not None and figure:
            percent = 100 * (record.headline / figure - 1)
            if abs(percent) > FIGURE_TOLERANCE:
                away[task] = percent
    return away


def _find(table: PublishedTable, method: str, total: int | None, model: str) -> PublishedRow | None:
    """The table's row of a method at `total` tokens a tile."""
    return next(
        (
            row
            for row in table.rows
            if row.method == method and row.model == model and total in (None, row.tokens / table.tiles)
        ),
        None,
    )


def _average(row: PublishedRow, dense: PublishedRow, over: Sequence[str]) -> float | None:
    if not over or any(side.figures.get(task) is None for side in (row, dense) for task in over):
        return None
    return relative_average(row.figures, dense.figures, over)
