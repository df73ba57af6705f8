"""Control: patches chosen by lot."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from visionzip.core.budget import check_count
from visionzip.core.select import gather_rows
from visionzip.core.types import VisionEvidence, VisionTokens


@dataclass(frozen=True)
class Random:
    """Keep `tokens` patches drawn with `seed`: one draw for all tiles, so a tile does not depend on its batch.

    No CLS, no merging; ascending positions. Raises: ValueError for numbers that are no counts, too many tokens.
    """

    method: ClassVar[str] = "random"

    tokens: int
    seed: int = 0

    def __post_init__(self) -> None:
        check_count("tokens", self.tokens)
        check_count("seed", self.seed, minimum=0)

    def tokens_per_tile(self, num_patches: int) -> int:
        """`tokens`. Raises: ValueError when the tile has fewer patches."""
        if self.tokens > num_patches:
            raise ValueError(f"random keeps {self.tokens} tokens, but a tile has {num_patches} patches; lower tokens")
        return self.tokens

    def to_config(self) -> dict[str, Any]:
        """{"method": "random", "tokens": ..., "seed": ...}."""
        return {"method": self.method, "tokens": self.tokens, "seed": self.seed}

    def __call__(self, evidence: VisionEvidence) -> VisionTokens:
        """[T, S, C] -> features [T, tokens, C], positions ascending."""
        patches = evidence.num_patches
        self.tokens_per_tile(patches)
        drawn = sorted(random.Random(self.seed).sample(range(patches), self.tokens))
        hidden = evidence.hidden
        positions = torch.tensor(drawn, device=hidden.device).expand(hidden.shape[0], -1)  # [T, tokens]
        return VisionTokens(gather_rows(hidden, positions + int(evidence.has_cls)), positions)
