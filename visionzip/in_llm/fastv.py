"""FastV: after a few layers, keep the visual tokens the last prompt token attends to most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from visionzip.core.budget import check_count
from visionzip.in_llm.tokens import Tokens, ranked, rearranged


@dataclass(frozen=True)
class FastV:
    """Layers 0 to `layer` - 1 see all visual tokens (N per row), the others the best ones by attention of `layer` - 1.

    layer: K of the paper, at least 1.
    ratio: R of the paper, the share that is dropped: round(N * (1 - R)) stay.
    keep: how many stay instead, for a fixed budget; a row with fewer visual tokens keeps all.

    Kept tokens stay in order with their position ids, text is never dropped, decoding goes on at the prompt's length.
    As the published code's variant with a KV cache; it differs in that every row of a batch is judged by its own last
    token (there: by the first row's), visual tokens are found in the prompt (there: 576 from place 35), and scores are
    float32. K = 0, a random choice there, is not offered.

    Source: FastV (2403.06764).

    Raises: ValueError for a layer below 1, a ratio outside 0 to 1, a keep below 0.
    """

    layer: int = 2
    ratio: float = 0.5
    keep: int | None = None

    def __post_init__(self) -> None:
        check_count("layer", self.layer)
        if not 0 <= self.ratio <= 1:
            raise ValueError(f"ratio is the share of visual tokens that is dropped, 0 to 1; got {self.ratio}")
        if self.keep is not None:
            check_count("keep", self.keep, minimum=0)

    @property
    def layers(self) -> tuple[int, ...]:
        """The one layer after which tokens are dropped: K - 1."""
        return (self.layer - 1,)

    def kept(self, layer: int, num_visual: int) -> int:
        """round(N * (1 - ratio)), or `keep`."""
        return round(num_visual * (1 - self.ratio)) if self.keep is None else self.keep

    def judges(self, embeds: Tensor, visual: Tensor) -> Tensor:
        """[B, L] bool: the last token of every row."""
        return torch.arange(visual.shape[1], device=visual.device).expand(visual.shape) == visual.shape[1] - 1

    def prune(self, tokens: Tokens, scores: Tensor, kept: Sequence[int]) -> Tokens:
        """Drop all but the best `kept` visual tokens of each row."""
        return rearranged(tokens, ranked(scores, tokens.visual), kept)


def keep_for_mean(mean: float, num_visual: int, num_layers: int, layer: int = 2) -> int:
    """Tokens FastV keeps behind layer K so that a layer runs on `mean` visual tokens on average.

    This is how papers give FastV the budget of a method that drops tokens before the language model.

    >>> keep_for_mean(192, num_visual=576, num_layers=32)
    166

    Raises: ValueError when the first K layers alone are above the mean.
    """
    keep = round((mean * num_layers - layer * num_visual) / (num_layers - layer))
    if keep < 0:
        raise ValueError(
            f"a mean of {mean} visual tokens is out of reach: the first {layer} of {num_layers} layers run on all "
            f"{num_visual}; lower layer or raise the mean above {layer * num_visual / num_layers:g}"
        )
    return keep
