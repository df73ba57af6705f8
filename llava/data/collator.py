"""From rows to a batch: right padding, masks from lengths, images flattened in row order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llava.constants import IGNORE_INDEX
from llava.encoded import join_images


@dataclass(frozen=True)
class DataCollatorForSupervisedDataset:
    """Pad rows to the longest and gather their images.

    Each row gives `input_ids` [L] int64 (image sentinels included), `labels` [L] int64, and, in a multimodal run,
    `images` (list of [3, S, S], or [1+n, 3, S, S] with tiles, or of the tower's tokens, see `llava.encoded`) and
    `image_sizes` (list of (W, H)); text-only rows there carry one zero image, because every row consumes at least one
    image of the batch.

    The batch holds `input_ids`, `labels`, `attention_mask` [B, L], the rows' `names` where they have one, and `images`,
    `image_sizes` over all rows in order. `images` is one tensor [I, 3, S, S] when all are single equal tiles, else a
    list; tokens are joined.

    The mask comes from the lengths, not from `input_ids != pad`: Vicuna pads with `<unk>`, which may occur in text.
    """

    pad_token_id: int

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        longest = max(len(row["input_ids"]) for row in rows)
        shape = (len(rows), longest)
        batch: dict[str, Any] = {
            "input_ids": torch.full(shape, self.pad_token_id, dtype=torch.long),
            "labels": torch.full(shape, IGNORE_INDEX, dtype=torch.long),
            "attention_mask": torch.zeros(shape, dtype=torch.bool),
        }
        for number, row in enumerate(rows):
            length = len(row["input_ids"])
            if len(row["labels"]) != length:
                raise ValueError(f"row {number} of the batch has {length} ids but {len(row['labels'])} labels")
            batch["input_ids"][number, :length] = row["input_ids"]
            batch["labels"][number, :length] = row["labels"]
            batch["attention_mask"][number, :length] = True
        if all("name" in row for row in rows):
            batch["names"] = [row["name"] for row in rows]
        if any("images" in row for row in rows):
            batch |= _gather_images(rows)
        return batch


def _gather_images(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Images and sizes of all rows in order; a row without any gets a zero tile, which its missing sentinel ignores."""
    if any(isinstance(image, dict) for row in rows for image in row.get("images", ())):
        return {
            "images": join_images([image for row in rows for image in row["images"]]),
            "image_sizes": [size for row in rows for size in row["image_sizes"]],
        }
    sample: Tensor = next(row["images"][0] for row in rows if "images" in row)
    side = sample.shape[-1]
    zero = torch.zeros_like(sample if sample.dim() == 3 else sample[:1])
    images: list[Tensor] = []
    sizes: list[tuple[int, int]] = []
    for row in rows:
        images += row.get("images", [zero])
        sizes += row.get("image_sizes", [(side, side)])
    stackable = all(image.dim() == 3 and image.shape == images[0].shape for image in images)
    return {"images": torch.stack(images) if stackable else images, "image_sizes": sizes}
