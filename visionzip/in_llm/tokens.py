"""The rows on their way through a decoder's layers, and what happens to them where a method prunes.

Letters used in this package: B rows, L tokens of a row (padding included), D LLM width, H heads, G key/value heads,
d head width, R judging tokens, P pruned tokens, c clusters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from visionzip.core.select import gather_rows


@dataclass(frozen=True, eq=False)
class Tokens:
    """A batch between two layers, padding on the left.

    hidden: [B, L, D].
    positions: [B, L] int64 position ids of the next layers; 0 at padding.
    next_position: [B, 1] int64, where these layers place the first new token.
    visual, judges: [B, L] bool, the visual tokens and the tokens whose attention decides which of those stay.
    real: [B, L] bool, False at padding; None when no row has padding.
    lengths, num_visual: real tokens and visual tokens of each row. They are known on the host, so that pruning waits
        for no device.
    num_judges: the most judges a row has.
    """

    hidden: Tensor
    positions: Tensor
    next_position: Tensor
    visual: Tensor
    judges: Tensor
    real: Tensor | None
    lengths: tuple[int, ...]
    num_visual: tuple[int, ...]
    num_judges: int


class Pruner(Protocol):
    """A method that drops visual tokens between the layers of the language model."""

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers (0-based, ascending) after which tokens are dropped; their own attention gives the scores."""
        ...

    def kept(self, layer: int, num_visual: int) -> int:
        """How many visual tokens stay after `layer` in a row that came with `num_visual`; may exceed what is there."""
        ...

    def judges(self, embeds: Tensor, visual: Tensor) -> Tensor:
        """Input embeddings [B, L, D] padded on the left, visual [B, L] bool -> [B, L] bool: whose attention counts."""
        ...

    def prune(self, tokens: Tokens, scores: Tensor, kept: Sequence[int]) -> Tokens:
        """The output of a layer without the dropped tokens.

        scores: [B, L] float32, attention of that layer from the judges to every token, mean over heads and judges.
        kept: per row, at most its number of visual tokens.
        """
        ...


def ranked(scores: Tensor, visual: Tensor) -> Tensor:
    """[B, L] int64: places of the visual tokens by falling score, the first of equal ones first; other tokens last.

    >>> ranked(torch.tensor([[9., .1, .3, .1, 9.]]), torch.tensor([[False, True, True, True, False]]))[:, :3].tolist()
    [[2, 1, 3]]
    """
    return scores.masked_fill(~visual, float("-inf")).sort(dim=1, descending=True, stable=True).indices


def rearranged(
    tokens: Tokens,
    order: Tensor,
    kept: Sequence[int],
    merged: tuple[Tensor, Sequence[int]] | None = None,
    *,
    renumber: bool = False,
) -> Tokens:
    """Drop all visual tokens but the first `kept[row]` of `order`; what stays keeps its place among the others.

    Args:
        order: [B, L], see `ranked`.
        merged: new visual tokens [B, c, D] and how many of them each row has; they go behind the row's visual tokens.
        renumber: position ids count anew from 0; without it every token keeps its own.

    Returns: rows as long as the longest one needs, padding on the left.
    """
    batch, length, _ = tokens.hidden.shape
    place = torch.arange(length, device=order.device)
    chosen = torch.zeros_like(tokens.visual).scatter(1, order, (place < _limit(kept, order)).expand(batch, -1))
    stays = chosen | ~tokens.visual if tokens.real is None else (chosen | ~tokens.visual) & tokens.real
    key = torch.where(stays, 2 * place, -1)  # [B, L]; what goes sorts to the front and is cut off there
    extra: Sequence[int] = [0] * batch
    if merged is not None:
        features, extra = merged
        added = features.shape[1]
        behind = torch.where(tokens.visual, 2 * place + 1, -1).amax(dim=1, keepdim=True).expand(-1, added)  # [B, c]
        new = torch.arange(added, device=order.device) < _limit(extra, order)
        key = torch.cat([key, torch.where(new, behind, -1)], dim=1)
        tokens = replace(
            tokens,
            hidden=torch.cat([tokens.hidden, features], dim=1),
            positions=pad(tokens.positions, (0, added)),
            visual=pad(tokens.visual, (0, added), value=True),
            judges=pad(tokens.judges, (0, added), value=False),
        )
    num_visual = tuple(k + e for k, e in zip(kept, extra, strict=True))
    lengths = tuple(n - old + now for n, old, now in zip(tokens.lengths, tokens.num_visual, num_visual, strict=True))
    longest = max(lengths)
    index = key.argsort(dim=1, stable=True)[:, -longest:]
    real = None
    if min(lengths) < longest:
        real = key.gather(1, index) >= 0
    positions = counted(real, index) if renumber else tokens.positions.gather(1, index)
    return Tokens(
        hidden=gather_rows(tokens.hidden, index),
        positions=positions,
        next_position=positions[:, -1:] + 1 if renumber else tokens.next_position,
        visual=_only(tokens.visual.gather(1, index), real),
        judges=_only(tokens.judges.gather(1, index), real),
        real=real,
        lengths=lengths,
        num_visual=num_visual,
        num_judges=tokens.num_judges,
    )


def counted(real: Tensor | None, like: Tensor) -> Tensor:
    """Position ids [B, L] int64 that count the real tokens of each row from 0; 0 at padding. `like`: any [B, L]."""
    if real is None:
        return torch.arange(like.shape[1], device=like.device).expand(like.shape)
    return (real.cumsum(dim=1) - 1).clamp_min(0)


def _only(marks: Tensor, real: Tensor | None) -> Tensor:
    return marks if real is None else marks & real


def _limit(counts: Sequence[int], like: Tensor) -> Tensor | int:
    """Counts to compare with a place: one number where all rows agree (no copy to the device), else [B, 1]."""
    return counts[0] if len(set(counts)) == 1 else torch.tensor(counts, device=like.device)[:, None]
