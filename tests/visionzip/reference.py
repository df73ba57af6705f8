"""VisionZip once more, from the algorithm's description with plain loops and Python floats: slow and easy to check.

Shares no code with the package. Works tile by tile on nested lists; float64 throughout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

Row = list[float]


@dataclass
class Zipped:
    """One tile: rows in output order, their patches (-1 without place), kept indices by score (with CLS, it is 0)."""

    rows: list[Row]
    positions: list[int]
    by_score: list[int]


def softmax(values: Row) -> Row:
    peak = max(values)
    powers = [math.exp(value - peak) for value in values]
    return [power / sum(powers) for power in powers]


def dot(a: Row, b: Row) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def cls_scores(query: list[list[Row]], keys: list[list[Row]]) -> Row:
    """query, keys: [heads][rows][width] -> for every patch the CLS attention summed over heads."""
    scores = [0.0] * (len(keys[0]) - 1)
    for head_query, head_keys in zip(query, keys, strict=True):
        scale = math.sqrt(len(head_query[0]))
        attention = softmax([dot(head_query[0], key) / scale for key in head_keys])
        for patch, weight in enumerate(attention[1:]):
            scores[patch] += weight
    return scores


def received_scores(query: list[list[Row]], keys: list[list[Row]]) -> Row:
    """query, keys: [heads][patches][width] -> for every patch the attention paid to it, mean over heads and patches."""
    patches = len(keys[0])
    scores = [0.0] * patches
    for head_query, head_keys in zip(query, keys, strict=True):
        scale = math.sqrt(len(head_query[0]))
        for asking in head_query:
            for patch, weight in enumerate(softmax([dot(asking, key) / scale for key in head_keys])):
                scores[patch] += weight / (patches * len(keys))
    return scores


def rank(scores: Row) -> list[int]:
    """Patches from the highest score to the lowest; equal scores in ascending order."""
    return sorted(range(len(scores)), key=lambda patch: (-scores[patch], patch))


def merge(rows: list[Row], metric: list[Row], contextual: int, average: bool) -> list[Row]:
    """The remaining rows of one tile, in order, merged into `contextual` rows."""
    unit = [[x / math.sqrt(dot(key, key)) for x in key] for key in metric]
    stride = max(1, len(rows) // contextual)
    targets = [stride * number for number in range(contextual)]
    members: list[list[Row]] = [[] for _ in targets]
    for index, row in enumerate(rows):
        if index in targets:
            continue
        best = 0
        for number in range(1, contextual):
            if dot(unit[index], unit[targets[number]]) > dot(unit[index], unit[targets[best]]):
                best = number
        members[best].append(row)
    merged = []
    for target, group in zip(targets, members, strict=True):
        sums = [math.fsum(column) for column in zip(*group, strict=True)] if group else [0.0] * len(rows[target])
        if average:
            merged.append([(own + total) / (len(group) + 1) for own, total in zip(rows[target], sums, strict=True)])
        else:
            merged.append([own + total / max(1, len(group)) for own, total in zip(rows[target], sums, strict=True)])
    return merged


def zip_tile(
    hidden: list[Row],
    query: list[list[Row]],
    keys: list[list[Row]],
    dominant: int,
    contextual: int,
    average: bool = False,
    has_cls: bool = True,
) -> Zipped:
    if has_cls:
        kept = [0] + [patch + 1 for patch in rank(cls_scores(query, keys))[: dominant - 1]]
    else:
        kept = rank(received_scores(query, keys))[:dominant]
    rest = [index for index in range(len(hidden)) if index not in kept]
    heads = len(keys)
    width = len(keys[0][0])
    metric = [
        [math.fsum(keys[head][index][x] for head in range(heads)) / heads for x in range(width)] for index in rest
    ]
    merged = merge([hidden[index] for index in rest], metric, contextual, average)
    positions = [index - has_cls for index in sorted(kept)] + [-1] * contextual
    return Zipped([hidden[index] for index in sorted(kept)] + merged, positions, kept)


def zip_tiles(
    hidden: Tensor,
    query: Tensor,
    keys: Tensor,
    dominant: int,
    contextual: int,
    average: bool = False,
    has_cls: bool = True,
) -> list[Zipped]:
    """hidden [T, S, C], query and keys [T, H, S, d]."""
    tiles = zip(hidden.tolist(), query.tolist(), keys.tolist(), strict=True)
    return [zip_tile(*tile, dominant, contextual, average, has_cls) for tile in tiles]
