"""Put image tokens into text rows and pad the rows to one batch.

B rows, L tokens of the batch, l tokens of one row, D LLM width, K' tokens of one image.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX

logger = logging.getLogger(__name__)

Side = Literal["left", "right"]


@dataclass(frozen=True)
class TextRow:
    """One row without padding: embeds [l, D] and labels [l] (IGNORE_INDEX where nothing is learned)."""

    embeds: Tensor
    labels: Tensor


@dataclass(frozen=True)
class RowImages:
    """Which entries of the batch's image list one row uses, and the entry a text-only row owns without using it."""

    used: tuple[int, ...]
    unused: int | None = None


@dataclass(frozen=True)
class Batch:
    """Padded rows: embeds [B, L, D] (zeros at padding), labels [B, L] (IGNORE_INDEX there), mask [B, L] bool,
    position_ids [B, L] int64 counting from 0 at the first real token of each row (0 at padding)."""

    embeds: Tensor
    labels: Tensor
    mask: Tensor
    position_ids: Tensor


def assign_images(placeholders: Sequence[int], num_images: int) -> list[RowImages]:
    """Give every row its images, in order.

    Two conventions are understood. One image per placeholder; or, as LLaVA's training data has it, at least one image
    per row, so that a text-only row owns an image it does not use.

    Args:
        placeholders: number of image tokens of each row.
        num_images: length of the image list of the batch.

    Raises:
        ValueError: the list fits neither; the message names the first row that goes wrong, and all counts.
    """
    dummies = num_images != sum(placeholders)
    if dummies and num_images != sum(max(1, count) for count in placeholders):
        raise ValueError(_count_mismatch(placeholders, num_images))
    rows, start = [], 0
    for count in placeholders:
        unused = start if dummies and count == 0 else None
        rows.append(RowImages(tuple(range(start, start + count)), unused))
        start += count + (unused is not None)
    return rows


def _count_mismatch(placeholders: Sequence[int], num_images: int) -> str:
    hint = "check <image> in the prompts and the image list"
    if len(placeholders) == 1:
        return f"row 0 holds {placeholders[0]} image tokens but got {num_images} images; {hint}"
    needed = 0
    for row, count in enumerate(placeholders):
        left = max(0, num_images - needed)
        needed += count
        if needed > num_images:
            return (
                f"row {row} holds {count} image tokens but only {left} images are left for it; image tokens per row: "
                f"{list(placeholders)}, images: {num_images}; {hint}"
            )
    return f"got {num_images} images for {needed} image tokens (per row: {list(placeholders)}); {hint}"


def splice_batch(
    input_ids: Tensor,
    images: Sequence[Tensor],
    embed: Callable[[Tensor], Tensor],
    *,
    mask: Tensor | None = None,
    labels: Tensor | None = None,
    side: Side = "right",
    max_length: int | None = None,
    training: bool = False,
    arrange: Callable[[Sequence[TextRow]], Batch] | None = None,
) -> Batch:
    """Text rows and image tokens to one padded batch of embeddings.

    Args:
        input_ids, images, embed, mask, labels, max_length, training: see `splice_rows`.
        side: see `pad_rows`.
        arrange: makes the batch of the rows instead of `pad_rows`.

    Raises:
        ValueError: as `splice_rows`.
    """
    rows = splice_rows(input_ids, images, embed, mask=mask, labels=labels, max_length=max_length, training=training)
    return pad_rows(rows, side) if arrange is None else arrange(rows)


def splice_rows(
    input_ids: Tensor,
    images: Sequence[Tensor],
    embed: Callable[[Tensor], Tensor],
    *,
    mask: Tensor | None = None,
    labels: Tensor | None = None,
    max_length: int | None = None,
    training: bool = False,
) -> list[TextRow]:
    """Text rows and image tokens to rows of embeddings, each of its own length.

    With ids and mask on the CPU nothing here waits for an accelerator, whatever it still has to do for the images.

    Args:
        input_ids: [B, l] token ids; IMAGE_TOKEN_INDEX stands for a whole image.
        images: one [K', D] per image token, or per row as well (see `assign_images`).
        embed: the LLM's token embedding, [n] ids -> [n, D]; called once for all text of the batch.
        mask: [B, l], nonzero at real tokens on whichever side; None: all real.
        labels: [B, l]; None: nothing to learn.
        max_length, training: see `truncate`.

    Raises:
        ValueError: image tokens and images do not fit, or see `truncate`.
    """
    if mask is not None and mask.shape != input_ids.shape:
        raise ValueError(f"attention_mask {tuple(mask.shape)} does not fit input_ids {tuple(input_ids.shape)}")
    if labels is not None and labels.shape != input_ids.shape:
        raise ValueError(f"labels {tuple(labels.shape)} do not fit input_ids {tuple(input_ids.shape)}")
    labels = torch.full_like(input_ids, IGNORE_INDEX) if labels is None else labels
    real = torch.ones_like(input_ids, dtype=torch.bool) if mask is None else mask.bool()
    row_ids = [ids[keep] for ids, keep in zip(input_ids, real, strict=True)]
    row_labels = [row[keep] for row, keep in zip(labels, real, strict=True)]

    text = [ids[ids != IMAGE_TOKEN_INDEX] for ids in row_ids]
    embeds = torch.split(embed(torch.cat(text)), [len(ids) for ids in text])
    owned = assign_images([len(ids) - len(words) for ids, words in zip(row_ids, text, strict=True)], len(images))
    rows = [
        splice(ids, words, targets, [images[i] for i in own.used], None if own.unused is None else images[own.unused])
        for ids, words, targets, own in zip(row_ids, embeds, row_labels, owned, strict=True)
    ]
    return truncate(rows, max_length, training=training)


