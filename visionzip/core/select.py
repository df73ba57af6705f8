"""Which rows stay: the split of a tile's sequence into kept and remaining rows, as indices without a host sync."""

from __future__ import annotations

import torch
from torch import Tensor


def split_by_score(scores: Tensor, dominant: int, has_cls: bool = True) -> tuple[Tensor, Tensor]:
    """CLS and the `dominant - 1` best patches on one side, the other patches on the other; without CLS `dominant` best.

    scores: [T, N] -> (kept [T, dominant], rest [T, S - dominant]), int64 indices into the sequence of S rows (with CLS
    S = 1 + N, 0 is CLS and patch p is p + 1; without S = N and patch p is p), both ascending, so that CLS comes first.
    Of equal scores the lower index wins, on every device.

    Source: VisionZip (2412.04467), dominant token selection; parity: CLS is one of the dominant, rows in spatial order.

    >>> kept, rest = split_by_score(torch.tensor([[.1, .9, .2, .3, .8, .05, .15, .25]]), dominant=3)
    >>> kept.tolist(), rest.tolist()
    ([[0, 2, 5]], [[1, 3, 4, 6, 7, 8]])
    """
    cls_rows = int(has_cls)
    ranked = scores.sort(dim=-1, descending=True, stable=True).indices + cls_rows  # [T, N], best first
    best, rest = ranked[:, : dominant - cls_rows], ranked[:, dominant - cls_rows :]
    cls = ranked.new_zeros(ranked.shape[0], cls_rows)
    return torch.cat([cls, best.sort(dim=-1).values], dim=1), rest.sort(dim=-1).values


def gather_rows(rows: Tensor, index: Tensor) -> Tensor:
    """rows [T, S, C], index [T, K] -> [T, K, C]."""
    return rows.gather(1, index.unsqueeze(-1).expand(-1, -1, rows.shape[-1]))
