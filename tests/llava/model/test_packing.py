"""pack_tiles against loops over cells (nothing shared with the code under test but the geometry)."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llava.anyres import TileGrid, get_anyres_image_grid_shape
from llava.model.packing import pack_tiles, unpad_image
from tests.llava.test_anyres import PINPOINTS, WORKED
from visionzip.core.types import VisionTokens

D = 3


def dense(num_tiles, side, seed=0):
    features = torch.randn(num_tiles, side * side, D, generator=torch.Generator().manual_seed(seed))
    return VisionTokens(features, torch.arange(side * side).expand(num_tiles, -1))


def compressed(num_tiles, side, dominant, contextual, seed=0, cls=True):
    """Like VisionZip's output: CLS first, kept patches in order, merged tokens."""
    generator = torch.Generator().manual_seed(seed)
    patches = dominant - cls
    kept = torch.stack([torch.randperm(side * side, generator=generator)[:patches].sort()[0] for _ in range(num_tiles)])
    blank = torch.full((num_tiles, 1), -1)
    positions = torch.cat([blank] * cls + [kept] + [blank] * contextual, dim=1)
    return VisionTokens(torch.randn(*positions.shape, D, generator=generator), positions, has_cls=cls)


def by_cells(tokens, grid, exact, newline):
    """Walk the canvas cell by cell."""
    bounds = unpadded_cells(grid) if exact else None
    tiles = tokens.features[1:]
    at = {}
    for tile in range(len(tiles)):
        for k, position in enumerate(tokens.positions[1 + tile].tolist()):
            if position >= 0:
                y = tile // grid.cols * grid.side + position // grid.side
                x = tile % grid.cols * grid.side + position % grid.side
                at[y, x] = tiles[tile, k]
    out = list(tokens.features[0])
    for y in range(grid.rows * grid.side):
        cells = [(y, x) for x in range(grid.cols * grid.side) if (y, x) in at and (bounds is None or (y, x) in bounds)]
        out += [at[cell] for cell in cells]
        if exact and cells:
            out.append(newline)
    out += [tile[0] for tile in tiles if tokens.has_cls]
    for tile in range(len(tiles)):
        placeless = tokens.positions[1 + tile] < 0
        placeless[0] &= not tokens.has_cls
        out += list(tiles[tile][placeless])
    return torch.stack(out)


def unpadded_cells(grid):
    rows, cols = grid.rows * grid.side, grid.cols * grid.side
    cells = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij"))  # [2, rows, cols]
    width, height = grid.original_size
    if width / height > cols / rows:
        cut = (rows - int(height * (cols / width))) // 2
        cells = cells[:, cut : rows - cut]
    else:
        cut = (cols - int(width * (rows / height))) // 2
        cells = cells[:, :, cut : cols - cut]
    return {tuple(cell) for cell in cells.flatten(1).T.tolist()}


@pytest.mark.parametrize(("size", "_canvas", "_shape", "_kept", "count"), WORKED)
def test_dense_token_counts(size, _canvas, _shape, _kept, count):
    cols, rows = get_anyres_image_grid_shape(size, PINPOINTS, 336)
    tokens = dense(1 + rows * cols, 24)
    packed = pack_tiles(tokens, TileGrid(rows, cols, 24, size), merge_type="spatial_unpad", newline=torch.zeros(D))
    assert packed.shape == (count, D)


@pytest.mark.parametrize(("size", "kept"), [((5, 700), (72, 0)), ((700, 5), (0, 72))])
def test_a_picture_too_thin_for_a_patch_keeps_its_rows_line_ends(size, kept):
    """576 + h' * (w' + 1) with w' = 0: LLaVA appends the newline column to a map without columns."""
    cols, rows = get_anyres_image_grid_shape(size, PINPOINTS, 336)
    grid = TileGrid(rows, cols, 24, size)
    packed = pack_tiles(dense(1 + rows * cols, 24), grid, merge_type="spatial_unpad", newline=torch.zeros(D))
    assert len(packed) == 576 + kept[0] * (kept[1] + 1)


