"""From records to a table, a page and a picture.

    python -m llava.eval.report --records results/miniature --out results/miniature --update-readme README.md

Writes table.md, table.csv and table.tex (the table alone), report.md and accuracy.png, where there is something to
draw; with --update-readme also the
text between the two markers of a README, with --server the scores that a server gave into their records.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from llava.eval.beside import stand_beside
from llava.eval.cells import FAILED, read_items, read_records, record_file
from llava.eval.compare import Measured, Row, build_rows, why_no_average
from llava.eval.grid_config import read_config
from llava.eval.lmms_records import read_measured
from llava.eval.published import read_published
from llava.eval.results_page import PICTURE, render_report
from llava.eval.results_table import Publication, make_table, parts_of, tasks_of, title_of
from llava.eval.server_scores import enter_score
from llava.eval.table import Table
from llava.utils import write_text

README_START, README_END = "<!-- results:{name}:start -->", "<!-- results:{name}:end -->"
PNG = "accuracy.png"
EXAMPLE = "Example: python -m llava.eval.report --records runs/miniature --out runs/miniature"


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


def _readme_block(table: Table, out: Path, picture: str | None, folder: Path) -> str:
    """Table, picture and where the page is, seen from the README's folder."""
    page = os.path.relpath(out / "report.md", folder)
    drawn = [] if picture is None else [PICTURE.format(os.path.relpath(out / picture, folder))]
    return "\n\n".join([table.to_markdown().rstrip("\n"), *drawn, f"How to read it: [{page}]({page})."])


def draw(rows: Sequence[Row], path: Path, name: str) -> bool:
    """Write the picture of all rows with an average; matplotlib is imported here only. -> False where there is none
    beside the dense row: then there is no picture, nor one of a former run."""
    from llava.eval.plot import Point, draw_accuracy

    points = [
        (
            row,
            Point(row.title if row.guest or row.split else row.method, row.title, row.tokens, row.relative, row.bounds),
        )
        for row in rows
        if row.tokens is not None and row.relative is not None
    ]
    if all(row.is_dense for row, _ in points):
        path.unlink(missing_ok=True)
        return False
    dense = next((point for row, point in points if row.is_dense), None)
    caption = f"{name}: accuracy kept" + _asked_in_part(rows)
    draw_accuracy([point for row, point in points if not row.is_dense], dense, path, caption)
    return True


def _asked_in_part(rows: Sequence[Row]) -> str:
    """A second line of the caption: what was asked, where that is not all questions."""
    parts = parts_of(rows)
    if not parts:
        return ""
    if len(set(parts.values())) == 1 and parts.keys() == set(tasks_of(rows)):
        return f"\nonly the {next(iter(parts.values()))} questions of each benchmark"
    return f"\nonly {', '.join(f'the {part} questions of {title_of(task)}' for task, part in parts.items())}"


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
        picture = PNG if draw(rows, out / PNG, title) else None
        write_text(out / "report.md", render_report(rows, title, chosen, publication, picture))
        if update_readme_file is not None:
            update_readme(update_readme_file, title, _readme_block(table, out, picture, update_readme_file.parent))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    typer.echo(table.to_markdown())
    if (reason := why_no_average(rows, chosen)) is not None:
        typer.echo(reason)
    drawn = "and accuracy.png" if picture else "(no picture: no row beside the dense one has an average)"
    typer.echo(f"wrote table.md, table.csv, table.tex, report.md {drawn} to {out}")
    if strict and any(one.record.status == FAILED for one in measured):
        raise typer.Exit(1)


app = typer.Typer(add_completion=False, rich_markup_mode=None)
app.command(epilog=EXAMPLE)(main)

if __name__ == "__main__":
    app()
