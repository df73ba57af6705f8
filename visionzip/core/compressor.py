"""VisionZip: scores -> select -> merge, over all tiles at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from visionzip.core.budget import Budget
from visionzip.core.merge import MERGES, Merge, head_mean, merge_rows
from visionzip.core.scores import patch_scores
from visionzip.core.select import gather_rows, split_by_score
from visionzip.core.stages import stage
from visionzip.core.types import VisionEvidence, VisionTokens


@dataclass(frozen=True)
class VisionZip:
    """Keep `dominant` tokens by CLS attention (CLS is one of them) and merge the rest into `contextual`.

    Tokens leave as [CLS, dominant patches in spatial order, contextual]; K = dominant + contextual per tile. A tower
    without CLS keeps `dominant` patches by the attention they receive, see `core.scores.patch_scores`.
    Gradient flows to `hidden` through kept and merged rows; the choice itself has none. Works under autocast (switched
    off inside) and torch.compile; deterministic, no host sync. Its two steps are the stages "score" and "merge".

    Source: VisionZip (2412.04467); `merge` as in `core.merge.merge_rows`.

    Raises: ValueError for numbers that are no counts, or a budget that does not fit the tile.
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

    def tokens_per_tile(self, num_patches: int, has_cls: bool = True) -> int:
        """dominant + contextual. Raises: ValueError when the tile's num_patches (+ 1 with CLS) rows are fewer."""
        self.budget.check_fits(num_patches, has_cls)
        return self.budget.total

    def to_config(self) -> dict[str, Any]:
        """{"method": "visionzip", "dominant": ..., "contextual": ..., "merge": ...}."""
        return {"method": self.method, "dominant": self.dominant, "contextual": self.contextual, "merge": self.merge}

    def __call__(self, evidence: VisionEvidence) -> VisionTokens:
        """[T, S, C] -> features [T, K, C] in the dtype of `hidden`, positions [T, K]; row 0 is CLS where S = 1 + N."""
        hidden, has_cls = evidence.hidden, evidence.has_cls
        self.tokens_per_tile(evidence.num_patches, has_cls)
        with torch.autocast(hidden.device.type, enabled=False):
            with stage("score"):
                scores = patch_scores(evidence)  # [T, N]
            with stage("merge"):
                kept, rest = split_by_score(scores, self.dominant, has_cls)
                metric = gather_rows(head_mean(evidence.keys), rest)  # [T, R, d]
                merged = merge_rows(gather_rows(hidden, rest), metric, self.contextual, self.merge)
                features = torch.cat([gather_rows(hidden, kept), merged], dim=1)  # [T, K, C]
                placeless = kept.new_full((kept.shape[0], self.contextual), -1)
                positions = torch.cat([kept - int(has_cls), placeless], dim=1)  # [T, K]
        return VisionTokens(features, positions, has_cls)
