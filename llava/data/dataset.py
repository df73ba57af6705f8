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

from llava.anyres import is_tiled
from llava.constants import IMAGE_TOKEN_INDEX
from llava.data.feature_cache import FeatureCache
from llava.data.masked import MaskedRows, empty_sample
from llava.data.preprocess import MaskingError, preprocess
from llava.data.rows import Row, images_of, row_id, word_counts
from llava.data.sets import choose_rows
from llava.encoded import EncodedImages
from llava.mm_utils import load_image, process_images

logger = logging.getLogger(__name__)


class LazySupervisedDataset(Dataset[dict[str, Any]]):
    """Rows of a LLaVA JSON or JSON-lines file, or of a list of such files; optionally the rows of a manifest only.

    A sample holds `input_ids` [L] and `labels` [L] (int64), its `name` for messages, and in a multimodal run `images`
    and `image_sizes` (lists, see `llava.data.collator`). A text-only row then carries one zero tile: every row consumes
    an image of the batch, and so every process runs the tower in every step. With a cache in the slot `features`,
    `images` are what the tower made of them (`llava.encoded`) and no image file is opened.

    Args:
        data_path: the file, or a list of files (see `llava.data.sets`).
        tokenizer: Hugging Face tokenizer; `model_max_length` cuts longer rows.
        version: key of the conversation template.
        image_folder: folder the image paths are relative to.
        image_processor: of the vision tower; None for a text-only run.
        model_cfg: config with image_aspect_ratio and image_grid_pinpoints, normally the model's.
        subset_manifest: train on these rows only.
        max_bad_rows: so many rows may break the format or have no labels; they are logged and teach nothing.
        skip_text_only: leave rows without an image out.

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
        skip_text_only: bool = False,
    ) -> None:
        self.data_path = Path(data_path)
        self.tokenizer = tokenizer
        self.version = version
        self.image_folder = Path(image_folder or ".")
        self.image_processor = image_processor
        self.model_cfg = model_cfg
        self.features: FeatureCache | None = None
        everything = choose_rows(data_path, subset_manifest, max_bad_rows)
        self.chosen = everything.with_images() if skip_text_only else everything
        self.rows: list[Row] = self.chosen.rows
        self.skipped_text_only = len(everything.rows) - len(self.rows)
        self.masked = MaskedRows(len(self.rows), max_bad_rows - everything.bad)
        if image_processor is None and any(self.has_image):
            raise ValueError(f"{data_path} has rows with images, but the run has no vision tower; give --vision_tower")
        logger.info("%s: %d rows, %d with images", data_path, len(self.rows), sum(self.has_image))
        if self.skipped_text_only:
            logger.info("%s: %d text-only rows left out (skip_text_only)", data_path, self.skipped_text_only)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lengths(self) -> list[int]:
        """Words per row, the cheap length the sampler groups by."""
        return word_counts(self.rows)

    @property
    def has_image(self) -> list[bool]:
        return [bool(images_of(row)) for row in self.rows]

    def image_files(self) -> list[Path]:
        """Every image file of the rows, in order, as often as it is used."""
        return [self.image_folder / path for row in self.rows for path in images_of(row)]

    def __getitem__(self, position: int) -> dict[str, Any]:
        row = self.rows[position]
        try:
            return {**self._sample(position, row), "name": self.name_of(position)}
        except ValueError as error:
            raise ValueError(f"{self.name_of(position)}: {error}") from error

    def name_of(self, position: int) -> str:
        """File, index and id of a row, for messages."""
        origin = self.chosen.origins[position]
        return f"{origin.file} row {origin.index} (id {row_id(self.rows[position], origin.index)})"

    def _sample(self, position: int, row: Row) -> dict[str, Any]:
        paths = images_of(row)
        try:
            encoded = preprocess(
                row["conversations"],
                self.tokenizer,
                self.version,
                has_image=bool(paths),
                mm_use_im_start_end=bool(getattr(self.model_cfg, "mm_use_im_start_end", False)),
            )
        except MaskingError as error:
            self.masked.add(position, str(error), self.name_of(position))
            encoded = empty_sample(self.tokenizer.pad_token_id or 0)
        limit = self.tokenizer.model_max_length
        sample: dict[str, Any] = {key: encoded[key][:limit] for key in ("input_ids", "labels")}
        if self.image_processor is None:
            return sample
        # A cut may take placeholders of later pictures with it; their images go too.
        kept = int((sample["input_ids"] == IMAGE_TOKEN_INDEX).sum())
        try:
            pictures = [self._load(path) for path in paths[:kept]] or [self._zero_tile()]
        except ValueError as error:
            self.masked.add(position, str(error), self.name_of(position))
            sample = empty_sample(self.tokenizer.pad_token_id or 0)
            pictures = [self._zero_tile()]
        sample["images"] = [tiles for tiles, _ in pictures]
        sample["image_sizes"] = [size for _, size in pictures]
        return sample

    def _load(self, path: str) -> tuple[Tensor | EncodedImages, tuple[int, int]]:
        """Pixels [3, S, S] or tiles [1+n, 3, S, S] or the tower's tokens, and the picture's (W, H)."""
        if self.features is not None:
            return self.features.read(self.image_folder / path)
        picture = load_image(self.image_folder / path)
        return process_images([picture], self.image_processor, self.model_cfg)[0], picture.size

    def _zero_tile(self) -> tuple[Tensor | EncodedImages, tuple[int, int]]:
        crop = self.image_processor.crop_size
        height, width = crop["height"], crop["width"]
        if self.features is not None:
            return self.features.blank(), (width, height)
        zero = torch.zeros(3, height, width)
        tiled = is_tiled(getattr(self.model_cfg, "image_aspect_ratio", None))
        return (zero[None] if tiled else zero), (width, height)