@pytest.mark.parametrize(
    ("rows", "cols", "size"), [(2, 2, (90, 60)), (1, 3, (100, 20)), (3, 1, (20, 100)), (3, 1, (1, 700))]
)
def test_dense_spatial_unpad_is_map_cut_newline(rows, cols, size):
    """LLaVA's own recipe: view as a map, unpad, append the newline column, flatten, overview in front."""
    side, newline = 4, torch.full((D,), 9.0)
    tokens = dense(1 + rows * cols, side)
    tile_map = tokens.features[1:].view(rows, cols, side, side, D).permute(4, 0, 2, 1, 3).flatten(1, 2).flatten(2, 3)
    cut = unpad_image(tile_map, size)
    lined = torch.cat([cut, newline[:, None, None].expand(D, cut.shape[1], 1)], dim=-1)
    want = torch.cat([tokens.features[0], lined.flatten(1, 2).T])
    grid = TileGrid(rows, cols, side, size)
    torch.testing.assert_close(
        pack_tiles(tokens, grid, merge_type="spatial_unpad", newline=newline), want, rtol=0, atol=0
    )

    plain = torch.cat([tokens.features[0], tile_map.flatten(1, 2).T])
    torch.testing.assert_close(pack_tiles(tokens, grid, merge_type="spatial"), plain, rtol=0, atol=0)


@pytest.mark.parametrize("cls", [False, True], ids=["patch", "cls_patch"])
@pytest.mark.parametrize("merge_type", ["spatial", "spatial_unpad"])
def test_a_grid_known_to_be_dense_is_laid_out_without_its_positions(merge_type, cls):
    """They are on the device, and whoever reads them waits: here they hold nonsense."""
    tokens, grid, more = dense(5, 4), TileGrid(2, 2, 4, (90, 60)), {"merge_type": merge_type, "newline": torch.ones(D)}
    if cls:
        first = torch.full((5, 1), -1)
        features = torch.cat([torch.randn(5, 1, D), tokens.features], dim=1)
        tokens = VisionTokens(features, torch.cat([first, tokens.positions], dim=1), has_cls=True)
    blind = VisionTokens(tokens.features, torch.full_like(tokens.positions, 7), cls)
    assert torch.equal(pack_tiles(blind, grid, **more, dense=True), pack_tiles(tokens, grid, **more))
    assert not torch.equal(pack_tiles(blind, grid, **more), pack_tiles(tokens, grid, **more))


def test_flat_keeps_tile_order():
    tokens = compressed(3, 4, 5, 2)
    assert torch.equal(pack_tiles(tokens, None), tokens.features.reshape(-1, D))


@pytest.mark.parametrize("order", ["official", "spatial"])
def test_one_tile_gets_one_newline_only_with_unpad(order):
    tokens, newline = compressed(1, 4, 5, 2), torch.ones(D)
    assert torch.equal(pack_tiles(tokens, None, merge_type="spatial", order=order, newline=newline), tokens.features[0])
    lined = pack_tiles(tokens, None, merge_type="spatial_unpad", order=order, newline=newline)
    assert torch.equal(lined, torch.cat([tokens.features[0], newline[None]]))


@pytest.mark.parametrize("merge_type", ["spatial", "spatial_unpad"])
@pytest.mark.parametrize(("rows", "cols", "size"), [(2, 2, (90, 60)), (1, 3, (100, 20)), (2, 1, (5, 70))])
def test_official_order(merge_type, rows, cols, size):
    """Overview, global raster, CLS of all tiles, merged of all tiles; no newline, no unpad: (1 + n)(d + c)."""
    tokens = compressed(1 + rows * cols, 4, 7, 3)
    grid = TileGrid(rows, cols, 4, size)
    packed = pack_tiles(tokens, grid, merge_type=merge_type, order="official", newline=torch.ones(D))
    assert len(packed) == (1 + rows * cols) * 10
    assert torch.equal(packed, by_cells(tokens, grid, exact=False, newline=None))


def test_official_next_count_of_the_paper():
    packed = pack_tiles(
        compressed(5, 24, 54, 10),
        TileGrid(2, 2, 24, (672, 672)),
        merge_type="spatial_unpad",
        order="official",
        newline=torch.ones(D),
    )
    assert len(packed) == 320


