"""Tables of docs/training.md from the records in results/.

    python -m llava.bench.report --results results --page docs/training.md

The page holds markers `<!-- train-speed:start -->` ... `<!-- train-speed:end -->` and the same with `plan-memory`; what
lies between them is rewritten.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(help=__doc__, rich_markup_mode=None)


def speed_table(record: Mapping[str, Any]) -> str:
    """Markdown of one train_speed record. Absolute speed is shown for a GPU only."""
    gpu = not str(record["stamp"]["device"]).startswith("cpu")
    head = ["variant", *(["rows/s"] if gpu else []), "speed-up", "peak memory, MB"]
    lines = [_row(head), _row("---" for _ in head)]
    for row in record["variants"]:
        speed = [f"{row['rows_per_second']:.1f}"] if gpu else []
        lines.append(_row([row["name"], *speed, f"{row['speedup']:.2f}x", f"{row['peak_bytes'] / 1e6:.0f}"]))
    stamp = record["stamp"]
    lines += [
        "",
        f"{record['rounds']} rounds of {record['micro_batches']} micro-batches "
        f"of {record['rows_per_micro_batch']} rows, "
        f"{stamp['device']}, {stamp['dtype']}; memory: {record['peak_is']}; commit {stamp['commit'][:12]}.",
    ]
    return "\n".join(lines)


def memory_table(record: Mapping[str, Any]) -> str:
    """Markdown of one memory_check record."""
    head = ["model", "rows x tokens", "checkpointing", "estimated, GB", "counted, GB", "estimated / counted"]
    lines = [_row(head), _row("---" for _ in head)]
    for row in record["cases"]:
        sizes = [f"{row[key] / 1e9:.2f}" for key in ("estimated_bytes", "counted_bytes")]
        switch = "on" if row["checkpointing"] else "off"
        lines.append(_row([row["model"], f"{row['rows']} x {row['tokens']}", switch, *sizes, f"{row['ratio']:.2f}"]))
    return "\n".join([*lines, "", f"Commit {record['stamp']['commit'][:12]}; no GPU was used."])


def _row(cells: Sequence[str] | Any) -> str:
    return "| " + " | ".join(cells) + " |"


def fill(page: str, name: str, table: str) -> str:
    """The page with a table between its markers. Raises: ValueError when they are not there once each."""
    start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    if page.count(start) != 1 or page.count(end) != 1:
        raise ValueError(f"the page must hold {start} and {end} once each")
    return re.sub(
        f"{re.escape(start)}.*?{re.escape(end)}", lambda _: f"{start}\n{table}\n{end}", page, count=1, flags=re.DOTALL
    )


def render(page: str, results: Path) -> str:
    """The page with both tables as the records say. Raises: ValueError when a record is missing."""
    tables = {
        "train-speed": (results / "train_speed" / "miniature.json", speed_table),
        "plan-memory": (results / "memory" / "plan.json", memory_table),
    }
    for name, (file, table) in tables.items():
        if not file.is_file():
            raise ValueError(f"{file} is missing; llava.bench.train_speed and llava.bench.memory_check write records")
        page = fill(page, name, table(json.loads(file.read_text(encoding="utf-8"))))
    return page


@app.command()
def report(
    results: Annotated[Path, typer.Option(help="Folder of the records.")] = Path("results"),
    page: Annotated[Path, typer.Option(help="Page to rewrite.")] = Path("docs/training.md"),
) -> None:
    """Rewrite the tables of a page. Example: python -m llava.bench.report --page docs/training.md"""
    page.write_text(render(page.read_text(encoding="utf-8"), results), encoding="utf-8")
    typer.echo(f"{page}: tables of {results}")


if __name__ == "__main__":
    app()
