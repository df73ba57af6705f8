"""Instruction rows as training samples, made when they are asked for.

Images go through `llava.mm_utils.process_images` with the model's own config, so training and evaluation see a picture
in the same way. Nothing is replaced: a missing or broken image stops the run with the file and the row named.
"""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from llava.constants import IMAGE_TOKEN_INDEX
from llava.data.preprocess import preprocess
from llava.data.rows import Row, images_of, row_id, scan_rows, word_counts
from llava.data.subset import Subset
from llava.mm_utils import load_image, process_images

logger = logging.getLogger(__name__)


class LazySupervisedDataset(Dataset[dict[str, Any]]):
    """Rows of a LLaVA JSON or JSON-lines file, optionally the rows of a manifest only.

    A sample holds `input_ids` [L] and `labels` [L] (int64), and in a multimodal run `images` and `image_sizes` (lists,
    see `llava.data.collator`). A text-only row then carries one zero tile: every row consumes an image of the batch,
    and so every process runs the tower in every step.

    Args:
        data_path: the file.
        tokenizer: Hugging Face tokenizer; `model_max_length` cuts longer rows.
        version: key of the conversation template.
        image_folder: folder the image paths are relative to.
        image_processor: of the vision tower; None for a text-only run.
        model_cfg: config with image_aspect_ratio and image_grid_pinpoints, normally the model's.
        subset_manifest: train on these rows only.
        max_bad_rows: so many rows of the file may break the format; they are logged and left out.

    Raises:
        ValueError: broken data (see `llava.data.rows`), a manifest of another file, images without a processor.
    """

    def __init__(
        self,
        data_path: str | Path,
        tokenizer: Any,
        *,
        version: str,
        image_folder: str | Path | None = None,
        image_processor: Any = None,
        model_cfg: Any = None,
        subset_manifest: str | Path | None = None,
        max_bad_rows: int = 0,
    ) -> None:
        self.data_path = Path(data_path)
        self.tokenizer = tokenizer
        self.version = version
        self.image_folder = Path(image_folder or ".")
        self.image_processor = image_processor
        self.model_cfg = model_cfg
        rows, bad = scan_rows(data_path, max_bad_rows)
        chosen = Subset.load(subset_manifest).apply(rows, data_path) if subset_manifest else range(len(rows))
        self.indices = [index for index in chosen if index not in bad]
        self.rows: list[Row] = [rows[index] for index in self.indices]
        if image_processor is None and any(self.has_image):
            raise ValueError(f"{data_path} has rows with images, but the run has no vision tower; give --vision_tower")
        logger.info("%s: %d of %d rows, %d with images", data_path, len(self.rows), len(rows), sum(self.has_image))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lengths(self) -> list[int]:
        """Words per row, the cheap length the sampler groups by."""
        return word_counts(self.rows)

    @property
    def has_image(self) -> list[bool]:
        return [bool(images_of(row)) for row in self.rows]

    def __getitem__(self, position: int) -> dict[str, Any]:
        row = self.rows[position]
        try:
            return self._sample(row)
        except ValueError as error:
            index = self.indices[position]
            raise ValueError(f"{self.data_path} row {index} (id {row_id(row, index)}): {error}") from error

    def _sample(self, row: Row) -> dict[str, Any]:
        paths = images_of(row)
        encoded = preprocess(
            row["conversations"],
            self.tokenizer,
            self.version,
            has_image=bool(paths),
            mm_use_im_start_end=bool(getattr(self.model_cfg, "mm_use_im_start_end", False)),
        )
        limit = self.tokenizer.model_max_length
        sample: dict[str, Any] = {key: encoded[key][:limit] for key in ("input_ids", "labels")}
        if self.image_processor is None:
            return sample
        # A cut may take placeholders of later pictures with it; their images go too.
        kept = int((sample["input_ids"] == IMAGE_TOKEN_INDEX).sum())
        pictures = [self._load(path) for path in paths[:kept]] or [self._zero_tile()]
        sample["images"] = [tiles for tiles, _ in pictures]
        sample["image_sizes"] = [size for _, size in pictures]
        return sample

    def _load(self, path: str) -> tuple[Tensor, tuple[int, int]]:
        """Pixels [3, S, S] or tiles [1+n, 3, S, S], and the picture's (W, H)."""
        picture = load_image(self.image_folder / path)
        return process_images([picture], self.image_processor, self.model_cfg)[0], picture.size

    def _zero_tile(self) -> tuple[Tensor, tuple[int, int]]:
        crop = self.image_processor.crop_size
        height, width = crop["height"], crop["width"]
        zero = torch.zeros(3, height, width)
        tiled = "anyres" in (getattr(self.model_cfg, "image_aspect_ratio", None) or "")
        return (zero[None] if tiled else zero), (width, height)
