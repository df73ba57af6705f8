"""The types every compression method speaks.

Letters used in this package: T tiles, S rows of the tower's sequence, N patches, K kept tokens, C tower width, H heads,
d head width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class VisionEvidence:
    """What one tower pass shows a compressor; all fields come from the same block (LLaVA: layer -2).

    hidden: [T, S, C] states the projector would read; S = 1 + N with CLS first, or N when `has_cls` is False.
    query, keys: [T, H, S, d] raw projections of that block's attention: bias included, before scaling and rotation.

    Raises: ValueError when the shapes do not belong together.
    """

    hidden: Tensor
    query: Tensor
    keys: Tensor
    has_cls: bool = True

    def __post_init__(self) -> None:
        if self.hidden.ndim != 3:
            raise ValueError(f"hidden must be [tiles, rows, width], got shape {tuple(self.hidden.shape)}")
        tiles, rows, _ = self.hidden.shape
        for name, tensor in (("query", self.query), ("keys", self.keys)):
            if tensor.ndim != 4 or tensor.shape[0] != tiles or tensor.shape[2] != rows:
                raise ValueError(
                    f"{name} must be [tiles, heads, rows, head width] with {tiles} tiles and {rows} rows like hidden, "
                    f"got shape {tuple(tensor.shape)}; record it from the block that produced hidden"
                )
        if self.query.shape != self.keys.shape:
            raise ValueError(
                f"query {tuple(self.query.shape)} and keys {tuple(self.keys.shape)} differ in shape; "
                "attention with fewer key heads than query heads is not supported"
            )

    @property
    def num_patches(self) -> int:
        """N: the rows of a tile without CLS."""
        return self.hidden.shape[1] - int(self.has_cls)

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the square patch grid. Raises: ValueError when N is not a square."""
        side = math.isqrt(self.num_patches)
        if side * side != self.num_patches:
            raise ValueError(
                f"{self.num_patches} patches do not form a square grid; "
                f"check has_cls={self.has_cls} (a CLS row counted as a patch gives one too many)"
            )
        return side, side


@dataclass(frozen=True, eq=False)
class VisionTokens:
    """Tokens with their place.

    features: [T, K, C].
    positions: [T, K] int64, the row-major patch index 0..N-1, or -1 for CLS and merged tokens, which have no one place.
    has_cls: row 0 of every tile is the CLS token.

    Raises: ValueError when features and positions do not belong together.
    """

    features: Tensor
    positions: Tensor
    has_cls: bool = False

    def __post_init__(self) -> None:
        if self.features.ndim != 3 or self.positions.shape != self.features.shape[:2]:
            raise ValueError(
                "features must be [tiles, tokens, width] and positions [tiles, tokens], "
                f"got {tuple(self.features.shape)} and {tuple(self.positions.shape)}"
            )
        if self.positions.dtype != torch.int64:
            raise ValueError(f"positions must be int64, got {self.positions.dtype}")


@runtime_checkable
class Resizer(Protocol):
    """A compressor that wants smaller tiles: the tower resizes its pixels before it encodes them."""

    def resize(self, pixels: Tensor, patch_size: int) -> Tensor:
        """[T, 3, S, S] -> [T, 3, h, w], whole patches."""
        ...


@runtime_checkable
class Compressor(Protocol):
    """A vision-side, text-agnostic method: evidence of one tower pass in, fewer tokens out.

    Tiles are independent of each other: what a tile keeps does not depend on the tiles beside it.
    """

    def __call__(self, evidence: VisionEvidence) -> VisionTokens:
        """[T, S, C] evidence -> K tokens per tile. Raises: ValueError when the budget does not fit."""
        ...

    def to_config(self) -> dict[str, Any]:
        """JSON-ready settings, e.g. {"method": "uniform", "tokens": 64}; `registry.from_config` reads them back."""
        ...

    def tokens_per_tile(self, num_patches: int) -> int:
        """K for a tile of `num_patches` patches. Raises: ValueError with the numbers when the budget does not fit."""
        ...
