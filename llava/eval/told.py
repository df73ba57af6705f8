"""How a benchmark's record is told in the terminal.

The figure with what it counts, one line of the benchmark's own figures, where the record lies and what makes a table of
it. The record itself holds all figures, unrounded.
"""

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llava.eval.cells import ANSWERED, Record, record_file
from llava.eval.records import told_tokens
from llava.eval.tasks.base import Benchmark
from llava.eval.tasks.pope import CATEGORIES

Figures = Mapping[str, Any]


def tell(benchmark: Benchmark, record: Record, out: Path) -> list[str]:
    """The last lines of a run, headline first.

    Args:
        record: complete, or answered where a server scores.
        out: the folder it was written to.
    """
    tokens = told_tokens(record.tokens_per_image)
    if record.status == ANSWERED:
        lines = [
            f"{benchmark.title}: answered (scored by {record.server}; {record.n} questions, {tokens})",
            f"  send it {record.figures['submission']}, then add its figure to the last line: "
            f"--server {record.name}=SCORE",
        ]
    else:
        what, counted = _metric(benchmark, record.figures), _counted(record)
        lines = [f"{benchmark.title}: {record.headline:.2f} ({what}; {counted}, {tokens})"]
        own = {} if record.task not in _OWN else _OWN[record.task](record.figures)
        if own:
            lines.append("  " + ", ".join(f"{label} {value:.2f}" for label, value in own.items()))
    folder, table = (shlex.quote(path.as_posix()) for path in (out, out / "report"))
    return [
        *lines,
        f"record: {record_file(out, record.cell, record.task)}",
        f"table: visionzip eval report --records {folder} --out {table}",
    ]


def _metric(benchmark: Benchmark, figures: Figures) -> str:
    """What the headline is; POPE's is a mean over three kinds, of which a limited run may hold one."""
    if benchmark.name == "pope":
        asked = [name for name in CATEGORIES if name in figures["categories"]]
        missing = [name for name in CATEGORIES if name not in asked]
        if asked and missing:
            mean = "mean F1" if len(asked) > 1 else "F1"
            return f"{mean} over {' and '.join(asked)} alone, no {' and no '.join(missing)} among the questions"
    judge = figures.get("judge")
    return f"{benchmark.metric}, judge {judge}" if judge else benchmark.metric


def _counted(record: Record) -> str:
    """The questions the headline is over: not those without a picture (ScienceQA), nor the turned ones (MMBench)."""
    pictured, circular = record.figures.get("n_img"), record.figures.get("n_circular")
    if pictured not in (None, record.n):
        return f"{pictured} of {record.n} questions"
    if circular is not None:
        return f"{circular} questions " + ("without rotations" if circular == record.n else f"in {record.n} rows")
    return f"{record.n} questions"


def _some(figures: Figures, **labels: str) -> dict[str, float]:
    """Those of the figures that are there, by label."""
    return {label: figures[key] for key, label in labels.items() if key in figures}


def _of_pope(figures: Figures) -> dict[str, float]:
    kinds = {f"F1 {name}": one["f1"] for name, one in figures["categories"].items()}
    own = kinds if len(kinds) > 1 else {}  # of one kind it is the headline
    return {**own, **_some(figures, precision="precision", recall="recall", yes_ratio="share of yes")}


def _of_mmbench(figures: Figures) -> dict[str, float]:
    return _some(figures, plain_accuracy="row by row", unreadable="no letter")


# What is worth a line beside the headline, by benchmark; all are percent but MME's points.
_OWN: Mapping[str, Callable[[Figures], dict[str, float]]] = {
    "gqa": lambda found: _some(found, binary="binary", open="open"),
    "mmbench": _of_mmbench,
    "mmbench_cn": _of_mmbench,
    "mme": lambda found: _some(found, perception_score="perception", cognition_score="cognition"),
    "pope": _of_pope,
    "sqa": lambda found: _some(found, total="all questions", text="without a picture", unreadable="no letter"),
    "vqav2": lambda found: dict(found.get("per_answer_type", {})),
    "vizwiz": lambda found: dict(found.get("per_answer_type", {})),
    "seed": lambda found: _some(found, image="images", video="videos", unreadable="no letter"),
    "llavabench": lambda found: dict(found["per_category"]),
    "mmvet": lambda found: dict(found["per_capability"]),
}
