import pytest

from llava.anyres import (
    TileGrid,
    fit_size,
    get_anyres_image_grid_shape,
    is_tiled,
    most_tiles,
    parse_pinpoints,
    select_best_resolution,
    unpad_bounds,
)

PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]

# original (W, H) -> canvas (W, H), grid (cols, rows), kept (w', h'), tokens of spatial_unpad with newlines
WORKED = [
    ((672, 672), (672, 672), (2, 2), (48, 48), 2928),
    ((1024, 1024), (672, 672), (2, 2), (48, 48), 2928),
    ((512, 512), (672, 672), (2, 2), (48, 48), 2928),
    ((640, 480), (672, 672), (2, 2), (48, 36), 2340),
    ((800, 600), (672, 672), (2, 2), (48, 36), 2340),
    ((500, 375), (672, 672), (2, 2), (48, 36), 2340),
    ((480, 640), (672, 672), (2, 2), (36, 48), 2352),
    ((1920, 1080), (672, 672), (2, 2), (48, 28), 1948),
    ((1280, 720), (672, 672), (2, 2), (48, 28), 1948),
    ((1008, 336), (1008, 336), (3, 1), (72, 24), 2328),
    ((336, 1008), (336, 1008), (1, 3), (24, 72), 2376),
    ((672, 336), (672, 336), (2, 1), (48, 24), 1752),
    ((336, 672), (336, 672), (1, 2), (24, 48), 1776),
    ((1000, 200), (1008, 336), (3, 1), (72, 14), 1598),
    ((336, 336), (336, 672), (1, 2), (24, 24), 1176),
    ((224, 224), (336, 672), (1, 2), (24, 24), 1176),
    ((100, 50), (336, 672), (1, 2), (24, 12), 876),
    ((1000, 400), None, None, None, 2040),
    ((300, 900), None, None, None, 2376),
    ((50, 700), None, None, None, 1080),
    ((110, 352), None, None, None, 1296),
    ((656, 205), None, None, None, 1262),
]


@pytest.mark.parametrize(("size", "canvas", "shape", "kept", "tokens"), WORKED)
def test_worked_examples(size, canvas, shape, kept, tokens):
    cols, rows = get_anyres_image_grid_shape(size, PINPOINTS, 336)
    top, bottom, left, right = unpad_bounds(TileGrid(rows, cols, 24).canvas, size)
    if canvas is not None:
        assert select_best_resolution(size, PINPOINTS) == canvas
        assert (cols, rows) == shape
        assert (right - left, bottom - top) == kept
    assert 576 + (bottom - top) * (right - left + 1) == tokens


def test_first_of_equal_canvases_wins():
    assert select_best_resolution((100, 100), [(672, 336), (336, 672)]) == (672, 336)
    assert select_best_resolution((100, 100), [(336, 672), (672, 336)]) == (336, 672)


def test_no_canvas_is_an_error():
    with pytest.raises(ValueError, match="image_grid_pinpoints is empty"):
        select_best_resolution((10, 10), [])


def test_bounds_are_symmetric_and_may_be_empty():
    assert unpad_bounds((48, 48), (1920, 1080)) == (10, 38, 0, 48)  # 27 rows wanted, 28 kept
    top, bottom, left, right = unpad_bounds((72, 24), (5, 700))
    assert (top, bottom) == (0, 72)
    assert right - left == 0


def test_fit_size_rounds_the_free_side_up():
    assert fit_size((1000, 333), (672, 672)) == (672, 224)
    assert fit_size((333, 1000), (672, 672)) == (224, 672)
    assert fit_size((672, 672), (672, 672)) == (672, 672)


def test_pinpoint_forms():
    want = [(336, 672), (672, 336)]
    assert parse_pinpoints([[336, 672], [672, 336]]) == want
    assert parse_pinpoints("[[336, 672], [672, 336]]") == want
    assert parse_pinpoints("[(336, 672), (672, 336)]") == want
    ranged = parse_pinpoints("(1x1),...,(2x3)", 384)
    assert ranged == [(384, 384), (384, 768), (384, 1152), (768, 384), (768, 768), (768, 1152)]


@pytest.mark.parametrize("bad", ["nonsense", "[]", [], [[1, 2, 3]], [7], 5])
def test_bad_pinpoints_name_the_key(bad):
    with pytest.raises(ValueError, match="image_grid_pinpoints"):
        parse_pinpoints(bad)


def test_range_form_needs_the_tile_size():
    with pytest.raises(ValueError, match="tile size"):
        parse_pinpoints("(1x1),...,(2x2)")


def test_grid_rejects_nothing():
    with pytest.raises(ValueError, match=">= 1"):
        TileGrid(0, 1, 24)


def test_which_pictures_are_tiled_and_into_how_many():
    assert [is_tiled(name) for name in ("anyres", "anyres_max_9", "pad", "square", None)] == [True, True] + [False] * 3
    assert most_tiles(PINPOINTS, 336) == 5  # overview and 2 x 2
    assert most_tiles("(1x1),...,(6x6)", 384) == 37
