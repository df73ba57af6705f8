"""Pictures of records: where time goes, time against tokens, growth, and speed against accuracy."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from llava.bench.sheet import SOUND_FIT, Record, on_gpu
from llava.bench.show_latency import REST, stage_names, stages_of

# Colours that stay apart for the colour-blind; a marker each, so that the picture works in grey too.
STYLES = {
    "dense": ("#000000", "*"),
    "visionzip": ("#0072b2", "o"),
    "visionzip-tuned": ("#d55e00", "D"),
    "fastv": ("#56b4e9", "<"),
    "sparsevlm": ("#b8860b", ">"),
    "pool": ("#009e73", "s"),
    "downsample": ("#e69f00", "P"),
    "uniform": ("#cc79a7", "^"),
    "random": ("#7f7f7f", "v"),
}
TITLES = {"visionzip": "VisionZip", "visionzip-tuned": "VisionZip‡", "fastv": "FastV", "sparsevlm": "SparseVLM"}
_PREFILL, _UNSPLIT = "prefill and the rest", "all, not split"
_STAGE_COLOURS = {
    "encode": "#4a4ac0",
    "vision": "#0072b2",
    "score": "#d55e00",
    "merge": "#e69f00",
    "project": "#009e73",
    "pack": "#cc79a7",
    "splice": "#f0e442",
    "prefill": "#56b4e9",
    _PREFILL: "#a6d5f0",
    _UNSPLIT: "#8c8c8c",
    REST: "#d0d0d0",
}
_PATHS = {
    "plain": ("-", "full"),
    "lean": ((0, (5, 1, 1, 1, 1, 1)), "right"),
    "fast": ("--", "none"),
    "compiled": (":", "left"),
    "official": ("-.", "top"),
}


@dataclass(frozen=True)
class Point:
    """A method at a budget. speedup: to the first token. accuracy: in per cent of dense."""

    method: str
    budget: int
    speedup: float
    accuracy: float


def _new(width: float, height: float, panels: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(1, panels, squeeze=False)[0])
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})


def _subject(record: Record) -> str:
    device = record["stamp"]["device"] if on_gpu(record) else "CPU"
    bits = "" if record["subject"]["bits"] == 16 else f", {record['subject']['bits']} bits"
    return f"{record['subject']['name']}{bits}, {device}, {record['subject']['dtype']}"


def draw_stages(record: Record, path: Path) -> None:
    """A bar a case, its parts the stages to the first token: ms on a GPU, per cent of the first case's on a CPU."""
    cases, names = record["cases"], stage_names(record["cases"])
    scale = 1e3 if on_gpu(record) else 100 / cases[0]["first"]["total"]["median"]
    figure, (axes,) = _new(7.6, 1.5 + 0.28 * len(cases))
    places = list(range(len(cases)))
    left = [0.0] * len(cases)
    shares = [_split(stages_of(row)) for row in cases]
    for name in (*names[:-1], _PREFILL, _UNSPLIT, REST):
        widths = [max(0.0, own.get(name, 0.0)) * scale for own in shares]
        if any(widths):
            colour = _STAGE_COLOURS.get(name, "#6a3d9a")
            axes.barh(places, widths, left=left, height=0.7, color=colour, label=name)
        left = [begin + width for begin, width in zip(left, widths, strict=True)]
    widest = max(left)
    for place, row in zip(places, cases, strict=True):
        total = row["first"]["total"]["median"] * scale
        label = f"{total:.1f}" if total < 100 else f"{total:.0f}"
        axes.text(left[place] + 0.01 * widest, place, label, va="center", fontsize=8)
    axes.set_yticks(places, [row["case"] for row in cases], fontsize=8)
    axes.set_ylim(len(cases) - 0.5, -0.5)
    axes.set_xlim(0, 1.08 * widest)
    unit = "ms" if on_gpu(record) else f"% of {record['compared_with']}"
    axes.set_xlabel(f"time to the first token, {unit}")
    axes.set_title(_subject(record), fontsize=10)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    _save(figure, path)


def _split(stages: dict[str, float]) -> dict[str, float]:
    """The rest under the name of what it holds: a case need not name its prefill, nor its tower."""
    rest = _UNSPLIT if not {"vision", "encode"} & stages.keys() else REST if "prefill" in stages else _PREFILL
    return {rest if name == REST else name: own for name, own in stages.items()}


