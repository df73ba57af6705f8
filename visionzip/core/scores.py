"""Which patches matter: attention scores per patch from q and k of one block, in float32 whatever the model's dtype."""

from __future__ import annotations

import torch
from torch import Tensor

from visionzip.core.types import VisionEvidence
from visionzip.kernels.received import received_attention


def patch_scores(evidence: VisionEvidence) -> Tensor:
    """Importance of each patch -> [T, N] in float32 (float64 stays float64), without gradient.

    With CLS: the attention it pays the patch. Without: the attention the patch receives from all patches on average.
    """
    if evidence.has_cls:
        return cls_attention(evidence.query, evidence.keys)
    return received_attention(evidence.query, evidence.keys)


def cls_attention(query: Tensor, keys: Tensor) -> Tensor:
    """Attention the CLS row pays to each patch, summed over the heads.

    query, keys: [T, H, 1+N, d] raw projections, CLS first -> [T, N]. Only the CLS row of the map is computed.
    Multiply-and-sum instead of a matmul: one row is bound by reading the keys anyway, and TF32 does not touch it.

    Source: VisionZip (2412.04467), dominant token selection; parity: softmax over all 1+N columns, sum over heads.
    """
    dtype = torch.promote_types(query.dtype, torch.float32)
    cls = query.detach()[:, :, :1].to(dtype) * query.shape[-1] ** -0.5  # [T, H, 1, d]
    logits = (cls * keys.detach()).sum(dim=-1)  # [T, H, 1+N]
    scores: Tensor = logits.softmax(dim=-1).sum(dim=1)
    return scores[:, 1:]
