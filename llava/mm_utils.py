"""From pictures to pixel tensors and from prompts with `<image>` to ids: what stands between files and the model.

T tiles, S side of a tile in pixels, L ids, B rows. Sizes are (width, height).
"""

from __future__ import annotations

import base64
import binascii
import io
import os
import struct
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import StoppingCriteria

from llava.anyres import Size, fit_size, get_anyres_image_grid_shape, parse_pinpoints, select_best_resolution
from llava.constants import (
    DEFAULT_IM_END_TOKEN,
    DEFAULT_IM_START_TOKEN,
    DEFAULT_IMAGE_TOKEN,
    IMAGE_TOKEN_INDEX,
)

__all__ = [
    "CLIP_BACKGROUND",
    "KeywordsStoppingCriteria",
    "divide_to_patches",
    "expand2square",
    "get_anyres_image_grid_shape",
    "get_model_name_from_path",
    "image_mark",
    "load_image",
    "load_image_from_base64",
    "process_anyres_image",
    "process_images",
    "resize_and_pad_image",
    "select_best_resolution",
    "tokenizer_image_token",
]

Color = tuple[int, ...]

# CLIP's mean pixel, the margin of padded pictures: int(255 * mean).
CLIP_BACKGROUND: Color = (122, 116, 104)

PLAIN = (None, "square", "original")
BROKEN_IMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, Image.DecompressionBombError)


# ------------------------------------------------------------------------------------------------------------- pictures


def load_image(path: str | Path, sample_id: object = None) -> Image.Image:
    """Open a picture file (or http address), decode it to the end and convert it to RGB. Orientation tags are ignored.

    Raises:
        ValueError: missing, truncated, or not a picture; names the path, the sample where given, and the cause.
    """
    where = f"image {path}" + ("" if sample_id is None else f" of sample {sample_id}")
    remote = str(path).startswith(("http://", "https://"))
    if not remote and not Path(path).is_file():
        raise ValueError(f"{where} does not exist; check the image folder and the path in the data file")
    try:
        if remote:
            with urllib.request.urlopen(str(path), timeout=60) as response:
                data = io.BytesIO(response.read())
            with Image.open(data) as image:
                return image.convert("RGB")
        with Image.open(path) as image:
            return image.convert("RGB")
    except BROKEN_IMAGE as error:
        raise ValueError(f"{where} cannot be read: {type(error).__name__}: {error}; replace the file") from error


def load_image_from_base64(image: str) -> Image.Image:
    """Decode base64 text to a picture in its own mode.

    Raises:
        ValueError: the text is not base64, or its bytes are no complete picture.
    """
    try:
        picture = Image.open(io.BytesIO(base64.b64decode(image)))
        picture.load()
    except (binascii.Error, *BROKEN_IMAGE) as error:
        raise ValueError(f"base64 text of {len(image)} characters holds no complete picture: {error}") from error
    return picture


