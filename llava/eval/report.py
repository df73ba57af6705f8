"""From the records of a grid to a table, a page and a picture.

    python -m llava.eval.report --records results/miniature --out results/miniature --update-readme README.md

Writes table.md (the table alone), report.md and accuracy.png; with --update-readme also the text between the two
markers of a README.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from llava.eval.bootstrap import DRAWS
from llava.eval.cells import COMPLETE, Record, read_records
from llava.eval.compare import Row, build_rows, total_of
from llava.eval.records import write_text

TITLES: Mapping[str, str] = {
    "gqa": "GQA",
    "pope": "POPE",
    "vqav2": "VQAv2",
    "textvqa": "TextVQA",
    "mme": "MME",
    "mmbench": "MMBench",
    "seed": "SEED",
    "sqa": "SQA",
}
README_START, README_END = "<!-- results:{name}:start -->", "<!-- results:{name}:end -->"


def render_table(rows: Sequence[Row]) -> str:
    """The Markdown table: methods down, tasks across, percent."""
    tasks = _tasks(rows)
    head = ["Method", "Tokens", *(TITLES.get(task, task) for task in tasks)]
    head += ["Average", "95% interval", "of dense", "vs VisionZip"]
    lines = [_line(head), _line(["---", *["---:"] * (len(head) - 1)])]
    dense = next((row.record for row in rows if row.record.budget is None), None)
    budget: int | None = None
    for row in rows:
        total = total_of(row.record)
        if total != budget and total is not None:
            lines.append(_line([_budget_title(row.record, dense), *[""] * (len(head) - 1)]))
        budget = total
        lines.append(_line(_cells(row, tasks)))
    return "\n".join(lines) + "\n"


def render_report(rows: Sequence[Row], name: str) -> str:
    """The page: table, picture, how to read it, where it comes from."""
    done = [row.record for row in rows if row.record.status == COMPLETE]
    tasks = _tasks(rows)
    counts = ", ".join(f"{TITLES.get(task, task)} {done[0].tasks[task]['n']}" for task in tasks) if done else "none"
    limit = (done[0].inputs.get("settings") or {}).get("limit") if done else None
    limited = f" Only the first {limit} questions of each task were asked." if limit else ""
    failed = [f"- `{row.record.cell}`: {row.record.error}" for row in rows if row.record.status != COMPLETE]
    stamp = done[0].stamp if done else {}
    versions = ", ".join(f"{key} {value}" for key, value in (stamp.get("versions") or {}).items())
    parts = [
        f"# Results: {name}",
        render_table(rows),
        "![accuracy against visual tokens](accuracy.png)",
        "## How to read it",
        f"- Figures are accuracies in percent on {len(tasks)} tasks (questions asked: {counts}).{limited}\n"
        "- *Tokens*: visual tokens that entered the language model, counted at its input, mean over all images.\n"
        f"- *Average*: mean over exactly these tasks: {', '.join(TITLES.get(task, task) for task in tasks)}.\n"
        f"- *95% interval*: bootstrap over pictures ({DRAWS} draws). *vs VisionZip*: difference of the averages at the "
        "same budget in points, with the interval of the paired bootstrap; an interval without 0 is a difference these "
        "questions can show. It says nothing about another training run.\n"
        "- *of dense*: mean over tasks of accuracy / dense accuracy.\n"
        "- VisionZip‡: projector tuned with the compressor in place. random, uniform, pool: other ways to keep as many "
        "tokens, untuned. Scoring follows the benchmarks' official rules, faults included.",
    ]
    if failed:
        parts += ["## Failed cells", "\n".join(failed)]
    parts += [
        "## Where it comes from",
        f"Commit `{stamp.get('commit')}`{' with local changes' if stamp.get('dirty') else ''}, {stamp.get('date')}, "
        f"{stamp.get('device')}, {stamp.get('dtype')}, python {stamp.get('python')}, {versions}.\n\n"
        f"    {stamp.get('command')}\n",
    ]
    return "\n\n".join(parts)


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
    """Write the picture of all complete cells. matplotlib is imported here only."""
    from llava.eval.plot import Point, draw_accuracy

    points = [
        (row.record, Point(row.record.method, row.title, row.record.tokens_per_image, row.record.average, row.bounds))
        for row in rows
        if row.record.tokens_per_image is not None and row.record.average is not None
    ]
    dense = next((point for record, point in points if record.budget is None), None)
    draw_accuracy(
        [point for record, point in points if record.budget is not None], dense, path, f"{name}: accuracy kept"
    )


def _tasks(rows: Sequence[Row]) -> list[str]:
    present = next((list(row.record.tasks) for row in rows if row.record.status == COMPLETE), [])
    known = [task for task in TITLES if task in present]
    return known + [task for task in present if task not in known]


def _budget_title(record: Record, dense: Record | None) -> str:
    total = total_of(record)
    if dense is None or not dense.tokens_per_image or total is None:
        return f"**{total} tokens**"
    return f"**{total} tokens ({100 * total / dense.tokens_per_image:.0f}%)**"


def _cells(row: Row, tasks: Sequence[str]) -> list[str]:
    record = row.record
    if record.status != COMPLETE or record.average is None:
        return [row.title, "failed", *["-"] * (len(tasks) + 4)]
    tokens = "-" if record.tokens_per_image is None else f"{record.tokens_per_image:.1f}".removesuffix(".0")
    bounds = "-" if row.bounds is None else f"{row.bounds[0]:.1f} to {row.bounds[1]:.1f}"
    relative = "-" if row.relative is None else f"{row.relative:.1f}%"
    gap = row.difference
    difference = "-" if gap is None else f"{gap[0]:+.1f} [{gap[1]:+.1f}, {gap[2]:+.1f}]"
    figures = [f"{record.tasks[task]['accuracy']:.1f}" for task in tasks]
    return [row.title, tokens, *figures, f"{record.average:.1f}", bounds, relative, difference]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main(
    records: Annotated[Path, typer.Option(help="folder the grid wrote to")],
    out: Annotated[Path, typer.Option(help="folder for table.md, report.md and accuracy.png")],
    name: Annotated[str | None, typer.Option(help="name of the results; default: the folder's")] = None,
    update_readme_file: Annotated[
        Path | None, typer.Option("--update-readme", help="README whose results block is replaced")
    ] = None,
) -> None:
    """Render the records of a grid."""
    title = name or records.resolve().name
    try:
        rows = build_rows(read_records(records), records)
        table = render_table(rows)
        write_text(out / "table.md", table)
        write_text(out / "report.md", render_report(rows, title))
        draw(rows, out / "accuracy.png", title)
        if update_readme_file is not None:
            picture = os.path.relpath(out / "accuracy.png", update_readme_file.parent)
            page = os.path.relpath(out / "report.md", update_readme_file.parent)
            block = f"{table}\n![accuracy against visual tokens]({picture})\n\nHow to read it: [{page}]({page})."
            update_readme(update_readme_file, title, block)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    typer.echo(table)
    typer.echo(f"wrote {out / 'table.md'}, {out / 'report.md'}, {out / 'accuracy.png'}")


if __name__ == "__main__":
    typer.run(main)
