"""Control: the patch grid averaged down."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.nn.functional import adaptive_avg_pool2d

from visionzip.core.budget import check_count
from visionzip.core.types import VisionEvidence, VisionTokens


def cells(tokens: int) -> tuple[int, int]:
    """(rows, columns) with rows * columns == tokens and rows <= columns, as close to a square as whole numbers allow.

    >>> cells(64), cells(32), cells(7)
    ((8, 8), (4, 8), (1, 7))
    """
    rows = next(r for r in range(math.isqrt(tokens), 0, -1) if tokens % r == 0)
    return rows, tokens // rows


@dataclass(frozen=True)
class Pool:
    """Average the patch grid into `tokens` cells (row-major). No CLS; a cell has no one place, so every position is -1.

    Raises: ValueError for a number that is no count, or one that does not divide into rows and columns the grid has.
    """

    method: ClassVar[str] = "pool"

    tokens: int

    def __post_init__(self) -> None:
        check_count("tokens", self.tokens)

    def tokens_per_tile(self, num_patches: int) -> int:
        """`tokens`. Raises: ValueError when its cells are finer than a square grid of `num_patches` patches."""
        rows, columns = cells(self.tokens)
        side = math.isqrt(num_patches)
        if columns > side:
            raise ValueError(
                f"tokens={self.tokens} makes {rows} x {columns} cells, finer than the {side} x {side} patch grid; "
                f"choose a number that splits into rows and columns of at most {side}"
            )
        return self.tokens

    def to_config(self) -> dict[str, Any]:
        """{"method": "pool", "tokens": ...}."""
        return {"method": self.method, "tokens": self.tokens}

    def __call__(self, evidence: VisionEvidence) -> VisionTokens:
        """[T, S, C] -> features [T, tokens, C], averaged in float32; positions -1."""
        self.tokens_per_tile(evidence.num_patches)
        hidden = evidence.hidden
        grid = (
            hidden[:, int(evidence.has_cls) :].reshape(-1, *evidence.grid, hidden.shape[-1]).permute(0, 3, 1, 2)
        )  # [T, C, rows, columns]
        wide = grid.to(torch.promote_types(hidden.dtype, torch.float32))
        pooled = adaptive_avg_pool2d(wide, cells(self.tokens)).flatten(2).transpose(1, 2)  # [T, tokens, C]
        features = pooled.to(hidden.dtype)
        return VisionTokens(features, torch.full(features.shape[:2], -1, dtype=torch.int64, device=hidden.device))
