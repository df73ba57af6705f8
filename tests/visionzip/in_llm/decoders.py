"""Tiny language models of the three families, prompts with visual tokens, and the same models with visible maps."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from tests.tiny import FAMILIES, randomize, tiny_llm_config

__all__ = ["FAMILIES", "LAYERS", "eager", "prompt", "prompts", "tiny_llm"]

LAYERS = 5
CLASSES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
}


def tiny_llm(family: str = "llama", seed: int = 0, **extra: Any) -> Any:
    """A causal LM of 5 layers, 4 heads on 2 key/value heads, float32, under sdpa."""
    config_class, model_class = CLASSES[family]
    keys = tiny_llm_config(layers=LAYERS, attn_implementation="sdpa") | extra
    if family == "mistral":
        keys.setdefault("sliding_window", None)
    return randomize(model_class(config_class(**keys)), seed).eval()


def eager(model: Any) -> Any:
    """A copy of the model that materialises its attention maps."""
    twin = copy.deepcopy(model)
    twin.set_attn_implementation("eager")
    return twin


def prompt(model: Any, before: int, images: int, after: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """One row of text, visual tokens, text: embeds [1, L, D] and visual [1, L]."""
    length = before + images + after
    generator = torch.Generator().manual_seed(seed)
    embeds = 0.5 * torch.randn(1, length, model.config.hidden_size, generator=generator)
    place = torch.arange(length)[None]
    return embeds, (place >= before) & (place < before + images)


def prompts(rows: Sequence[tuple[Tensor, Tensor]], garbage: float = 7.0) -> tuple[Tensor, Tensor, Tensor]:
    """Rows as one batch, padding on the left: embeds, mask, visual. Padding holds `garbage`, which must not matter."""
    longest = max(visual.shape[1] for _, visual in rows)
    embeds = torch.full((len(rows), longest, rows[0][0].shape[2]), garbage)
    mask = torch.zeros(len(rows), longest, dtype=torch.int64)
    visual = torch.zeros(len(rows), longest, dtype=torch.bool)
    for index, (row, marks) in enumerate(rows):
        length = marks.shape[1]
        embeds[index, -length:], mask[index, -length:], visual[index, -length:] = row[0], 1, marks[0]
    return embeds, mask, visual
