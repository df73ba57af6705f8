"""SparseVLM: drop visual tokens in three stages, judged by the words of the question that the image answers to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from visionzip.core.budget import check_count
from visionzip.core.select import gather_rows
from visionzip.in_llm.tokens import Tokens, ranked, rearranged

# Source: SparseVLM (2410.04417) and its published code, v1.0: visual tokens kept after layers 2, 6 and 15 of an image
# of 576; the name is the mean over the layers of LLaVA-1.5-7B by the authors' own account.
SCHEDULES: dict[int, tuple[int, int, int]] = {
    192: (300, 200, 110),
    128: (303, 110, 36),
    96: (238, 48, 26),
    64: (66, 30, 17),
}
SCHEDULE_TOKENS = 576


@dataclass(frozen=True)
class SparseVLM:
    """Keep `counts` visual tokens after `layers` by the attention they get from the raters, and merge some of the rest.

    counts: visual tokens kept after each of `layers` (0-based); such a layer runs on all and its output is pruned.
    of: the counts are meant for an image of that many tokens and scale with the number a row has; None: as they are.
        Budgets for the tilings of LLaVA-NeXT are not published; this is how to carry the schedule over.
    recycle: the best of the dropped tokens are clustered; the clusters' means join the visual tokens.

    Raters are the text tokens behind the image that the image's embeddings resemble more than the mean; they are chosen
    once, on the input embeddings. Position ids behind a pruned layer count from 0 without gaps.

    As the published code, version 1.0, but for:
    - a batch, and the image's place: every row has its raters and its visual tokens (there: one row, 576 from place
      35). Several images of a row count as one; the text behind the last of them can rate.
    - decoding: each layer places a new token right behind the tokens its cache holds. There, new tokens go on at the
      full prompt's length in all layers, which leaves a gap as wide as what was dropped between question and answer.
    - ties: clustering adds no noise to tell equal densities apart, so that a run can be repeated.
    - a count that is not smaller than what is there drops nothing (there: always one), and scores are float32.

    Source: SparseVLM (2410.04417).

    Raises: ValueError for counts that are none, layers that do not ascend, or not one count per layer.
    """

    counts: tuple[int, ...]
    layers: tuple[int, ...] = (2, 6, 15)
    of: int | None = None
    recycle: bool = True

    def __post_init__(self) -> None:
        for layer in self.layers:
            check_count("layers", layer, minimum=0)
        for count in self.counts:
            check_count("counts", count, minimum=0)
        if self.of is not None:
            check_count("of", self.of)
        if len(self.counts) != len(self.layers) or sorted(set(self.layers)) != list(self.layers):
            raise ValueError(f"give one count per layer, layers ascending; got {self.counts} for layers {self.layers}")

    def kept(self, layer: int, num_visual: int) -> int:
        """The count of `layer`, scaled to a row of `num_visual` tokens if `of` is given."""
        count = self.counts[self.layers.index(layer)]
        return count if self.of is None else round(count * num_visual / self.of)

    def judges(self, embeds: Tensor, visual: Tensor) -> Tensor:
        """[B, L] bool: the raters."""
        return raters(embeds, visual)

    def prune(self, tokens: Tokens, scores: Tensor, kept: Sequence[int]) -> Tokens:
        """Drop all but the best `kept` visual tokens of each row, and append what is recycled from the others."""
        order = ranked(scores, tokens.visual)
        merged = recycled(tokens.hidden, order, kept, tokens.num_visual) if self.recycle else None
        return rearranged(tokens, order, kept, merged, renumber=True)


def schedule(mean: int, *, scaled: bool = False) -> SparseVLM:
    """The published schedule named after its mean of visual tokens per layer: 192, 128, 96 or 64.

    scaled: carry it over to images that have not 576 tokens. Raises: ValueError listing the names.
    """
    if mean not in SCHEDULES:
        raise ValueError(f"no SparseVLM schedule is published for {mean} tokens; known: {sorted(SCHEDULES)}")
    return SparseVLM(SCHEDULES[mean], of=SCHEDULE_TOKENS if scaled else None)


def raters(embeds: Tensor, visual: Tensor) -> Tensor:
    """The text tokens the image speaks to: embeds [B, L, D] padded on the left, visual [B, L] bool -> [B, L] bool.

    Every visual token spreads a probability of 1 over the row's text behind its last visual token, the softmax of their
    dot products; a text token whose mean over the visual tokens is above the mean of all, or that has the largest, is a
    rater. (Without the latter, equal ones would all fall out.) A row without visual tokens has none.
    """
    place = torch.arange(visual.shape[1], device=visual.device)
    last = torch.where(visual, place, -1).amax(dim=1, keepdim=True)
    text = (place > last) & (last >= 0)  # [B, L]
    longest = int(text.sum(dim=1).max())  # padding is on the left, so the text is the end of every row
    if not longest:
        return torch.zeros_like(visual)
    words, text = embeds[:, -longest:].float(), text[:, -longest:]
    logits = (embeds.float() @ words.transpose(1, 2)).masked_fill(~text[:, None], float("-inf"))  # [B, L, text]
    share = torch.where(visual[..., None], logits.softmax(dim=-1), 0).sum(dim=1)
    share = share / visual.sum(dim=1, keepdim=True).clamp_min(1)  # [B, text]
    mean = share.sum(dim=1, keepdim=True) / text.sum(dim=1, keepdim=True).clamp_min(1)
    chosen = text & ((share > mean) | (share == share.amax(dim=1, keepdim=True)))
    return pad(chosen, (visual.shape[1] - longest, 0), value=False)


def recycled(
    hidden: Tensor, order: Tensor, kept: Sequence[int], num_visual: Sequence[int]
) -> tuple[Tensor, tuple[int, ...]]:
    """Cluster means of the best dropped tokens: int(0.3 * P) + 1 of P, in a tenth as many clusters (and one more).

    hidden: [B, L, D]; order: [B, L] visual tokens by score, see `ranked`; kept, num_visual: per row.
    -> [B, c, D] with zeros behind a row's last one, and how many each row has (none where nothing was dropped).
    """
    pairs = list(zip(kept, num_visual, strict=True))
    counts = tuple(_clusters(_recyclable(total - stay)) for stay, total in pairs)
    means = hidden.new_zeros(len(pairs), max(counts), hidden.shape[2])
    for stay, total in sorted(set(pairs)):
        best = _recyclable(total - stay)
        # A slice where all rows agree: a list of rows would be copied to the device.
        same = slice(None) if len(set(pairs)) == 1 else [r for r, pair in enumerate(pairs) if pair == (stay, total)]
        if best:
            rows = gather_rows(hidden[same], order[same, stay : stay + best])
            means[same, : _clusters(best)] = cluster_means(rows, _clusters(best))
    return means, counts


def _recyclable(pruned: int) -> int:
    return int(0.3 * pruned) + 1 if pruned else 0


def _clusters(tokens: int) -> int:
    return int(tokens / 10) + 1 if tokens else 0


def cluster_means(tokens: Tensor, clusters: int) -> Tensor:
    """Density peaks clustering with k nearest neighbours (DPC-KNN): tokens [B, P, D] -> means [B, clusters, D].

    The density of a token is exp(-mean squared distance to its k nearest, itself included), k = `clusters`; its peak
    score is density times distance to the nearest denser token (the densest: the largest distance of all). The best
    scores are centres; every other token joins the nearest centre. Distances are Euclidean over sqrt(D), in float32; of
    equal values the first counts. Means come by falling score of their centres, in the dtype of `tokens`.
    """
    wide = tokens.float()
    distance = torch.cdist(wide, wide) / tokens.shape[2] ** 0.5  # [B, P, P]
    nearest = distance.topk(clusters, dim=-1, largest=False).values
    density = (-nearest.square().mean(dim=-1)).exp()  # [B, P]
    denser = density[:, None, :] > density[:, :, None]
    peak = torch.where(denser, distance, distance.amax(dim=(1, 2), keepdim=True)).amin(dim=-1) * density
    centres = peak.sort(dim=1, descending=True, stable=True).indices[:, :clusters]  # [B, c]

    to_centres = gather_rows(distance, centres).scatter(2, centres[..., None], -1.0)  # [B, c, P]; a centre is its own
    label = to_centres.argmin(dim=1)  # [B, P]
    member = (label[:, None] == torch.arange(clusters, device=label.device)[:, None]).to(wide.dtype)  # [B, c, P]
    return (member @ wide / member.sum(dim=-1, keepdim=True)).to(tokens.dtype)
