"""From records to a table, a page and a picture.

    python -m llava.eval.report --records results/miniature --out results/miniature --update-readme README.md

Writes table.md, table.csv and table.tex (the table alone), report.md and accuracy.png; with --update-readme also the
text between the two markers of a README, with --server the scores that a server gave into their records.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from llava.eval.beside import FIGURE_TOLERANCE, Beside, stand_beside
from llava.eval.bootstrap import DRAWS
from llava.eval.cells import ANSWERED, COMPLETE, FAILED, Record, read_items, read_records, record_file
from llava.eval.compare import Measured, Row, build_rows, complete
from llava.eval.grid_config import read_config
from llava.eval.judge.benchmarks import BENCHMARKS
from llava.eval.lmms_records import TITLES as LMMS_TITLES
from llava.eval.lmms_records import read_measured
from llava.eval.published import PublishedTable, read_published
from llava.eval.server_scores import ENTERED, enter_score
from llava.eval.table import Table
from llava.utils import write_text

README_START, README_END = "<!-- results:{name}:start -->", "<!-- results:{name}:end -->"
EXAMPLE = "Example: python -m llava.eval.report --records runs/miniature --out runs/miniature"


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
    head = ("Method", "Tokens", *map(title_of, tasks), "Average", "95% interval", "vs VisionZip")
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


def render_report(rows: Sequence[Row], name: str, over: Sequence[str], publication: Publication | None = None) -> str:
    """The page: table, picture, how to read it, what failed, where it comes from."""
    done = [record for row in rows for record in row.records.values() if record.status == COMPLETE]
    parts = [
        f"# Results: {name}",
        make_table(rows, publication).to_markdown(),
        "![average against visual tokens](accuracy.png)",
        "## How to read it",
        _reading(rows, over),
    ]
    if publication is not None:
        parts.append(_about_published(publication))
    everything = [record for row in rows for record in row.records.values()]
    waiting = [
        f"- `{record.name}`: send `{record.figures['submission']}` to {record.server}, "
        f"then `--server {record.name}=SCORE`"
        for record in everything
        if record.status == ANSWERED
    ]
    if waiting:
        parts += ["## Waiting for a server", "\n".join(waiting)]
    failed = [f"- `{record.name}`: {record.error}" for record in everything if record.status == FAILED]
    if failed:
        parts += ["## Failed", "\n".join(failed)]
    if done:
        parts += ["## Where it comes from", _origin(done)]
    return "\n\n".join(parts) + "\n"


def _reading(rows: Sequence[Row], over: Sequence[str]) -> str:
    columns = []
    for task in tasks_of(rows):
        record = next((found for row in rows if (found := complete(row, task))), None)
        asked = "not measured" if record is None else f"{record.n} questions"
        limit = (record.inputs.get("settings") or {}).get("limit") if record else None
        metric = f"{BENCHMARKS[task].metric}; " if task in BENCHMARKS else "by lmms-eval; "
        columns.append(f"{title_of(task)} ({metric}{asked}{f', the first {limit} only' if limit else ''})")
    guests = ", ".join(dict.fromkeys(row.guest for row in rows if row.guest))
    served = [one for row in rows for one in row.records.values() if one.status == COMPLETE and one.server]
    sources = "; ".join(dict.fromkeys(f"{title_of(one.task)} by {one.server}" for one in served))
    return (
        f"- Columns: {'; '.join(columns)}.\n"
        "- *Tokens*: visual tokens that entered the language model, counted at its input, mean over all images.\n"
        "- *Average*: mean over exactly these benchmarks of figure / dense figure: "
        f"{', '.join(map(title_of, over))}. A row that lacks one has no average.\n"
        f"- *95% interval*: bootstrap over pictures ({DRAWS} draws), dense drawn along.\n"
        "- *vs VisionZip*: difference of the averages at the same budget in points, with the interval of the paired "
        "bootstrap; an interval without 0 is a difference these questions can show. It says nothing about another "
        "training run.\n"
        "- VisionZip‡: projector tuned with the compressor in place. The other methods keep as many tokens in simpler "
        "ways, untuned: they are the controls. Scoring follows the benchmarks' official rules, faults included."
        + (f"\n- Rows of {guests}: another model, asked the same; relative to the dense row." if guests else "")
        + (f"\n- {ENTERED}, so without items and interval: {sources}." if served else "")
    )


def _about_published(publication: Publication) -> str:
    table = publication.table
    lines = [
        f"- *published* rows are not ours: {table.source}. Their average is taken anew over the same benchmarks as "
        "ours, and is left out where they lack one.",
        f"- *vs published*: our average minus that, in points; pass within {publication.tolerance:g}, and no figure of "
        f"the set more than {FIGURE_TOLERANCE:g}% from the published one.",
    ]
    notes = {beside.title: beside.row.note for beside in publication.cells.values() if beside.row.note}
    return "\n".join([*lines, *(f"- {title} ({publication.table.title}): {note}" for title, note in notes.items())])


def _origin(done: Sequence[Record]) -> str:
    """The stamp of the first record, and how many others differ from it in commit."""
    stamp = done[0].stamp
    versions = ", ".join(f"{key} {value}" for key, value in (stamp.get("versions") or {}).items())
    other = sum(record.stamp.get("commit") != stamp.get("commit") for record in done)
    return (
        f"Commit `{stamp.get('commit')}`{' with local changes' if stamp.get('dirty') else ''}"
        f"{f' ({other} of {len(done)} records are of other commits)' if other else ''}, {stamp.get('date')}, "
        f"{stamp.get('device')}, {stamp.get('dtype')}, python {stamp.get('python')}, {versions}.\n\n"
        f"    {stamp.get('command')}"
    )


def update_readme(readme: Path, name: str, content: str) -> None:
    """Replace what stands between the markers of `name`.

    Raises:
        ValueError: no such file, or not exactly one pair of markers.
    """
    start, end = README_START.format(name=name), README_END.format(name=name)
    if not readme.is_file():
        raise ValueError(f"{readme}: expected a file with the markers {start} and {end}, found nothing there")
    text = readme.read_text(encoding="utf-8")
    if text.count(start) != 1 or text.count(end) != 1 or text.index(start) > text.index(end):
        raise ValueError(f"{readme}: expected one {start} and after it one {end}")
    before, rest = text.split(start)
    write_text(readme, f"{before}{start}\n{content.strip()}\n{end}{rest.split(end)[1]}")


def draw(rows: Sequence[Row], path: Path, name: str) -> None:
    """Write the picture of all rows with an average. matplotlib is imported here only."""
    from llava.eval.plot import Point, draw_accuracy

    points = [
        (row, Point(row.title if row.guest else row.method, row.title, row.tokens, row.relative, row.bounds))
        for row in rows
        if row.tokens is not None and row.relative is not None
    ]
    dense = next((point for row, point in points if row.is_dense), None)
    draw_accuracy([point for row, point in points if not row.is_dense], dense, path, f"{name}: accuracy kept")


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


def collect(folders: Sequence[Path]) -> list[Measured]:
    """Every record of the folders, with its items.

    Raises:
        ValueError: a folder without records, or a malformed file.
    """
    return [
        Measured(
            record,
            read_items(folder, record.cell, record.task),
            source=record_file(folder, record.cell, record.task),
        )
        for folder in folders
        for record in read_records(folder)
    ]


def collect_guests(others: Sequence[str]) -> list[Measured]:
    """Records of other models, from NAME=FOLDER each; their cells carry the name.

    Raises:
        ValueError: not of that form, or see `collect`.
    """
    found = []
    for other in others:
        name, _, folder = other.partition("=")
        if not name or not folder:
            raise ValueError(f"--other: expected NAME=FOLDER, the model's name and its records; got {other!r}")
        for one in collect([Path(folder)]):
            found.append(replace(one, record=replace(one.record, cell=f"{name}: {one.record.cell}"), guest=name))
    return found


def declared(measured: Sequence[Measured], over: Sequence[str], of_grid: Sequence[str] = ()) -> list[str]:
    """The benchmarks of the average: those named, else those the grid declares, else all there are a record of.

    Raises:
        ValueError: a name no record has.
    """
    present = dict.fromkeys(one.record.task for one in measured)
    unknown = [task for task in over if task not in present]
    if unknown:
        raise ValueError(f"--over {unknown[0]}: no record of it; there are {', '.join(present)}")
    return list(over or of_grid or present)


def main(
    out: Annotated[Path, typer.Option(help="folder for the tables, report.md and accuracy.png")],
    records: Annotated[list[Path] | None, typer.Option(help="folder the grid wrote to; repeatable")] = None,
    grid: Annotated[
        Path | None, typer.Option(help="configs/eval/*.yaml to take name, --over, --published from")
    ] = None,
    name: Annotated[str | None, typer.Option(help="name of the results; default: the folder's")] = None,
    over: Annotated[list[str] | None, typer.Option(help="benchmark of the average; repeatable; default: all")] = None,
    lmms: Annotated[list[Path] | None, typer.Option(help="output folder of lmms-eval; repeatable")] = None,
    other: Annotated[
        list[str] | None, typer.Option(help="NAME=FOLDER: another model's records, relative to this dense; repeatable")
    ] = None,
    published: Annotated[Path | None, typer.Option(help="configs/paper/*.yaml to show beside")] = None,
    server: Annotated[
        list[str] | None, typer.Option(help="CELL/BENCHMARK=SCORE that a server gave, kept in the record; repeatable")
    ] = None,
    tolerance: Annotated[float, typer.Option(help="points our average may differ from the published one")] = 1.5,
    strict: Annotated[bool, typer.Option("--strict", help="exit status 1 if a record failed")] = False,
    update_readme_file: Annotated[
        Path | None, typer.Option("--update-readme", help="README whose results block is replaced")
    ] = None,
) -> None:
    """Render records as a table, a page and a picture."""
    try:
        config = None if grid is None else read_config(grid)
        if config is not None:
            published = published or (Path(config.published) if config.published else None)
        folders = [*(records or []), *(lmms or [])]
        if not folders:
            raise ValueError("nothing to report: give --records or --lmms")
        for score in server or []:
            enter_score(records or [], score)
        title = name or (config.name if config else folders[0].resolve().name)
        measured = collect(records or []) + read_measured(lmms or []) + collect_guests(other or [])
        chosen = declared(measured, over or [], config.average_over if config else ())
        rows = build_rows(measured, chosen)
        publication = None
        if published is not None:
            paper = read_published(published)
            publication = Publication(stand_beside(rows, paper, chosen), tolerance, paper)
        table = make_table(rows, publication)
        for suffix, text in (("md", table.to_markdown()), ("csv", table.to_csv()), ("tex", table.to_latex())):
            write_text(out / f"table.{suffix}", text)
        write_text(out / "report.md", render_report(rows, title, chosen, publication))
        draw(rows, out / "accuracy.png", title)
        if update_readme_file is not None:
            picture = os.path.relpath(out / "accuracy.png", update_readme_file.parent)
            page = os.path.relpath(out / "report.md", update_readme_file.parent)
            shown = f"![average against visual tokens]({picture})\n\nHow to read it: [{page}]({page})."
            update_readme(update_readme_file, title, f"{table.to_markdown()}\n{shown}")
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    typer.echo(table.to_markdown())
    typer.echo(f"wrote table.md, table.csv, table.tex, report.md and accuracy.png to {out}")
    if strict and any(one.record.status == FAILED for one in measured):
        raise typer.Exit(1)


app = typer.Typer(add_completion=False, rich_markup_mode=None)
app.command(epilog=EXAMPLE)(main)

if __name__ == "__main__":
    app()
