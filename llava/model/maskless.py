"""A prefill without a mask, so that sdpa takes its causal flash kernel, also while a CUDA graph is captured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "llava_maskless_sdpa"


@contextmanager
def causal_without_mask(config: Any) -> Iterator[None]:
    """Inside, an sdpa decoder of `config` makes no mask where it is given none; eager attention stays as it is.

    During a capture transformers 5.17 writes the whole causal mask down, which sdpa's flash kernel does not take. For
    attention it has no mask function for it makes none: the same sdpa under a name that exists inside the block only.
    """
    before = config._attn_implementation
    if before != "sdpa":
        yield
        return
    ALL_ATTENTION_FUNCTIONS[NAME] = ALL_ATTENTION_FUNCTIONS[before]  # scoped: a new name, gone at the end
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
        del ALL_ATTENTION_FUNCTIONS[NAME]  # type: ignore[no-untyped-call]  # scoped: the end
