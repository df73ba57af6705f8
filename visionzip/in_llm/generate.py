"""Greedy answers from a language model that drops visual tokens on the way, or drops none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from visionzip.core.stages import stage
from visionzip.in_llm.tokens import Pruner
from visionzip.in_llm.walk import prefill, step


@torch.no_grad()
def generate(
    model: Any,
    embeds: Tensor,
    mask: Tensor | None,
    visual: Tensor,
    pruner: Pruner | None = None,
    *,
    max_new_tokens: int,
    eos_token_id: int | Sequence[int] | None = None,
    pad_token_id: int = 0,
) -> Tensor:
    """Greedy decoding: [B, n] int64, the new tokens only, n <= max_new_tokens; `pad_token_id` behind a row's end.

    Without a pruner the same tokens as transformers' `generate(do_sample=False)`. Stages, as on the usual path:
    "prefill" and "decode", each with its head.

    Args:
        model: a causal LM of transformers over a decoder `prefill` knows.
        embeds, mask, visual, pruner: see `prefill`.
        eos_token_id: what ends a row; None: all rows have max_new_tokens, and the host waits for the device only once.

    Raises: ValueError for max_new_tokens below 1; see `prefill`.
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
    decoder, head, embedding = model.get_decoder(), model.get_output_embeddings(), model.get_input_embeddings()
    ends = [eos_token_id] if isinstance(eos_token_id, int) else list(eos_token_id or [])
    end = torch.tensor(ends, dtype=torch.int64, device=embeds.device)
    with stage("prefill"):
        state = prefill(decoder, embeds, mask, visual, pruner)
        logits = head(state.hidden)
    new = [logits.argmax(dim=-1)]
    ended = torch.isin(new[0], end)
    while len(new) < max_new_tokens and not (ends and bool(ended.all())):
        with stage("decode"):
            logits = head(step(decoder, embedding(new[-1])[:, None], state))
        token = logits.argmax(dim=-1).masked_fill(ended, pad_token_id)
        ended = ended | torch.isin(token, end)
        new.append(token)
    return torch.stack(new, dim=1)
