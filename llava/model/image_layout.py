"""What the config says about an image's tiles: how they are merged and how they lie on the canvas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from llava.anyres import TileGrid, get_anyres_image_grid_shape
from llava.model.multimodal_encoder.clip_encoder import CLIPVisionTower


def check_images(images: Any, image_sizes: Any) -> None:
    """Raises: ValueError: images are no tensors of tiles, or image_sizes no pairs."""
    if isinstance(images, Tensor) and images.dim() not in (4, 5):
        raise ValueError(
            f"images must be [n, 3, S, S] or [n, tiles, 3, S, S], got {list(images.shape)}; "
            "a single picture needs a batch axis"
        )
    for index, image in enumerate(images):
        if not isinstance(image, Tensor) or image.dim() not in (3, 4):
            got = list(image.shape) if isinstance(image, Tensor) else type(image).__name__
            raise ValueError(
                f"image {index} must be a tensor [3, S, S] or [tiles, 3, S, S], got {got}; "
                "run llava.mm_utils.process_images on the pictures"
            )
    if any(not hasattr(size, "__len__") or len(size) != 2 for size in image_sizes or ()):
        raise ValueError(f"image_sizes must be one (width, height) per image, got {image_sizes!r}")


def merge_type(config: Any) -> str:
    """config.mm_patch_merge_type, `flat` where the key is absent."""
    return getattr(config, "mm_patch_merge_type", None) or "flat"


def tile_grid(
    config: Any,
    tower: CLIPVisionTower | None,
    index: int,
    num_tiles: int,
    image_sizes: Sequence[tuple[int, int]] | None,
) -> TileGrid | None:
    """Tile layout of image `index`; None where the merge type or a single tile needs none.

    Raises:
        NotImplementedError: the config's tiling has no layout.
        ValueError: the size of the picture is not known.
    """
    if tower is None or num_tiles == 1 or merge_type(config) == "flat":
        return None
    aspect = getattr(config, "image_aspect_ratio", None)
    if aspect != "anyres":
        raise NotImplementedError(
            f"image {index} has {num_tiles} tiles, but image_aspect_ratio is {aspect!r}: only 'anyres' has a tile "
            "layout; use mm_patch_merge_type 'flat' for other tilings"
        )
    if image_sizes is None or index >= len(image_sizes):
        have = "none" if image_sizes is None else len(image_sizes)
        raise ValueError(f"image {index} has {num_tiles} tiles: pass image_sizes, one (W, H) per image; got {have}")
    size = (int(image_sizes[index][0]), int(image_sizes[index][1]))
    pinpoints: Any = getattr(config, "image_grid_pinpoints", None)
    cols, rows = get_anyres_image_grid_shape(size, pinpoints, tower.image_size)
    return TileGrid(rows, cols, tower.num_patches_per_side, size)
