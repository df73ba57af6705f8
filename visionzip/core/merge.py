"""What becomes of the rest: remaining rows are merged into evenly spread targets by similarity of their keys."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

Merge = Literal["official", "average"]
MERGES: tuple[str, ...] = get_args(Merge)


def head_mean(keys: Tensor) -> Tensor:
    """keys [T, H, S, d] -> [T, S, d]: the similarity metric, in float32 at least, without gradient."""
    return keys.detach().mean(dim=1, dtype=torch.promote_types(keys.dtype, torch.float32))


def merge_rows(rows: Tensor, metric: Tensor, contextual: int, merge: Merge = "official") -> Tensor:
    """Merge R rows into `contextual` ones.

    rows: [T, R, C] in sequence order, R >= contextual; metric: [T, R, d] float32 keys of these rows
    -> [T, contextual, C] in the dtype of `rows`.
    Targets are the rows 0, stride, 2 * stride, ... with stride = R // contextual. Every other row joins the target with
    the largest cosine similarity, the first one on ties (a key of length zero is like none and joins the first target).

    merge="official": target + mean of its members, what the published code computes, about twice a normal token's norm.
    merge="average": (target + sum of members) / (members + 1), what the paper's text describes.
    A target without members stays unchanged in both. Sums are float32; the one-hot matmul is deterministic everywhere.

    Source: VisionZip (2412.04467), contextual token merging.

    >>> rows = torch.tensor([[[1.], [3.], [4.], [6.], [7.], [8.]]])
    >>> keys = torch.tensor([[[1., 0.], [2., 1.], [1., 3.], [0., 1.], [5., 1.], [.1, .2]]])
    >>> merge_rows(rows, keys, contextual=2).flatten().tolist()
    [6.0, 12.0]
    >>> [round(x, 3) for x in merge_rows(rows, keys, contextual=2, merge="average").flatten().tolist()]
    [3.667, 6.0]
    """
    stride = rows.shape[1] // contextual
    last = contextual * stride

    metric = metric / torch.linalg.vector_norm(metric, dim=-1, keepdim=True).clamp_min(torch.finfo(metric.dtype).tiny)
    choice = (metric @ metric[:, :last:stride].transpose(1, 2)).argmax(dim=-1, keepdim=True)  # [T, R, 1]

    joins = choice.new_zeros(*choice.shape[:2], contextual, dtype=metric.dtype).scatter_(2, choice, 1)
    joins[:, :last:stride] = 0  # targets join nobody
    joins = joins.transpose(1, 2)  # [T, contextual, R]

    wide = rows.to(torch.promote_types(rows.dtype, torch.float32))
    members, target = joins.to(wide.dtype) @ wide, wide[:, :last:stride]  # [T, contextual, C]
    count = joins.sum(dim=-1, keepdim=True)  # [T, contextual, 1]
    merged = target + members / count.clamp_min(1) if merge == "official" else (target + members) / (count + 1)
    return merged.to(rows.dtype)
