"""A table of a record, once for the terminal and once for a page, and how its cells are written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

Record = Mapping[str, Any]
MEGA = 1e6
SOUND_FIT = 0.9  # R^2 of a power law


@dataclass(frozen=True)
class Sheet:
    """title; columns; rows of as many cells, all text; note: what stands below, the circumstances above all."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            assert len(row) == len(self.columns), f"{self.title}: {len(row)} cells for {len(self.columns)} columns"

    def to_rich(self) -> Table:
        """For the terminal."""
        # As Text: rich takes words in square brackets for styles and leaves them out.
        title, note = Text(self.title, style="bold"), Text(self.note, style="dim")
        table = Table(title=title, caption=note, box=box.SIMPLE, title_justify="left", caption_justify="left")
        for number, column in enumerate(self.columns):
            table.add_column(Text(column), justify="left" if number == 0 else "right", overflow="fold")
        for row in self.rows:
            table.add_row(*map(Text, row))
        return table

    def to_markdown(self) -> str:
        """For a page: title in bold, table, note."""
        rule = ["---", *["---:"] * (len(self.columns) - 1)]
        lines = [f"**{self.title}**", "", *(_line(row) for row in (self.columns, rule, *self.rows))]
        return "\n".join([*lines, *(["", self.note] if self.note else [])])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def spread_cell(spread: Mapping[str, float], digits: int, scale: float = 1.0, unit: str = "") -> str:
    """Median and, in brackets, the 10th and the 90th percentile.

    >>> spread_cell({"median": 0.0123, "p10": 0.012, "p90": 0.0131, "n": 9}, 1, 1e3)
    '12.3 [12.0-13.1]'
    """
    median, low, high = (f"{spread[key] * scale:.{digits}f}" for key in ("median", "p10", "p90"))
    return f"{median}{unit} [{low}-{high}]"


def same_path_cells(rows: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    """A cell a row: speed-up over dense on the row's own path, "-" where that was not measured. Empty where it would
    say what the column of speed-ups says already."""
    paired = [row.get("same_path") for row in rows]
    if len({pair["compared_with"] for pair in paired if pair}) < 2:
        return []
    return ["-" if pair is None else spread_cell(pair[key], 2, unit="x") for pair in paired]


def milliseconds(spread: Mapping[str, float]) -> str:
    """Of seconds, with digits enough for what is short."""
    return spread_cell(spread, 1 if spread["median"] >= 0.01 else 3, 1e3)


def megabytes(count: float) -> str:
    """MB of 10^6 bytes, one decimal below 10."""
    return f"{count / MEGA:.1f}" if count < 10 * MEGA else f"{count / MEGA:.0f}"


def counted(count: int, what: str) -> str:
    """
    >>> counted(1, "tile"), counted(5, "tile")
    ('1 tile', '5 tiles')
    """
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def on_gpu(record: Record) -> bool:
    """Whether its times were taken on a GPU: absolute times of a CPU are shown nowhere."""
    return not str(record["stamp"]["device"]).startswith("cpu")


def circumstances(record: Record, rounds: int | str | None = None, of: str = "") -> str:
    """What stands below every table: model, weights, device, dtype, rounds (and what of, where they differ), commit."""
    stamp, subject = record["stamp"], record["subject"]
    bits = "" if subject["bits"] == 16 else f", language model in {subject['bits']} bits"
    weights = "random weights" if subject["weights"] == "random" else "trained weights"
    counted = [] if rounds is None else [f"{rounds} rounds{of}"]
    commit = stamp["commit"] if " " in stamp["commit"] else stamp["commit"][:12]  # outside a checkout: name and version
    changed = " with local changes" if stamp.get("dirty") else ""
    words = [
        f"{subject['name']}, {weights}",
        f"{subject['layers']} layers of width {subject['width']}{bits}",
        str(stamp["device"]),
        subject["dtype"],
        subject["attention"],
        *counted,
        f"commit {commit}{changed}",
    ]
    return "; ".join(words) + "."