def draw_tokens(record: Record, path: Path) -> None:
    """Time to the first token against visual tokens (mean over layers, logarithmic); a line a method and path."""
    gpu, cases = on_gpu(record), record["cases"]
    scale = 1e3 if gpu else 1 / cases[0]["first"]["total"]["median"]
    groups: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in cases:
        point = (row["visual_tokens_per_layer"], row["first"]["total"]["median"] * scale)
        groups.setdefault((row["method"], row["path"]), []).append(point)
    figure, (axes,) = _new(7.2, 4.2)
    for (method, way), points in groups.items():
        colour, marker = STYLES.get(method, ("#6a3d9a", "x"))
        label = TITLES.get(method, method) + ("" if way == "plain" else f" {way}")
        dashes, fill = _PATHS[way]
        line: Any = {"color": colour, "linestyle": dashes, "linewidth": 1.2, "label": label}
        size = 9 if method == "dense" else 6
        axes.plot(*zip(*sorted(points), strict=True), **line, marker=marker, markersize=size, fillstyle=fill)
    axes.set_xscale("log", base=2)
    _plain_ticks(axes, [x for points in groups.values() for x, _ in points])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("visual tokens in a layer, mean (logarithmic)")
    axes.set_ylabel("time to the first token, " + ("ms" if gpu else f"{record['compared_with']} = 1"))
    axes.grid(alpha=0.25)
    axes.set_title(_subject(record), fontsize=10)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    _save(figure, path)


def _plain_ticks(axes: Axes, values: Sequence[float]) -> None:
    """Ticks below at values that occur, those left out that would touch their left neighbour's label."""
    chosen: list[float] = []
    for value in sorted(set(values)):
        if not chosen or value / chosen[-1] > 1.25:
            chosen.append(value)
    axes.xaxis.set_major_locator(FixedLocator(chosen))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))


def _plain_logarithm(axes: Axes) -> None:
    """A logarithmic axis at the side with ticks at 1, 2, 5, 10, ..., written out; closer ones where few would show."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low > 5 else (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def draw_scaling(record: Record, path: Path) -> None:
    """A panel a curve: ms on a GPU, the smallest size 1 on a CPU; logarithmic, with the power law, where one fits."""
    gpu, curves = on_gpu(record), record["curves"]
    figure, panels = _new(3.4 * len(curves), 3.2, len(curves))
    for axes, curve in zip(panels, curves, strict=True):
        seconds = [value["median"] for value in curve["seconds"]]
        scale = 1e3 if gpu else 1 / seconds[0]
        sizes, values = curve["sizes"], [value * scale for value in seconds]
        axes.plot(sizes, values, "o", color="#0072b2", markersize=5)
        sound = curve["r2"] >= SOUND_FIT
        if not sound:
            axes.set_ylim(0, 1.2 * max(values))
        else:
            axes.plot(sizes, _power_law(sizes, values, curve["exponent"]), color="#7f7f7f", linewidth=1, zorder=0)
            _plain_logarithm(axes)
        axes.set_xscale("log", base=2)
        _plain_ticks(axes, sizes)
        axes.set_xlabel(curve["over"])
        found = f"exponent {curve['exponent']:.2f}" if sound else "no exponent fits"
        axes.set_title(f"{curve['of']}: {found}", fontsize=10)
        axes.grid(alpha=0.25)
    panels[0].set_ylabel("time, " + ("ms" if gpu else "smallest = 1"))
    figure.suptitle(_subject(record), fontsize=10)
    _save(figure, path)


def _power_law(sizes: Sequence[float], values: Sequence[float], exponent: float) -> list[float]:
    """The curve of that exponent through the geometric mean of the points, which the least-squares line passes."""
    shift = np.mean(np.log(values)) - exponent * np.mean(np.log(sizes))
    return [float(np.exp(shift) * size**exponent) for size in sizes]


def draw_frontier(points: Sequence[Point], path: Path, caption: str) -> None:
    """Accuracy in per cent of dense against speed-up to the first token; a line a method, a larger mark the larger the
    budget."""
    figure, (axes,) = _new(7.2, 4.4)
    axes.plot([1], [100], marker=STYLES["dense"][1], color="black", markersize=10, linestyle="none", label="dense")
    groups: dict[str, list[Point]] = {}
    for point in points:
        groups.setdefault(point.method, []).append(point)
    budgets = sorted({point.budget for point in points}, reverse=True)
    sizes = {budget: 9 - 5 * place / max(1, len(budgets) - 1) for place, budget in enumerate(budgets)}
    for method in sorted(groups, key=lambda name: [*STYLES, name].index(name)):
        own = sorted(groups[method], key=lambda point: point.budget)
        colour, marker = STYLES.get(method, ("#6a3d9a", "x"))
        axes.plot(
            [point.speedup for point in own],
            [point.accuracy for point in own],
            color=colour, marker=marker, markersize=5, linewidth=1.3, label=TITLES.get(method, method),
        )  # fmt: skip
        for point in own:
            axes.plot([point.speedup], [point.accuracy], color=colour, marker=marker, markersize=sizes[point.budget])
    axes.margins(x=0.12, y=0.12)
    marks = ", ".join(map(str, budgets))
    axes.set_xlabel(f"speed-up to the first token (marks from large to small: {marks} tokens)")
    axes.set_ylabel("average of benchmarks, % of dense")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    axes.grid(alpha=0.25)
    axes.set_title(caption, fontsize=10)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    _save(figure, path)
