"""The paper's figures of speed and memory (configs/paper/), as published, and what the records say beside them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from llava.bench.goals import NEXT_7B, NEXT_13B
from llava.bench.sheet import Record, Sheet, on_gpu

FILES = {
    "speed": "table04_speed_next_7b.yaml",
    "large": "table05_speed_next_13b.yaml",
    "memory": "table16_memory_next_13b.yaml",
}
TILES = 5  # of an image of LLaVA-NeXT: the tables count the tokens of all
MISSING = "not measured"


def published_sheets(folder: Path, records: Sequence[Record]) -> list[Sheet]:
    """Tables 4, 5 and 16/17 beside the GPU records. Raises: ValueError naming a file that is no such table."""
    tables = {name: _read(folder / file) for name, file in FILES.items()}
    gpu = [record for record in records if on_gpu(record)]
    return [_speed(tables["speed"], gpu), _large(tables["large"], gpu), _memory(tables["memory"], gpu)]


def _read(file: Path) -> Mapping[str, Any]:
    try:
        table: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"{file}: no table of published figures: {error}") from error
    if not isinstance(table, Mapping) or not {"title", "table", "source", "rows"} <= table.keys():
        raise ValueError(f"{file}: no table of published figures: expected title, table, source and rows")
    return table


def case_name(method: str, tokens: int) -> str:
    """The case of a published row: its tokens are those of five tiles."""
    return method if method == "dense" else f"{method}-{tokens // TILES}"


def _row(records: Sequence[Record], kind: str, model: str, bits: int, case: str) -> Mapping[str, Any] | None:
    """The first row that fits, one question at a time."""
    for record in records:
        subject = record["subject"]
        if record["kind"] == kind and subject["name"] == model and subject["bits"] == bits:
            rows: list[Mapping[str, Any]] = record["cases"]
            fitting = [row for row in rows if row["case"] == case and row.get("batch", 1) == 1]
            if fitting:
                return fitting[0]
    return None


def _ours(row: Mapping[str, Any] | None, read: Callable[[Mapping[str, Any]], str]) -> str:
    return MISSING if row is None else read(row)


def _note(table: Mapping[str, Any], more: str) -> str:
    doubt = "" if all(row["confirmed"] for row in table["rows"]) else " Figures with ? are not confirmed."
    return f"Published: {table['source'].rstrip('.')}.{doubt} {more}"


def _mark(row: Mapping[str, Any]) -> str:
    return "" if row["confirmed"] else " ?"


def _speed(table: Mapping[str, Any], records: Sequence[Record]) -> Sheet:
    dense, rows = table["rows"][0], []
    for row in table["rows"]:
        case = case_name(row["method"], row["tokens"])
        first, loop = (_row(records, kind, NEXT_7B, 16, case) for kind in ("latency", "throughput"))
        rows.append([
            row["method"],
            str(row["tokens"]),
            f"{row['prefill_time']:g} ms{_mark(row)}",
            f"{dense['prefill_time'] / row['prefill_time']:.1f}x",
            f"{dense['total_time'] / row['total_time']:.1f}x",
            _ours(first, lambda found: f"{found['speedup_first']['median']:.2f}x"),
            _ours(loop, lambda found: f"{found['speedup']['median']:.2f}x"),
        ])
    columns = ["method", "tokens", "published prefill", "published prefill speed-up", "published speed-up on POPE"]
    columns += ["ours: first token, tower included", "ours: many pictures"]
    more = (
        "The published prefill leaves the tower out and was taken on an A800; ours is image to first token on the path "
        "`plain`, so the two are not one quantity."
    )
    return Sheet(f"{table['title']}, beside Table {table['table']}", columns, rows, _note(table, more))


def _large(table: Mapping[str, Any], records: Sequence[Record]) -> Sheet:
    (small,) = (row for row in table["rows"] if "7B" in row.get("model", ""))
    base = _row(records, "throughput", NEXT_7B, 16, "dense")
    rows = []
    for row in table["rows"]:
        model = NEXT_7B if row is small else NEXT_13B
        ours = _row(records, "throughput", model, 16, case_name(row["method"], row["tokens"]))
        rows.append([
            f"{row.get('model', table['model'])} {row['method']}",
            str(row["tokens"]),
            f"{row['total_time']:g} s{_mark(row)}",
            f"{row['total_time'] / small['total_time']:.2f}",
            MISSING
            if ours is None or base is None
            else f"{ours['seconds_per_question']['median'] / base['seconds_per_question']['median']:.2f}",
        ])
    columns = ["model", "tokens", "published time of TextVQA", "published, times 7B dense", "ours: times 7B dense"]
    note = _note(table, "Ours: many pictures, short answers, path `plain`.")
    return Sheet(f"{table['title']}, beside Table {table['table']}", columns, rows, note)


def _memory(table: Mapping[str, Any], records: Sequence[Record]) -> Sheet:
    rows = []
    for row in table["rows"]:
        name = row.get("model", table["model"])
        model = NEXT_7B if "7B" in name else NEXT_13B
        bits = next((count for count in (8, 4) if f"{count} bit" in name), 16)
        ours = _row(records, "memory", model, bits, case_name(row["method"], row["tokens"]))
        rows.append([
            f"{name} {row['method']}",
            str(row["tokens"]),
            f"{row['memory']} MB",
            _ours(ours, lambda found: f"{found['peak_bytes'] / 1e6:.0f} MB"),
        ])
    columns = ["model", "tokens", "published memory", "ours: peak"]
    more = "What the published figure counts is not said; ours is the peak of what is allocated, weights included."
    note = f"Published: {table['source'].rstrip('.')}. {more}"
    return Sheet(f"{table['title']}, beside Tables {table['table']}", columns, rows, note)
