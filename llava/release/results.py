"""Measured results for manifest and card, out of the records `llava.eval.grid` wrote and nowhere else."""

from pathlib import Path
from typing import Any

from llava.model.weight_files import read_json

COMPLETE = "complete"
_TITLES = {"gqa": "GQA", "pope": "POPE", "vqav2": "VQAv2", "textvqa": "TextVQA", "mme": "MME", "mmbench": "MMBench"}
_TITLES |= {"seed": "SEED", "sqa": "SQA"}


def read_results(folder: Path) -> list[dict[str, Any]]:
    """What a release says of each cell under `folder`: method, budget, measured tokens, accuracies, and its stamp.

    Dense cells come first, then the larger budgets. Cells that failed stay, as failed.

    Raises:
        ValueError: no records there, or a file that is none.
    """
    files = sorted((folder / "cells").glob("*.json"))
    if not files:
        raise ValueError(
            f"--results {folder}: no records in {folder / 'cells'}; make them with python -m llava.eval.grid"
        )
    rows = [_row(file) for file in files]
    return sorted(rows, key=lambda row: (-(row["budget"] or 10**9), row["cell"]))


def render_results(rows: list[dict[str, Any]]) -> str:
    """The Markdown table: cells down, tasks across, accuracies in percent."""
    tasks = list(dict.fromkeys(task for row in rows for task in row["tasks"]))
    tasks = [task for task in _TITLES if task in tasks] + [task for task in tasks if task not in _TITLES]
    head = ["Method", "Visual tokens", *(_TITLES.get(task, task) for task in tasks), "Average"]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for row in rows:
        figures = [_figure(row["tasks"].get(task, {}).get("accuracy")) for task in tasks]
        if row["status"] != COMPLETE:
            figures = ["failed"] * len(tasks)
        lines.append([row["method"], _figure(row["tokens_per_image"]), *figures, _figure(row["average"])])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def _row(file: Path) -> dict[str, Any]:
    record = read_json(file)
    lost = [key for key in ("cell", "method", "status", "tasks", "average") if key not in record]
    if lost:
        raise ValueError(f"{file} is no record of an evaluation: it has no {', '.join(lost)}")
    stamp = record.get("stamp") or {}
    return {
        "cell": record["cell"],
        "method": record["method"],
        "status": record["status"],
        "model": record.get("model"),
        "budget": (record.get("budget") or {}).get("total"),
        "tokens_per_image": record.get("tokens_per_image"),
        "tasks": {name: {"accuracy": task["accuracy"], "n": task["n"]} for name, task in record["tasks"].items()},
        "average": record["average"],
        "commit": stamp.get("commit"),
        "date": stamp.get("date"),
    }


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}".removesuffix(".0")