def splice(
    ids: Tensor, embeds: Tensor, labels: Tensor, images: Sequence[Tensor], unused: Tensor | None = None
) -> TextRow:
    """Replace each IMAGE_TOKEN_INDEX of one row by an image's tokens; labels there become IGNORE_INDEX.

    Args:
        ids: [l], the row's token ids without padding.
        embeds: [l - number of image tokens, D], embeddings of the other ids.
        labels: [l].
        images: one [K', D] per image token.
        unused: [K', D] of an image that a text-only row owns. No token of it enters, but the row then depends on the
            tower and the projector as every other row does, which distributed training expects.

    Returns:
        the longer row, on the device and in the dtype of `embeds`.
    """
    where = (ids == IMAGE_TOKEN_INDEX).nonzero(as_tuple=True)[0].tolist()
    if not where:
        return TextRow(embeds if unused is None else torch.cat([embeds, unused[:0].to(embeds)]), labels)
    edges = [-1, *where, len(ids)]
    lengths = [stop - start - 1 for start, stop in pairwise(edges)]
    texts = torch.split(embeds, lengths)
    parts, targets = [texts[0]], [labels[: lengths[0]]]
    for image, text, start in zip(images, texts[1:], where, strict=True):
        parts += [image.to(embeds), text]
        targets += [labels.new_full((len(image),), IGNORE_INDEX), labels[start + 1 : start + 1 + len(text)]]
    return TextRow(torch.cat(parts), torch.cat(targets))


def truncate(rows: Sequence[TextRow], max_length: int | None, *, training: bool = False) -> list[TextRow]:
    """Cut every row to `max_length` tokens (None: no cut). Outside training a cut loses the end of a prompt: it warns.

    Raises:
        ValueError: in training, a row had labels and the cut leaves none, which would train on nothing (loss NaN).
    """
    if max_length is None:
        return list(rows)
    out = []
    for index, row in enumerate(rows):
        cut = TextRow(row.embeds[:max_length], row.labels[:max_length])
        if training and len(row.labels) > max_length and not _has_labels(cut) and _has_labels(row):
            raise ValueError(
                f"row {index} has {len(row.labels)} tokens with its images; cut to {max_length} "
                "(tokenizer_model_max_length) it has nothing left to learn. Drop the sample, shorten its prompt or "
                "raise model_max_length"
            )
        if not training and len(row.labels) > max_length:
            logger.warning(
                "row %d has %d tokens with its images; cut to %d (tokenizer_model_max_length), the end is lost",
                index,
                len(row.labels),
                max_length,
            )
        out.append(cut)
    return out


def _has_labels(row: TextRow) -> bool:
    return bool((row.labels != IGNORE_INDEX).any())


def pad_rows(rows: Sequence[TextRow], side: Side) -> Batch:
    """Pad the rows on one side to the longest. -> Batch of [B, L, ...]"""
    if side not in ("left", "right"):
        raise ValueError(f"tokenizer_padding_side must be 'left' or 'right'; got {side!r}")
    embeds = _stack([row.embeds for row in rows], 0.0, side)
    labels = _stack([row.labels for row in rows], IGNORE_INDEX, side)
    ones = [torch.ones(len(row.labels), dtype=torch.bool, device=embeds.device) for row in rows]
    mask = _stack(ones, False, side)
    position_ids = (mask.long().cumsum(1) - 1).masked_fill(~mask, 0)
    return Batch(embeds, labels, mask, position_ids)


def left_padded(embeds: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Move padding to the left so that the last position of every row is real, as generation needs.

    embeds [B, L, D], mask [B, L] (nonzero at real tokens) -> the same shapes.
    """
    order = mask.bool().int().argsort(dim=1, stable=True)  # padding first, real tokens in their order
    return embeds.gather(1, order[..., None].expand_as(embeds)), mask.gather(1, order)


def _stack(rows: Sequence[Tensor], value: float, side: Side) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=value, padding_side=side)
