"""How sure an average is: bootstrap over pictures.

Questions about one picture fall together, so pictures are drawn, not questions; a draw is the same for every method,
so that the difference of two methods on the same items is judged pair by pair.
M methods, R draws, I pictures, K tasks.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

DRAWS = 2000
_CHUNK = 100  # draws held at a time


def resampled_averages(items: Sequence[Mapping[str, Any]], draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """Average over tasks (percent) of every method under every draw of pictures. -> [M, R] float64

    Args:
        items: for each method {"images": [...], "tasks": {task: {"image": [...], "scores": [...]}}} (see cells.py).

    Raises:
        ValueError: the methods were not asked the same questions.
    """
    first = items[0]
    for other in items[1:]:
        if other["images"] != first["images"] or _asked(other) != _asked(first):
            raise ValueError("expected item scores of the same questions in the same order; run the cells again")
    count = len(first["images"])
    scores = np.stack([
        [np.bincount(task["image"], weights=task["scores"], minlength=count) for task in one["tasks"].values()]
        for one in items
    ])  # [M, K, I]
    asked = np.stack([np.bincount(task["image"], minlength=count) for task in first["tasks"].values()])  # [K, I]
    generator = np.random.default_rng(seed)
    chunks = []
    for start in range(0, draws, _CHUNK):
        size = min(_CHUNK, draws - start)
        drawn = generator.multinomial(count, np.full(count, 1 / count), size=size)  # [r, I]
        per_task = np.einsum("mki,ri->mkr", scores, drawn) / np.maximum(asked @ drawn.T, 1)  # [M, K, r]
        chunks.append(100 * per_task.mean(axis=1))
    return np.concatenate(chunks, axis=1)


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The middle `level` of the draws."""
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


def _asked(items: Mapping[str, Any]) -> dict[str, list[int]]:
    return {task: values["image"] for task, values in items["tasks"].items()}