def expand2square(image: Image.Image, background_color: Color | int) -> Image.Image:
    """Centre a picture on a square canvas of its own mode; a square picture comes back as it is (the same object)."""
    width, height = image.size
    if width == height:
        return image
    side = max(width, height)
    canvas = Image.new(image.mode, (side, side), background_color)
    canvas.paste(image, ((side - width) // 2, (side - height) // 2))
    return canvas


def resize_and_pad_image(image: Image.Image, target_resolution: Size) -> Image.Image:
    """Scale a picture to fit `target_resolution` without distortion and centre it on a black canvas of that size."""
    width, height = target_resolution
    fitted = fit_size(image.size, (width, height))
    canvas = Image.new("RGB", (width, height), (0, 0, 0))
    canvas.paste(image.resize(fitted), ((width - fitted[0]) // 2, (height - fitted[1]) // 2))
    return canvas


def divide_to_patches(image: Image.Image, patch_size: int) -> list[Image.Image]:
    """Tiles of `patch_size` x `patch_size` pixels, row by row."""
    width, height = image.size
    return [
        image.crop((left, top, left + patch_size, top + patch_size))
        for top in range(0, height, patch_size)
        for left in range(0, width, patch_size)
    ]


# --------------------------------------------------------------------------------------------------- pictures to pixels


def process_images(images: Sequence[Image.Image], image_processor: Any, model_cfg: Any) -> Tensor | list[Tensor]:
    """Pixels of each picture, as the config key `image_aspect_ratio` asks.

    "pad": the whole picture on a square in the processor's mean colour -> [3, S, S]. "anyres" (and "anyres_max_N"):
    overview and tiles, see `process_anyres_image` -> [1+T, 3, S, S]. None, "square", "original": the processor alone,
    short side to S and centre crop -> [3, S, S]. Pictures are converted to RGB first.

    Returns:
        One stacked tensor where all results have the same shape, else a list.

    Raises:
        ValueError: no pictures, or an aspect ratio that is not known here.
    """
    if isinstance(images, Image.Image):
        raise ValueError("process_images takes a list of pictures; put a single one into a list")
    if not images:
        raise ValueError("process_images got no images")
    ratio = getattr(model_cfg, "image_aspect_ratio", None)
    pictures = [image if image.mode == "RGB" else image.convert("RGB") for image in images]
    if ratio in PLAIN:
        pixels: Tensor = image_processor(pictures, return_tensors="pt")["pixel_values"]
        return pixels
    if ratio == "pad":
        margin = tuple(int(channel * 255) for channel in image_processor.image_mean)
        results = [_pixels(expand2square(picture, margin), image_processor) for picture in pictures]
    elif isinstance(ratio, str) and (ratio == "anyres" or ratio.startswith("anyres_max")):
        pinpoints = getattr(model_cfg, "image_grid_pinpoints", None)
        results = [process_anyres_image(picture, image_processor, pinpoints) for picture in pictures]
    else:
        raise ValueError(f"image_aspect_ratio {ratio!r} is none of pad, anyres, anyres_max_N, square, original, None")
    return torch.stack(results) if len({result.shape for result in results}) == 1 else results


def process_anyres_image(image: Image.Image, processor: Any, grid_pinpoints: str | Sequence[Sequence[int]]) -> Tensor:
    """Overview and tiles of one picture -> [1+T, 3, S, S].

    The overview is the whole picture squeezed to a square. The tiles, row by row, cut the canvas among
    `grid_pinpoints` that keeps most of the picture; there it lies undistorted on black. Source: LLaVA-NeXT (v1.6).
    """
    image = image if image.mode == "RGB" else image.convert("RGB")
    tile = _side(processor, "crop_size")
    overview = _side(processor, "size")
    canvas = select_best_resolution(image.size, parse_pinpoints(grid_pinpoints, tile))
    tiles = divide_to_patches(resize_and_pad_image(image, canvas), tile)
    return torch.stack([_pixels(part, processor) for part in (image.resize((overview, overview)), *tiles)])


def _pixels(image: Image.Image, processor: Any) -> Tensor:
    pixels: Tensor = processor.preprocess(image, return_tensors="pt")["pixel_values"][0]
    return pixels


def _side(processor: Any, key: str) -> int:
    """Pixels of `crop_size` or `size`; a processor without crop (SigLIP) gives its size as height and width."""
    size = getattr(processor, key, None) or processor.size
    return int(size.get("height") or size["shortest_edge"])


# ------------------------------------------------------------------------------------------------------- text and names


def image_mark(config: Any) -> str:
    """What stands for an image in the prompts of a model with this config: `<image>`, between two tokens of its own
    where the model was trained so (mm_use_im_start_end)."""
    if getattr(config, "mm_use_im_start_end", False):
        return f"{DEFAULT_IM_START_TOKEN}{DEFAULT_IMAGE_TOKEN}{DEFAULT_IM_END_TOKEN}"
    return DEFAULT_IMAGE_TOKEN


def tokenizer_image_token(
    prompt: str, tokenizer: Any, image_token_index: int = IMAGE_TOKEN_INDEX, return_tensors: str | None = None
) -> list[int] | Tensor:
    """Ids of a prompt with one `image_token_index` for every `<image>` -> list of L ids, or int64 [L] with "pt".

    The texts between placeholders are tokenised one by one; where the tokenizer begins a text with BOS, only the first
    keeps it. So a text after an image starts afresh, which is how LLaVA was trained: tokenising the whole prompt at
    once gives other ids.

    Raises:
        ValueError: `return_tensors` is neither None nor "pt".
    """
    if return_tensors not in {None, "pt"}:
        raise ValueError(f"return_tensors must be None or 'pt', got {return_tensors!r}")
    pieces = [list(tokenizer(text).input_ids) for text in prompt.split(DEFAULT_IMAGE_TOKEN)]
    has_bos = bool(pieces[0]) and pieces[0][0] == tokenizer.bos_token_id
    ids: list[int] = pieces[0][:1] if has_bos else []
    for number, piece in enumerate(pieces):
        ids += [image_token_index] * (number > 0) + piece[int(has_bos) :]
    return torch.tensor(ids, dtype=torch.long) if return_tensors == "pt" else ids


def get_model_name_from_path(model_path: str | os.PathLike[str]) -> str:
    """Last part of a path or hub id, with its parent for `checkpoint-N` folders.

    >>> get_model_name_from_path("out/llava-mini/checkpoint-50/")
    'llava-mini_checkpoint-50'
    """
    parts = os.fspath(model_path).strip("/").split("/")
    return "_".join(parts[-2:]) if parts[-1].startswith("checkpoint-") else parts[-1]


class KeywordsStoppingCriteria(StoppingCriteria):
    """Stops each row of a batch once one of `keywords` appears in what it generated.

    Works whether `generate` hands over new tokens only (as it does for embeddings, so for images) or the prompt in
    front of them; keywords may be several tokens long, and tokenised otherwise inside a text than alone.

    Args:
        keywords: texts that end an answer, for example `</s>` or `###`.
        tokenizer: the one that made the prompt.
        input_ids: the prompt [B, L] (or [1, L]).
    """

    def __init__(self, keywords: Sequence[str], tokenizer: Any, input_ids: Tensor) -> None:
        self.keywords = list(keywords)
        self.tokenizer = tokenizer
        self.input_ids = input_ids
        self.keyword_ids = [torch.tensor(_without_bos(tokenizer(keyword).input_ids, tokenizer)) for keyword in keywords]
        # No keyword has more tokens than bytes. One more: decoding may drop a blank in front of the first token.
        self.window = max((len(keyword.encode()) for keyword in keywords), default=0) + 1

    def __call__(self, output_ids: Tensor, scores: Any = None, **kwargs: Any) -> Tensor:
        """Which rows of `output_ids` [B, n] are done -> bool [B]."""
        new_ids = output_ids[:, self._prompt_length(output_ids) :]
        done = [self._is_done(row) for row in new_ids]
        return torch.tensor(done, dtype=torch.bool, device=output_ids.device)

    def _prompt_length(self, output_ids: Tensor) -> int:
        """Ids of the prompt that stand in front of the new ones: all of them or none."""
        length = self.input_ids.shape[1]
        prompt = self.input_ids.to(output_ids.device)
        if output_ids.shape[1] < length or output_ids.shape[0] % prompt.shape[0]:
            return 0
        return length if bool((output_ids[:: output_ids.shape[0] // prompt.shape[0], :length] == prompt).all()) else 0

    def _is_done(self, row: Tensor) -> bool:
        for keyword in self.keyword_ids:
            if 0 < len(keyword) <= len(row) and torch.equal(row[-len(keyword) :].cpu(), keyword):
                return True
        if not len(row):
            return False
        tail = self.tokenizer.decode(row[-self.window :].tolist(), skip_special_tokens=False)
        return any(keyword in tail for keyword in self.keywords)


def _without_bos(ids: Sequence[int], tokenizer: Any) -> list[int]:
    return list(ids[1:] if len(ids) > 1 and ids[0] == tokenizer.bos_token_id else ids)
