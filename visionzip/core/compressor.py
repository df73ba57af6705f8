"""VisionZip: scores -> select -> merge, over all tiles at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from visionzip.core.budget import Budget
from visionzip.core.merge import MERGES, Merge, head_mean, merge_rows
from visionzip.core.scores import patch_scores
from visionzip.core.select import gather_rows, split_by_score
from visionzip.core.types import VisionEvidence, VisionTokens


@dataclass(frozen=True)
class VisionZip:
    """Keep `dominant` tokens by CLS attention (CLS is one of them) and merge the rest into `contextual`.

    Tokens leave as [CLS, dominant patches in spatial order, contextual]; K = dominant + contextual per tile.
    Gradient flows to `hidden` through kept and merged rows; the choice itself has none. Works under autocast (switched
    off inside) and torch.compile; deterministic, no Python loop over tiles, no host sync.

    Source: VisionZip (2412.04467); `merge` as in `core.merge.merge_rows`.

    Raises: ValueError for numbers that are no counts, a budget that does not fit the tile, or a tower without CLS.
    """

    method: ClassVar[str] = "visionzip"

    dominant: int
    contextual: int
    merge: Merge = "official"

    def __post_init__(self) -> None:
        _ = self.budget  # refuses numbers that are no counts
        if self.merge not in MERGES:
            raise ValueError(f"merge must be one of {', '.join(MERGES)}, got {self.merge!r}")

    @property
    def budget(self) -> Budget:
        """The two numbers as a Budget."""
        return Budget(self.dominant, self.contextual)

    def tokens_per_tile(self, num_patches: int) -> int:
        """dominant + contextual. Raises: ValueError when 1 + num_patches rows are fewer than that."""
        self.budget.check_fits(num_patches)
        return self.budget.total

    def to_config(self) -> dict[str, Any]:
        """{"method": "visionzip", "dominant": ..., "contextual": ..., "merge": ...}."""
        return {"method": self.method, "dominant": self.dominant, "contextual": self.contextual, "merge": self.merge}

    def __call__(self, evidence: VisionEvidence) -> VisionTokens:
        """[T, 1+N, C] -> features [T, K, C] in the dtype of `hidden`, positions [T, K], row 0 is CLS."""
        hidden = evidence.hidden
        with torch.autocast(hidden.device.type, enabled=False):
            scores = patch_scores(evidence)  # [T, N]
            self.tokens_per_tile(evidence.num_patches)
            kept, rest = split_by_score(scores, self.dominant)
            metric = gather_rows(head_mean(evidence.keys), rest)  # [T, R, d]
            merged = merge_rows(gather_rows(hidden, rest), metric, self.contextual, self.merge)
            features = torch.cat([gather_rows(hidden, kept), merged], dim=1)  # [T, K, C]
        placeless = kept.new_full((kept.shape[0], self.contextual), -1)
        return VisionTokens(features, torch.cat([kept - 1, placeless], dim=1), has_cls=True)
