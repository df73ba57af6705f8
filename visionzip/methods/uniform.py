"""Control: patches at even distances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from visionzip.core.budget import check_count
from visionzip.core.select import gather_rows
from visionzip.core.types import VisionEvidence, VisionTokens


@dataclass(frozen=True)
class Uniform:
    """Keep `tokens` patches evenly spaced along the row-major order, each from the middle of its stretch.

    No CLS, no merging; ascending positions. Raises: ValueError for a number that is no count, more tokens than patches.
    """

    method: ClassVar[str] = "uniform"

    tokens: int

    def __post_init__(self) -> None:
        check_count("tokens", self.tokens)

    def tokens_per_tile(self, num_patches: int) -> int:
        """`tokens`. Raises: ValueError when the tile has fewer patches."""
        if self.tokens > num_patches:
            raise ValueError(f"uniform keeps {self.tokens} tokens, but a tile has {num_patches} patches; lower tokens")
        return self.tokens

    def to_config(self) -> dict[str, Any]:
        """{"method": "uniform", "tokens": ...}."""
        return {"method": self.method, "tokens": self.tokens}

    def __call__(self, evidence: VisionEvidence) -> VisionTokens:
        """[T, S, C] -> features [T, tokens, C], positions ascending."""
        patches = evidence.num_patches
        self.tokens_per_tile(patches)
        hidden = evidence.hidden
        stretch = torch.arange(self.tokens, device=hidden.device)
        positions = ((2 * stretch + 1) * patches // (2 * self.tokens)).expand(hidden.shape[0], -1)  # [T, tokens]
        return VisionTokens(gather_rows(hidden, positions + int(evidence.has_cls)), positions)
