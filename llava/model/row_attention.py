"""Attention of packed rows, a row at a time: no row sees another, and no time goes to what it must not see.

H heads, Hk key/value heads, L tokens of the pack, d head width.

Flash attention knows packed rows itself. Under sdpa and eager attention transformers keeps rows apart by a mask over
the whole pack, [L, L], most of which is computed for nothing; here each row attends alone instead.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

SDPA, EAGER = "llava_rows_sdpa", "llava_rows_eager"
OF = {"sdpa": SDPA, "eager": EAGER}


def attends_by_row(config: Any) -> bool:
    """Whether the attention in use takes a pack of any length, doing no work between rows."""
    name = getattr(config, "_attn_implementation", None) or ""
    return name in (SDPA, EAGER) or "flash" in name


def row_options(config: Any, positions: Tensor | None) -> dict[str, list[int]]:
    """What the decoder's call needs besides: the tokens of every row of a pack, from its position ids [1, L].

    Positions count from 0 in each row. Empty for a batch that is not packed, and for attention that reads positions.
    """
    if positions is None or getattr(config, "_attn_implementation", None) not in (SDPA, EAGER):
        return {}
    starts = (positions[0] == 0).nonzero()[:, 0]
    ends = torch.cat([starts[1:], starts.new_tensor([positions.shape[1]])])
    return {"rows": (ends - starts).tolist()}


def row_mask(config: Any, mask: Tensor | None) -> Tensor | None:
    """A padding mask [B, L] in the form the decoder's call needs.

    transformers makes no masks for attention it does not know, and by row none is needed where padding comes last: what
    is causal does not look there. Padding in front is written down as [B, 1, L, L], True where a token may look; it
    sees itself, since a softmax over nothing is not a number.
    """
    if mask is None or mask.ndim != 2 or getattr(config, "_attn_implementation", None) not in (SDPA, EAGER):
        return mask
    there = mask.bool()
    if bool((there[:, 1:] <= there[:, :-1]).all()):
        return None
    length = there.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
    return (causal & there[:, None, None, :]) | torch.eye(length, dtype=torch.bool, device=mask.device)


@contextmanager
def row_attention(config: Any, longest: int) -> Iterator[None]:
    """Inside, the decoder of `config` attends by row where its batch is packed, and as before where it is not.

    transformers looks attention functions up by name: the names exist inside the block only. Flash and flex attention
    stay as they are, and so does a model whose sliding window is shorter than `longest`, the tokens of the longest row.
    """
    before = config._attn_implementation
    if before not in OF or (getattr(config, "sliding_window", None) or longest) < longest:
        yield
        return
    name = OF[before]
    attend = _SdpaRows() if before == "sdpa" else _EagerRows()
    ALL_ATTENTION_FUNCTIONS[name] = attend  # scoped: new names, gone at the end
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before
        del ALL_ATTENTION_FUNCTIONS[name]  # type: ignore[no-untyped-call]  # scoped: the end


class _Rows:
    """An attention function in transformers' terms: [B, H, L, d] query, [B, Hk, L, d] key and value -> [B, L, H, d]."""

    def __call__(
        self,
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        dropout: float = 0.0,
        rows: Sequence[int] | None = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        if dropout or query.shape[2] != key.shape[2]:
            raise ValueError(
                f"packed rows know no attention dropout (got {dropout}) and no cache (got {query.shape[2]} queries for "
                f"{key.shape[2]} keys); train with --pack_sequences False"
            )
        groups = query.shape[1] // key.shape[1]
        if groups > 1:
            key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        if attention_mask is not None:
            return self.masked(query, key, value, scale, attention_mask).transpose(1, 2).contiguous(), None
        lengths = list(rows or [query.shape[2]])
        queries, keys, values = (torch.split(tensor, lengths, dim=2) for tensor in (query, key, value))
        out = [self.causal(q, k, v, scale) for q, k, v in zip(queries, keys, values, strict=True)]
        return torch.cat(out, dim=2).transpose(1, 2).contiguous(), None

    def causal(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """One row. -> [B, H, l, d]"""
        raise NotImplementedError

    def masked(self, query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Tensor) -> Tensor:
        """Rows with padding in front, `mask` as `row_mask` made it. -> [B, H, L, d]"""
        raise NotImplementedError


class _SdpaRows(_Rows):
    def causal(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        return scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale)

    def masked(self, query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Tensor) -> Tensor:
        return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)


class _EagerRows(_Rows):
    def causal(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        length = query.shape[2]
        hidden = torch.ones(length, length, dtype=torch.bool, device=query.device).triu(1)
        scores = (query @ key.transpose(2, 3) * scale).masked_fill(hidden, float("-inf"))
        return scores.softmax(-1, dtype=torch.float32).to(query.dtype) @ value

    def masked(self, query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Tensor) -> Tensor:
        scores = (query @ key.transpose(2, 3) * scale).masked_fill(~mask, float("-inf"))
        return scores.softmax(-1, dtype=torch.float32).to(query.dtype) @ value
