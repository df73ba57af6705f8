"""Control: the picture itself made smaller before the tower sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from visionzip.core.budget import check_count
from visionzip.core.types import VisionEvidence, VisionTokens
from visionzip.methods.pool import Pool, cells


@dataclass(frozen=True)
class Downsample:
    """Shrink a tile to as many patches as `tokens` and keep them all (row-major). No CLS; every position is -1.

    The tower interpolates its position embeddings to the smaller grid. Rows and columns are those of `Pool`, so the two
    controls differ only in where they average: pixels or features.

    Raises: ValueError for a number that is no count, or one that does not divide into rows and columns the grid has.
    """

    method: ClassVar[str] = "downsample"

    tokens: int

    def __post_init__(self) -> None:
        check_count("tokens", self.tokens)

    def tokens_per_tile(self, num_patches: int) -> int:
        """`tokens`. Raises: ValueError when they make more rows or columns than a square grid of `num_patches`."""
        return Pool(self.tokens).tokens_per_tile(num_patches)

    def to_config(self) -> dict[str, Any]:
        """{"method": "downsample", "tokens": ...}."""
        return {"method": self.method, "tokens": self.tokens}

    def resize(self, pixels: Tensor, patch_size: int) -> Tensor:
        """[T, 3, S, S] -> [T, 3, rows * patch_size, columns * patch_size], bicubic with antialiasing in float32."""
        self.tokens_per_tile((pixels.shape[-1] // patch_size) ** 2)
        rows, columns = cells(self.tokens)
        wide = pixels.to(torch.promote_types(pixels.dtype, torch.float32))
        small = interpolate(wide, (rows * patch_size, columns * patch_size), mode="bicubic", antialias=True)
        return small.to(pixels.dtype)

    def __call__(self, evidence: VisionEvidence) -> VisionTokens:
        """[T, S, C] of the resized tile -> features [T, tokens, C]; positions -1."""
        if evidence.num_patches != self.tokens:
            raise ValueError(
                f"downsample expects the {self.tokens} patches of a resized tile, got {evidence.num_patches}; "
                "the tower must call `resize` before it encodes"
            )
        features = evidence.hidden[:, int(evidence.has_cls) :]
        return VisionTokens(features, torch.full(features.shape[:2], -1, dtype=torch.int64, device=features.device))
