"""AnyRes geometry: which pixel canvas a picture is tiled on, and which part of the feature map is picture.

Integers only: no tensors, no images. Sizes are (width, height) as in PIL; grid shapes and bounds say what they hold.
Source: LLaVA-NeXT (v1.6) tiling; the rounding rules decide token counts and are kept to the letter.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

Size = tuple[int, int]

_PAIR = re.compile(r"\((\d+)x(\d+)\)")


@dataclass(frozen=True)
class TileGrid:
    """How the tiles of one image lie on its canvas.

    rows, cols: tiles per column and per row. side: patches along one edge of a tile (24 for CLIP-L/336).
    original_size: (W, H) of the picture before tiling; None when unknown, which only `unpad` needs.
    """

    rows: int
    cols: int
    side: int
    original_size: Size | None = None

    def __post_init__(self) -> None:
        if min(self.rows, self.cols, self.side) < 1:
            raise ValueError(f"A tile grid needs rows, cols and side >= 1; got {self.rows}, {self.cols}, {self.side}")

    @property
    def canvas(self) -> Size:
        """(rows, columns) of the whole canvas in patches."""
        return self.rows * self.side, self.cols * self.side


def is_tiled(image_aspect_ratio: str | None) -> bool:
    """Whether the config key `image_aspect_ratio` cuts pictures into tiles: anyres, anyres_max_N."""
    return "anyres" in (image_aspect_ratio or "")


def most_tiles(pinpoints: str | Sequence[Sequence[int]], tile_size: int) -> int:
    """Tiles of the largest picture, overview included; arguments as for `parse_pinpoints`."""
    return 1 + max(width * height // tile_size**2 for width, height in parse_pinpoints(pinpoints, tile_size))


def parse_pinpoints(pinpoints: str | Sequence[Sequence[int]], tile_size: int | None = None) -> list[Size]:
    """Candidate canvas sizes (W, H) from the config key `image_grid_pinpoints`.

    Accepts a list of pairs, the same list as a string, or the range form "(1x1),...,(6x6)", whose first and last pair
    bound all combinations, in tiles of `tile_size` pixels.

    Raises:
        ValueError: the value is none of these, or the range form came without `tile_size`.
    """
    if isinstance(pinpoints, str):
        pairs = [(int(a), int(b)) for a, b in _PAIR.findall(pinpoints)]
        if pairs:
            if tile_size is None:
                raise ValueError(f"image_grid_pinpoints={pinpoints!r} counts tiles: pass the tile size in pixels")
            (first_a, first_b), (last_a, last_b) = pairs[0], pairs[-1]
            return [
                (a * tile_size, b * tile_size) for a in range(first_a, last_a + 1) for b in range(first_b, last_b + 1)
            ]
        try:
            pinpoints = ast.literal_eval(pinpoints)
        except (ValueError, SyntaxError) as error:
            raise ValueError(
                f"image_grid_pinpoints={pinpoints!r} is neither a list of (width, height) pairs nor '(AxB),...,(CxD)'"
            ) from error
    if not isinstance(pinpoints, Sequence) or not pinpoints:
        raise ValueError(f"image_grid_pinpoints must be a non-empty list of (width, height) pairs; got {pinpoints!r}")
    sizes: list[Size] = []
    for pair in pinpoints:
        if not isinstance(pair, Sequence) or len(pair) != 2:
            raise ValueError(f"image_grid_pinpoints: {pair!r} is not a (width, height) pair")
        sizes.append((int(pair[0]), int(pair[1])))
    return sizes


def select_best_resolution(original_size: Size, possible_resolutions: Sequence[Sequence[int]]) -> Size:
    """Canvas (W, H) that keeps most picture pixels, then wastes least, then comes first in the list.

    >>> select_best_resolution((640, 480), [(336, 672), (672, 336), (672, 672)])
    (672, 672)
    """
    width, height = original_size
    best: Size | None = None
    best_key = (-1, 0)
    for canvas_width, canvas_height in possible_resolutions:
        scale = min(canvas_width / width, canvas_height / height)
        effective = min(int(width * scale) * int(height * scale), width * height)
        key = (effective, effective - canvas_width * canvas_height)
        if best is None or key > best_key:
            best, best_key = (canvas_width, canvas_height), key
    if best is None:
        raise ValueError("No canvas to choose from: image_grid_pinpoints is empty")
    return best


def get_anyres_image_grid_shape(
    image_size: Size, grid_pinpoints: str | Sequence[Sequence[int]], patch_size: int
) -> tuple[int, int]:
    """(columns, rows) of tiles of `patch_size` pixels for a picture of `image_size` (W, H). Width comes first."""
    width, height = select_best_resolution(image_size, parse_pinpoints(grid_pinpoints, patch_size))
    return width // patch_size, height // patch_size


def fit_size(image_size: Size, canvas: Size) -> Size:
    """(W, H) of the picture scaled to fit `canvas` (W, H) without distortion; the free side is rounded up."""
    width, height = image_size
    canvas_width, canvas_height = canvas
    if canvas_width / width < canvas_height / height:
        return canvas_width, min(math.ceil(height * (canvas_width / width)), canvas_height)
    return min(math.ceil(width * (canvas_height / height)), canvas_width), canvas_height


def unpad_bounds(canvas: Size, original_size: Size) -> tuple[int, int, int, int]:
    """The part of a padded feature map that shows the picture: (top, bottom, left, right), ends exclusive.

    `canvas` is (rows, columns), `original_size` is (W, H). The cut is symmetric, so an odd rest leaves one more row or
    column than the picture needs; a very thin picture may leave none.

    >>> unpad_bounds((48, 48), (1920, 1080))
    (10, 38, 0, 48)
    """
    rows, cols = canvas
    width, height = original_size
    if width / height > cols / rows:
        cut = (rows - int(height * (cols / width))) // 2
        return cut, rows - cut, 0, cols
    cut = (cols - int(width * (rows / height))) // 2
    return 0, rows, cut, cols - cut
