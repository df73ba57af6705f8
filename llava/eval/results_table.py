"""The results table: methods down, benchmarks across, under a row what was published for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llava.eval.beside import Beside
from llava.eval.cells import COMPLETE, Record
from llava.eval.compare import Row
from llava.eval.judge.benchmarks import BENCHMARKS
from llava.eval.lmms_records import TITLES as LMMS_TITLES
from llava.eval.published import PublishedTable
from llava.eval.table import Table


def title_of(task: str) -> str:
    """The column head of a benchmark."""
    return BENCHMARKS[task].title if task in BENCHMARKS else LMMS_TITLES.get(task, task)


@dataclass(frozen=True)
class Publication:
    """What the paper prints for our cells, and how far ours may be from it. table: where it stands."""

    cells: Mapping[str, Beside]
    tolerance: float
    table: PublishedTable


def make_table(rows: Sequence[Row], publication: Publication | None = None) -> Table:
    """Methods down, benchmarks across: each benchmark's own figure, then what the whole set says; under a row what was
    published for it."""
    tasks = tasks_of(rows)
    parts = parts_of(rows)
    titles = (f"{title_of(task)} ({parts[task]})" if task in parts else title_of(task) for task in tasks)
    head = ("Method", "Tokens", *titles, "Average", "95% interval", "vs VisionZip")
    if publication is not None:
        head = (*head, "vs published")
    dense = next((row for row in rows if row.is_dense), None)
    lines: list[tuple[str, ...]] = []
    sections: dict[int, str] = {}
    total: int | None = None
    for row in rows:
        if row.total not in (total, None):
            sections[len(lines)] = _budget_title(row, dense)
        total = row.total
        beside = publication.cells.get(row.cell) if publication else None
        verdict = "-" if beside is None or publication is None else beside.verdict(publication.tolerance)
        lines.append((*_cells(row, tasks), *([verdict] if publication else [])))
        if beside is not None:
            lines.append(_published_cells(beside, tasks))
    return Table(head, tuple(lines), sections)


def tasks_of(rows: Sequence[Row]) -> list[str]:
    """All benchmarks with a record, in the order of `BENCHMARKS`."""
    present = {task for row in rows for task in row.records}
    known = [task for task in (*BENCHMARKS, *LMMS_TITLES) if task in present]
    return known + sorted(present - set(known))


def parts_of(rows: Sequence[Row]) -> dict[str, str]:
    """The benchmarks that were asked in part -> which part ("first 40"). What is complete says it, else what failed."""
    found = {}
    for task in tasks_of(rows):
        records = [row.records[task] for row in rows if task in row.records]
        told = next((record for record in records if record.status == COMPLETE), records[0])
        if told.part is not None:
            found[task] = told.part
    return found


def _budget_title(row: Row, dense: Row | None) -> str:
    if dense is None or not dense.tokens or row.tokens is None:
        return f"{row.total} tokens"
    return f"{row.total} tokens ({100 * row.tokens / dense.tokens:.0f}%)"


def _cells(row: Row, tasks: Sequence[str]) -> tuple[str, ...]:
    tokens = "-" if row.tokens is None else f"{row.tokens:.1f}".removesuffix(".0")
    bounds = "-" if row.bounds is None else f"{row.bounds[0]:.1f} to {row.bounds[1]:.1f}"
    relative = "-" if row.relative is None else f"{row.relative:.1f}%"
    gap = row.difference
    difference = "-" if gap is None else f"{gap[0]:+.1f} [{gap[1]:+.1f}, {gap[2]:+.1f}]"
    return (row.title, tokens, *(_figure(row.records.get(task)) for task in tasks), relative, bounds, difference)


def _published_cells(beside: Beside, tasks: Sequence[str]) -> tuple[str, ...]:
    figures = (beside.row.figures.get(task) for task in tasks)
    shown = ("-" if figure is None else f"{figure:.1f}" for figure in figures)
    average = "-" if beside.average is None else f"{beside.average:.1f}%"
    return (beside.title, str(beside.row.tokens), *shown, average, "-", "-", "-")


def _figure(record: Record | None) -> str:
    if record is None:
        return "-"
    return record.status if record.headline is None else f"{record.headline:.1f}"
