"""The few rows of one layer's attention map that a pruning method reads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from visionzip.core.select import gather_rows
from visionzip.in_llm.tokens import Tokens


def judged_attention(layer: Any, tokens: Tokens, rope: tuple[Tensor, Tensor], keys: Tensor) -> Tensor:
    """Attention of `layer` from the judges to every token, mean over heads and judges. -> [B, L] float32

    The layer itself runs under sdpa, which shows no map; only the judges' rows are computed here, R of L.

    Args:
        layer: the decoder layer.
        tokens: what it got as input.
        rope: cos and sin [B, L, d] of its input.
        keys: [B, G, L, d] its keys after rotation, as its cache holds them.
    """
    rows = tokens.judges.int().argsort(dim=1, stable=True)[:, -tokens.num_judges :]  # [B, R], in their order
    valid = tokens.judges.gather(1, rows)  # rows of a batch have different numbers of judges
    query = _queries(layer, tokens.hidden, rope, rows)  # [B, H, R, d]
    batch, groups, length, width = keys.shape
    allowed = torch.arange(length, device=keys.device) <= rows[..., None]  # [B, R, L]
    if tokens.real is not None:
        allowed &= tokens.real[:, None]
    allowed |= ~valid[..., None]  # a row that does not count must still have something to attend to

    query = query.reshape(batch, groups, -1, rows.shape[1], width)  # [B, G, H / G, R, d]
    logits = torch.einsum("bghrd,bgld->bghrl", query.float(), keys.float()) * layer.self_attn.scaling
    attention = logits.masked_fill(~allowed[:, None, None], float("-inf")).softmax(dim=-1).mean(dim=(1, 2))  # [B, R, L]
    scores: Tensor = (attention * valid[..., None]).sum(dim=1) / valid.sum(dim=1, keepdim=True).clamp_min(1)
    return scores


def _queries(layer: Any, hidden: Tensor, rope: tuple[Tensor, Tensor], rows: Tensor) -> Tensor:
    """Rotated queries [B, H, R, d] of the tokens at `rows` [B, R]."""
    attention = layer.self_attn
    states: Tensor = attention.q_proj(layer.input_layernorm(gather_rows(hidden, rows)))
    query = states.view(*rows.shape, -1, attention.head_dim).transpose(1, 2)
    cos, sin = (gather_rows(part, rows) for part in rope)
    rotated: Tensor = apply_rotary_pos_emb(query, query, cos, sin)[0]
    return rotated
