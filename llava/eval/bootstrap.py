"""How sure a headline is: bootstrap over the pictures of a benchmark.

Questions about one picture fall together, so pictures are drawn, not questions; a draw is the same for every method, so
that the difference of two methods on the same items is judged pair by pair.
M methods, R draws, I pictures.
"""

import zlib
from collections.abc import Sequence
from dataclasses import replace
from itertools import compress

import numpy as np

from llava.eval.cells import Items
from llava.eval.tasks.base import Ratio

DRAWS = 2000
_CHUNK = 100  # draws held at a time


def resampled_headlines(task: str, items: Sequence[Items], draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """The headline of every method under every draw of pictures. -> [M, R] float64

    Args:
        task: its name seeds the draws, so that benchmarks are drawn independently of each other.

    Raises:
        ValueError: the methods were not asked the same questions.
    """
    first = items[0]
    for other in items[1:]:
        if (other.ids, other.images) != (first.ids, first.images):
            raise ValueError(f"{task}: expected the same questions in the same order for every method; run it again")
        if [ratio.keys for ratio in other.ratios] != [ratio.keys for ratio in first.ratios]:
            raise ValueError(f"{task}: the methods were scored in different ways; run it again")
    pictures = {name: index for index, name in enumerate(dict.fromkeys(first.images))}
    at = {key: pictures[image] for key, image in zip(first.ids, first.images, strict=True)}
    count = len(pictures)
    parts = [_sums(place, items, at, count) for place in range(len(first.ratios))]  # each (weight, [M, I], [M, I])
    generator = np.random.default_rng([seed, zlib.crc32(task.encode())])
    chunks = []
    for start in range(0, draws, _CHUNK):
        size = min(_CHUNK, draws - start)
        drawn = generator.multinomial(count, np.full(count, 1 / count), size=size)  # [r, I]
        total = np.zeros((len(items), size))
        for weight, above, below in parts:
            counted = below @ drawn.T
            total += weight * np.divide(above @ drawn.T, counted, out=np.zeros_like(counted), where=counted > 0)
        chunks.append(total)
    return np.concatenate(chunks, axis=1)


def in_common(items: Sequence[Items]) -> list[Items]:
    """The items all have: a judge without a readable score leaves a question out for one method and not for another."""
    shared = set.intersection(*(set(one.ids) for one in items))
    if all(len(one.ids) == len(shared) for one in items):
        return list(items)
    return [_restrict(one, shared) for one in items]


def share_pictures(items: Sequence[Items]) -> list[Items]:
    """With the picture of each question as the methods that name it do: lmms-eval's own models name none, and there an
    item stands for itself. Questions that differ, or pictures, are left as they are."""
    ids = items[0].ids
    if any(one.ids != ids for one in items):
        return list(items)
    columns = zip(*(one.images for one in items), strict=True)
    named = [{image for image in images if image != key} for key, images in zip(ids, columns, strict=True)]
    return [
        replace(
            one,
            images=tuple(
                next(iter(names)) if image == key and len(names) == 1 else image
                for key, image, names in zip(ids, one.images, named, strict=True)
            ),
        )
        for one in items
    ]


def _restrict(one: Items, keys: set[str]) -> Items:
    kept = [key in keys for key in one.ids]
    ratios = []
    for ratio in one.ratios:
        counted = [key in keys for key in ratio.keys]
        parts = tuple(compress(ratio.numerators, counted)), tuple(compress(ratio.denominators, counted))
        ratios.append(Ratio(ratio.weight, tuple(compress(ratio.keys, counted)), *parts))
    return Items(
        ids=tuple(compress(one.ids, kept)),
        images=tuple(compress(one.images, kept)),
        scores=tuple(compress(one.scores, kept)),
        said=tuple(compress(one.said, kept)),
        ratios=tuple(ratios),
    )


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The middle `level` of the draws."""
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


def _sums(place: int, items: Sequence[Items], at: dict[str, int], count: int) -> tuple[float, np.ndarray, np.ndarray]:
    """One ratio of the headline, its numerators and denominators summed by picture for every method."""
    ratios = [one.ratios[place] for one in items]
    where = [at[key] for key in ratios[0].keys]
    above = np.stack([np.bincount(where, weights=ratio.numerators, minlength=count) for ratio in ratios])
    below = np.stack([np.bincount(where, weights=ratio.denominators, minlength=count) for ratio in ratios])
    return ratios[0].weight, above, below
