"""Accuracy against visual tokens, one line a method."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

# Colours that stay apart for the colour-blind, with a marker each.
_STYLES = {
    "visionzip-tuned": ("#d55e00", "D"),
    "visionzip": ("#0072b2", "o"),
    "pool": ("#009e73", "s"),
    "downsample": ("#e69f00", "P"),
    "uniform": ("#cc79a7", "^"),
    "random": ("#7f7f7f", "v"),
}
_SPARE = ("#56b4e9", "#f0e442", "#000000")
_SPREAD = 0.012  # methods at one budget stand side by side by this share of the axis value


@dataclass(frozen=True)
class Point:
    """One cell: method key and title, measured tokens, average in percent and its interval."""

    method: str
    title: str
    tokens: float
    average: float
    bounds: tuple[float, float] | None = None


def draw_accuracy(points: Sequence[Point], dense: Point | None, path: Path, caption: str) -> None:
    """Write the picture as PNG; the dense model is a dashed line."""
    figure = Figure(figsize=(7.2, 4.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    if dense is not None:
        label = f"{dense.title} ({dense.tokens:.0f} tokens)"
        axes.axhline(dense.average, color="black", linestyle="--", linewidth=1, label=label)
    methods = sorted({point.method for point in points}, key=lambda name: [*_STYLES, name].index(name))
    for place, method in enumerate(methods):
        chosen = sorted((point for point in points if point.method == method), key=lambda point: point.tokens)
        shift = 1 + _SPREAD * (place - (len(methods) - 1) / 2)
        _draw_method(axes, chosen, shift, *_STYLES.get(method, (_SPARE[place % len(_SPARE)], "x")))
    ticks = sorted({round(point.tokens) for point in points})
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
    axes.set_xlabel("visual tokens an image (measured; the methods of a budget are set a little apart)")
    axes.set_ylabel("average of benchmarks, % of dense")
    axes.set_title(caption, fontsize=10)
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if points or dense is not None:
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})


def _draw_method(axes: Axes, points: Sequence[Point], shift: float, color: str, marker: str) -> None:
    tokens = [point.tokens * shift for point in points]
    averages = [point.average for point in points]
    axes.plot(tokens, averages, color=color, marker=marker, markersize=5, linewidth=1.5, label=points[0].title)
    for place, point in zip(tokens, points, strict=True):
        if point.bounds is not None:
            axes.vlines(place, *point.bounds, color=color, linewidth=1, alpha=0.6)
