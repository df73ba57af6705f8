"""Speed of one record and accuracy of another, joined by method and budget."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llava.bench.sheet import Record

TUNED = "VisionZip‡"


@dataclass(frozen=True)
class Joined:
    """points: (method, budget, speed-up to the first token, accuracy in per cent of dense). left_out: rows of one side
    without the other, by name."""

    points: Sequence[tuple[str, int, float, float]]
    left_out: Sequence[str]


def join(record: Record, table: Path) -> Joined:
    """A latency record on the path `plain` with a table of `visionzip eval report`, both of one model.

    The tuned model's speed is VisionZip's: the same tokens go the same way.

    Raises: ValueError when the table cannot be read or has not its columns.
    """
    try:
        with table.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except OSError as error:
        raise ValueError(f"{table}: no table of accuracies: {error}") from error
    if not rows or not {"Method", "Tokens", "Average"} <= rows[0].keys():
        raise ValueError(f"{table}: expected the columns Method, Tokens and Average of visionzip eval report")
    speeds = {
        (row["method"], sum(row["budget"])): row["speedup_first"]["median"]
        for row in record["cases"]
        if row["path"] == "plain" and row["budget"] is not None
    }
    points, without = [], []
    wanted = set(speeds)
    for row in rows:
        title, average = row["Method"], row["Average"]
        if title == "dense":
            continue
        method, budget = "visionzip" if title == TUNED else title.lower(), int(row["Tokens"])
        if (method, budget) not in speeds or not average.endswith("%"):
            without.append(f"{title} {budget}")
            continue
        wanted.discard((method, budget))
        named = "visionzip-tuned" if title == TUNED else method
        points.append((named, budget, speeds[method, budget], float(average.removesuffix("%"))))
    return Joined(points, [*without, *(f"{method} {budget}" for method, budget in sorted(wanted))])
