"""Measured results for manifest and card, out of the records `llava.eval.grid` wrote and nowhere else.

A folder of records holds cells of many checkpoints. Those measured on the weights of the release are told by the sha256
of the weight files they read; the dense cell of the base stands beside them, and the others are counted and left out.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava.model.weight_files import listed, read_json
from llava.release.origin import Hashes, is_weight_file, read_origins

COMPLETE = "complete"
DENSE = "dense"
_TITLES = {"gqa": "GQA", "pope": "POPE", "vqav2": "VQAv2", "textvqa": "TextVQA", "mme": "MME", "mmbench": "MMBench"}
_TITLES |= {"seed": "SEED", "sqa": "SQA"}
OTHER_WEIGHTS, NO_HASH = "measured on other weights", "without the sha256 of the weights they were measured on"

Record = dict[str, Any]


@dataclass(frozen=True)
class Results:
    """What a release says of itself.

    rows: one a cell: method, budget, measured tokens, figures of its tasks, stamp; `of_base` marks the dense base.
    left_out: why -> how many records of the folder are not among them.
    """

    rows: list[dict[str, Any]]
    left_out: dict[str, int]


def read_results(records: Path, release: Path) -> Results:
    """The cells under `records` that were measured on the weights in `release`, and the dense cell of its base.

    Dense cells come first, then the larger budgets. Records that failed stay, as failed.

    Raises:
        ValueError: no records there, a file that is none, or none of these weights.
    """
    found = _read(records)
    own, bases = read_origins(release)
    mine = [record for record in found if _is_of(record, own, bases)]
    if not mine:
        seen = sorted({str((record.get("model") or {}).get("path")) for record in found})
        raise ValueError(
            f"--results {records}: none of its {len(found)} records was measured on the weights in {release}, by the "
            f"sha256 of the weight files (they are of {listed(seen)}). Evaluate these weights with python -m "
            "llava.eval.grid, or leave --results out"
        )
    bases = [*bases, *(weights for record in mine if (weights := _weights(record, "base")))]
    others = [record for record in found if record not in mine]
    reference = [record for record in others if record["method"] == DENSE and _weights(record, "model") in bases]
    unused = [record for record in others if record not in reference]
    left_out = Counter(OTHER_WEIGHTS if _has_hashes(record) else NO_HASH for record in unused)
    rows = [*_rows(reference, of_base=True), *_rows(mine, of_base=False)]
    return Results(sorted(rows, key=lambda row: (-(row["budget"] or 10**9), row["cell"])), dict(left_out))


def render_results(rows: list[dict[str, Any]]) -> str:
    """The Markdown table: cells down, tasks across; where there is a dense row, the mean of figure / dense figure."""
    tasks = list(dict.fromkeys(task for row in rows for task in row["tasks"]))
    tasks = [task for task in _TITLES if task in tasks] + [task for task in tasks if task not in _TITLES]
    whole = next((row for row in rows if row["method"] == DENSE), None)
    dense = {task: figure for task in tasks if whole and (figure := _figure_of(whole, task)) is not None}
    head = ["Method", "Visual tokens", *(_TITLES.get(task, task) for task in tasks), *(["of dense"] if dense else [])]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for row in rows:
        method = f"{row['method']} (base)" if row["of_base"] else row["method"]
        figures = [_shown(row, task) for task in tasks]
        lines.append([method, _figure(row["tokens_per_image"]), *figures, *([_share(row, dense)] if dense else [])])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def _read(folder: Path) -> list[Record]:
    files = sorted((folder / "cells").glob("*/*.json"))
    if not files:
        raise ValueError(
            f"--results {folder}: no records in {folder / 'cells'}; make them with python -m llava.eval.grid"
        )
    return [_record(file) for file in files]


def _record(file: Path) -> Record:
    """The record of one benchmark of a cell."""
    record = read_json(file)
    lost = [key for key in ("cell", "method", "status", "task") if key not in record]
    if lost:
        raise ValueError(f"{file} is no record of an evaluation: it has no {', '.join(lost)}")
    return record


def _weights(record: Record, role: str) -> Hashes:
    """Weight file -> sha256 of a record's model or base; a hub id, which has no files, under the name ''."""
    weights: Mapping[str, str] = (record.get("inputs") or {}).get("weights") or {}
    if role in weights:
        return {"": weights[role]}
    files = {name.partition("/")[2]: value for name, value in weights.items() if name.startswith(f"{role}/")}
    return {name: value for name, value in files.items() if is_weight_file(name)}


def _has_hashes(record: Record) -> bool:
    return any(_weights(record, "model"))


def _is_of(record: Record, own: Iterable[Hashes], bases: list[Hashes]) -> bool:
    """Whether a record was measured on these weights and, where both are known, over this base."""
    base = _weights(record, "base")
    known = bool(bases) and any(base)
    return _has_hashes(record) and _weights(record, "model") in own and (not known or base in bases)


def _rows(records: list[Record], of_base: bool) -> list[dict[str, Any]]:
    cells: dict[str, list[Record]] = {}
    for record in records:
        cells.setdefault(record["cell"], []).append(record)
    return [_row(cell, of_cell, of_base) for cell, of_cell in cells.items()]


def _row(cell: str, records: list[Record], of_base: bool) -> dict[str, Any]:
    first = records[0]
    stamps = [record.get("stamp") or {} for record in records]
    counted = [record for record in records if record.get("tokens_per_image") is not None]
    images = [record.get("images", 1) for record in counted]
    tokens = sum(record["tokens_per_image"] * number for record, number in zip(counted, images, strict=True))
    return {
        "cell": cell,
        "method": first["method"],
        "status": COMPLETE if any(record["status"] == COMPLETE for record in records) else first["status"],
        "of_base": of_base,
        "model": first.get("model"),
        "budget": (first.get("budget") or {}).get("total"),
        "tokens_per_image": tokens / sum(images) if sum(images) else None,
        "tasks": {record["task"]: _task(record) for record in records},
        "commits": sorted({stamp["commit"] for stamp in stamps if stamp.get("commit")}),
        "dates": sorted({stamp["date"] for stamp in stamps if stamp.get("date")}),
    }


def _task(record: Record) -> dict[str, Any]:
    return {
        "figure": record.get("headline") if record["status"] == COMPLETE else None,
        "n": record.get("n", 0),
        "status": record["status"],
    }


def _figure_of(row: Mapping[str, Any], task: str) -> float | None:
    figure: float | None = (row["tasks"].get(task) or {}).get("figure")
    return figure


def _share(row: Mapping[str, Any], dense: Mapping[str, float]) -> str:
    """Mean over the tasks of figure / dense figure, in percent; - where the row lacks one."""
    shares = []
    for task, whole in dense.items():
        figure = _figure_of(row, task)
        if figure is None or not whole:
            return "-"
        shares.append(100 * figure / whole)
    return f"{sum(shares) / len(shares):.1f}%"


def _shown(row: Mapping[str, Any], task: str) -> str:
    status = row["tasks"].get(task, row)["status"]
    return _figure(_figure_of(row, task)) if status == COMPLETE else status


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}".removesuffix(".0")
