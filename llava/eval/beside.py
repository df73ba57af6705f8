"""Published rows beside ours: matched by method and budget, averaged over the same benchmarks, within a tolerance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llava.eval.compare import Row
from llava.eval.methods import METHODS
from llava.eval.published import RIVALS, PublishedRow, PublishedTable, relative_average


@dataclass(frozen=True)
class Beside:
    """A published row next to one of ours.

    average: its relative average over the benchmarks ours is taken over, None where it lacks one of them. gap: ours
    minus that, in points.
    """

    row: PublishedRow
    average: float | None
    gap: float | None

    @property
    def title(self) -> str:
        name = METHODS[self.row.method].title if self.row.method in METHODS else RIVALS[self.row.method]
        return f"{name}, published{'' if self.row.confirmed else ' (unconfirmed)'}"

    def verdict(self, tolerance: float) -> str:
        """The gap and whether it is within `tolerance` points; "-" where there is none."""
        if self.gap is None:
            return "-"
        return f"{self.gap:+.1f} ({'pass' if abs(self.gap) <= tolerance else 'FAIL'})"


def stand_beside(rows: Sequence[Row], table: PublishedTable, over: Sequence[str]) -> dict[str, Beside]:
    """Our cells that the table has a row for. -> cell name -> what was published"""
    dense = _find(table, "dense", None)
    found = {}
    for row in rows:
        published = _find(table, row.method, row.total)
        if published is not None:
            average = None if dense is None else _average(published, dense, over)
            gap = None if average is None or row.relative is None else row.relative - average
            found[row.cell] = Beside(published, average, gap)
    return found


def _find(table: PublishedTable, method: str, total: int | None) -> PublishedRow | None:
    """The table's row of a method at `total` tokens a tile, on the table's own model."""
    return next(
        (
            row
            for row in table.rows
            if row.method == method and row.model == table.model and total in (None, row.tokens / table.tiles)
        ),
        None,
    )


def _average(row: PublishedRow, dense: PublishedRow, over: Sequence[str]) -> float | None:
    sides: tuple[Mapping[str, float | None], ...] = (row.figures, dense.figures)
    if not over or any(side.get(task) is None for side in sides for task in over):
        return None
    return relative_average(*sides, over)
