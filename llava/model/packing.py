"""Lay the tiles of one image out as one token sequence.

T tiles, K tokens per tile, N patches per tile, D LLM width, K' tokens of the image.

Every token carries its patch index inside its tile, so one sort by canvas position serves all cases: the dense grid is
simply the case in which every cell of the canvas holds a token. Source: LLaVA-NeXT's `spatial_unpad` merge and
VisionZip's order for compressed tiles (2412.04467, official code).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from llava.anyres import Size, TileGrid, unpad_bounds
from llava.model.transfer import to_device
from visionzip.core.types import VisionTokens

Order = Literal["official", "spatial"]
MERGE_TYPES = ("flat", "spatial", "spatial_unpad")


def pack_tiles(
    tokens: VisionTokens,
    grid: TileGrid | None,
    *,
    merge_type: str = "flat",
    order: Order = "spatial",
    newline: Tensor | None = None,
    dense: bool = False,
) -> Tensor:
    """One image's tiles as one sequence. -> [K', D]

    Args:
        tokens: projected tokens, features [T, K, D] and positions [T, K]. Tile 0 of several is the overview.
        grid: layout of tiles 1.. on the canvas; only the spatial types need it, and only when T > 1.
        merge_type: `flat` puts the tiles one after the other. `spatial` puts the overview first as it is, then all
            placed tokens row by row over the canvas (rows interleave neighbouring tiles), then the CLS tokens of all
            tiles, then their merged tokens, tile by tile. `spatial_unpad` also knows padding and line ends:
        order: with `spatial_unpad`, "spatial" drops placed tokens that lie on padding and ends every canvas row that
            still holds a token with `newline` (on a dense grid this is LLaVA-NeXT's own sequence); "official" does
            neither, as the VisionZip authors' code, so K' is T * K.
        newline: [D], the line end; required by `spatial_unpad`, which also appends it to an image of one tile.
        dense: the caller knows that the positions are the whole grid in order. The sequence is the same; its order is
            then worked out on the CPU, so that nothing waits for the device.

    Raises:
        ValueError: unknown merge type or order, a tile count that does not fill the grid, or a missing argument.
    """
    if merge_type not in MERGE_TYPES:
        raise ValueError(f"Unknown mm_patch_merge_type {merge_type!r}; known: {', '.join(MERGE_TYPES)}")
    if order not in get_args(Order):
        raise ValueError(f"Unknown order {order!r} of compressed tokens; known: {', '.join(get_args(Order))}")
    unpad = merge_type == "spatial_unpad"
    if unpad and newline is None:
        raise ValueError("mm_patch_merge_type 'spatial_unpad' needs the newline vector (model.image_newline)")

    features = tokens.features
    if merge_type == "flat" or features.shape[0] == 1:
        sequence = features.flatten(0, 1)  # [T*K, D]
        return torch.cat([sequence, newline[None].to(sequence)]) if unpad and newline is not None else sequence

    grid = _checked_grid(grid, features.shape[0])
    positions = _grid_positions(tokens) if dense else tokens.positions
    tiles = VisionTokens(features[1:], positions[1:], tokens.has_cls)
    exact = unpad and order == "spatial"
    return torch.cat([features[0], _canvas_sequence(tiles, grid, exact, newline)])  # [K', D]


def _grid_positions(tokens: VisionTokens) -> Tensor:
    """[T, K] on the CPU: 0, 1, .., after a CLS token -1, 0, 1, .."""
    first = -1 if tokens.has_cls else 0
    return torch.arange(first, first + tokens.positions.shape[1]).expand(tokens.positions.shape)


def _checked_grid(grid: TileGrid | None, num_tiles: int) -> TileGrid:
    if grid is None:
        raise ValueError(f"{num_tiles} tiles in one image: pass image_sizes so that their layout is known")
    if grid.rows * grid.cols != num_tiles - 1:
        raise ValueError(
            f"An image of size {grid.original_size} is tiled {grid.cols} x {grid.rows} (columns x rows) plus overview, "
            f"but got {num_tiles} tiles; check that image_sizes and images belong together"
        )
    return grid


def _canvas_sequence(tiles: VisionTokens, grid: TileGrid, exact: bool, newline: Tensor | None) -> Tensor:
    """All tokens of the tiles sorted by their place; with `exact`, padding dropped and line ends added. -> [K', D]"""
    place = _place(tiles, grid)
    rank = place.rank  # [n*K]
    features = tiles.features.flatten(0, 1)  # [n*K, D]
    device = features.device
    if not exact:
        return features[to_device(torch.argsort(rank, stable=True), device)]
    if grid.original_size is None or newline is None:
        raise ValueError("Removing padding needs image_sizes and the newline vector (model.image_newline)")

    top, bottom, left, right = unpad_bounds(grid.canvas, grid.original_size)
    inside = (place.y >= top) & (place.y < bottom) & (place.x >= left) & (place.x < right)
    keep = (inside | ~place.placed).nonzero(as_tuple=True)[0]
    rows, cols = grid.canvas
    dense = features.shape[0] == rows * cols and bool(place.placed.all())
    if dense:  # every row of the picture has its end, even where the picture is too thin for a column
        lines = torch.arange(top, bottom, device=rank.device)
    else:
        lines = torch.unique(place.y[inside & place.placed])  # canvas rows that still hold a token
    rank = torch.cat([rank[keep], lines * (cols + 1) + cols])
    source = torch.cat([keep, keep.new_full((len(lines),), len(features))])  # the row after the last one: the line end
    order = source[torch.argsort(rank, stable=True)]
    return torch.cat([features, newline.to(features)[None]])[to_device(order, device)]


@dataclass(frozen=True)
class _Place:
    """Where each of n*K tokens stands: canvas cell (y, x), whether it has one, and its rank in the sequence."""

    y: Tensor
    x: Tensor
    placed: Tensor
    rank: Tensor


def _place(tiles: VisionTokens, grid: TileGrid) -> _Place:
    """Rank: raster order over the canvas, one rank free after each row; then CLS by tile; then the rest by tile."""
    positions = tiles.positions  # [n, K]
    num_tiles, per_tile = positions.shape
    rows, cols = grid.canvas
    tile = torch.arange(num_tiles, device=positions.device)[:, None]
    y = tile // grid.cols * grid.side + positions // grid.side
    x = tile % grid.cols * grid.side + positions % grid.side
    placed = positions >= 0

    end = rows * (cols + 1)
    index = torch.arange(num_tiles * per_tile, device=positions.device).view_as(positions)
    rank = torch.where(placed, y * (cols + 1) + x, end + num_tiles + index)
    if tiles.has_cls:
        rank[:, 0] = end + tile[:, 0]
    return _Place(y.flatten(), x.flatten(), placed.flatten(), rank.flatten())


def unpad_image(tensor: Tensor, original_size: Size) -> Tensor:
    """Cut the padding off a feature map: [C, h, w] and the picture's (W, H) -> [C, h', w']."""
    top, bottom, left, right = unpad_bounds((tensor.shape[1], tensor.shape[2]), original_size)
    return tensor[:, top:bottom, left:right]