def test_official_order_by_hand():
    """Two tiles side by side, 2 x 2 patches: rows interleave the tiles."""
    positions = torch.tensor([[-1, 0, -1], [-1, 2, -1], [-1, 1, -1]])  # overview, left tile, right tile
    features = torch.arange(9.0).view(3, 3, 1)
    packed = pack_tiles(VisionTokens(features, positions, has_cls=True), TileGrid(1, 2, 2), merge_type="spatial")
    # overview 0 1 2; row 0: right tile's patch 1 (7); row 1: left tile's patch 2 (4); CLS 3 6; merged 5 8
    assert packed[:, 0].tolist() == [0, 1, 2, 7, 4, 3, 6, 5, 8]


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 3),
    cols=st.integers(1, 3),
    size=st.tuples(st.integers(3, 120), st.integers(3, 120)),
    dominant=st.integers(1, 16),
    contextual=st.integers(0, 4),
    cls=st.booleans(),
    seed=st.integers(0, 5),
)
def test_spatial_order_against_cells(rows, cols, size, dominant, contextual, cls, seed):
    """Padding dropped, one newline per canvas row that still holds a token, then CLS, then merged."""
    tokens = compressed(1 + rows * cols, 4, dominant, contextual, seed, cls)
    grid, newline = TileGrid(rows, cols, 4, size), torch.full((D,), 5.0)
    packed = pack_tiles(tokens, grid, merge_type="spatial_unpad", order="spatial", newline=newline)
    assert torch.equal(packed, by_cells(tokens, grid, exact=True, newline=newline))


def test_as_many_tokens_as_patches_are_no_dense_grid():
    """A compressor may keep 16 tokens of 16 patches, most of them merged: rows without a token get no line end."""
    tokens = compressed(3, 4, 8, 8, cls=True)
    grid, newline = TileGrid(1, 2, 4, (80, 40)), torch.full((D,), 5.0)
    packed = pack_tiles(tokens, grid, merge_type="spatial_unpad", order="spatial", newline=newline)
    assert torch.equal(packed, by_cells(tokens, grid, exact=True, newline=newline))


def test_gradients_reach_features_and_newline():
    tokens = compressed(3, 4, 5, 2)
    features, newline = tokens.features.clone().requires_grad_(), torch.ones(D, requires_grad=True)
    grid = TileGrid(1, 2, 4, (80, 40))
    pack_tiles(
        VisionTokens(features, tokens.positions, True), grid, merge_type="spatial_unpad", newline=newline
    ).sum().backward()
    assert (features.grad == 1).all()
    assert (newline.grad > 0).all()


def test_newline_takes_the_features_dtype():
    tokens = dense(2, 2)
    half = VisionTokens(tokens.features.bfloat16(), tokens.positions)
    packed = pack_tiles(half, TileGrid(1, 1, 2, (9, 9)), merge_type="spatial_unpad", newline=torch.ones(D))
    assert packed.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"merge_type": "spatial_maxpool2x2"}, "known: flat, spatial, spatial_unpad"),
        ({"order": "raster"}, "known: official, spatial"),
        ({"newline": None}, "image_newline"),
        ({"grid": None}, "pass image_sizes"),
        ({"grid": TileGrid(2, 2, 4, (9, 9))}, "got 3 tiles"),
        ({"grid": TileGrid(1, 2, 4)}, "image_sizes"),
    ],
)
def test_errors_say_what_to_do(change, message):
    arguments = {"grid": TileGrid(1, 2, 4, (80, 40)), "merge_type": "spatial_unpad", "newline": torch.ones(D)} | change
    with pytest.raises(ValueError, match=message):
        pack_tiles(compressed(3, 4, 5, 2), **arguments)


def test_unpad_image_matches_its_bounds():
    assert unpad_image(torch.zeros(2, 48, 48), (1920, 1080)).shape == (2, 28, 48)
    assert unpad_image(torch.zeros(2, 72, 24), (5, 700)).shape == (2, 72, 0)
