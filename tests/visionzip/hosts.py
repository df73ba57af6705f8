"""Minimal hosts for the tests: a tower with a slot around a plain transformers CLIP, and a model that holds it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import CLIPVisionModel, PretrainedConfig

from tests.tiny import seeded, tiny_clip
from visionzip import Compressor, QKTap, VisionEvidence, VisionTokens


def evidence(
    tiles: int = 2,
    patches: int = 16,
    width: int = 8,
    heads: int = 2,
    head_width: int = 4,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    has_cls: bool = True,
) -> VisionEvidence:
    """Random evidence; queries wide enough that the attention is not flat."""
    rows = patches + int(has_cls)
    with seeded(seed):
        hidden = torch.randn(tiles, rows, width, dtype=torch.float64)
        query = 2 * torch.randn(tiles, heads, rows, head_width, dtype=torch.float64)
        keys = torch.randn(tiles, heads, rows, head_width, dtype=torch.float64)
    return VisionEvidence(hidden.to(dtype), query.to(dtype), keys.to(dtype), has_cls)


def walk(tower: CLIPVisionModel, pixels: Tensor) -> VisionEvidence:
    """Run the blocks up to the second-last one and tap that one."""
    hidden = tower.pre_layrnorm(tower.embeddings(pixels))
    layers = tower.encoder.layers
    for layer in layers[:-2]:
        hidden = layer(hidden, None)
    with QKTap(layers[-2].self_attn) as tap:
        hidden = layers[-2](hidden, None)
    return VisionEvidence(hidden, tap.query, tap.keys)


class SlotTower(nn.Module):
    """A tower with the slot, 16 patches."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.vision_tower = tiny_clip(seed=seed, layers=3)
        self.compressor: Compressor | None = None

    @property
    def num_patches(self) -> int:
        return 16

    def forward(self, pixels: Tensor) -> Tensor:
        return self.encode(pixels).features

    def encode(self, pixels: Tensor) -> VisionTokens:
        seen = walk(self.vision_tower, pixels)
        if self.compressor is not None:
            return self.compressor(seen)
        positions = torch.arange(seen.num_patches).expand(len(pixels), -1)
        return VisionTokens(seen.hidden[:, 1:], positions)


class SlotModel(nn.Module):
    """A model whose get_vision_tower() returns the tower, with a config of its own."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.config = PretrainedConfig()
        self.tower = SlotTower(seed)

    def get_vision_tower(self) -> SlotTower:
        return self.tower
