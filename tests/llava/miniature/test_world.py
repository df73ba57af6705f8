"""The world is a function of its seed, and its scenes are what the questions presume."""

import numpy as np
import pytest

from llava.miniature.world import CANVASES, COLORS, SHAPES, SPLITS, render, sample_scene, split_of

SEEDS = range(0, 60)


def test_a_scene_and_its_picture_follow_from_the_seed() -> None:
    assert sample_scene(7) == sample_scene(7)
    assert sample_scene(7) != sample_scene(8)
    assert np.array_equal(np.asarray(render(sample_scene(7))), np.asarray(render(sample_scene(7))))


def test_splits_share_no_seed() -> None:
    ranges = list(SPLITS.values())
    assert all(set(a).isdisjoint((b.start, b.stop - 1)) for a in ranges for b in ranges if a is not b)
    assert [split_of(seeds.start) for seeds in ranges] == list(SPLITS)
    with pytest.raises(ValueError, match="-1 is in no split"):
        split_of(-1)


@pytest.mark.parametrize("seed", SEEDS)
def test_things_lie_inside_and_apart(seed: int) -> None:
    scene = sample_scene(seed)
    boxes = [t.box for t in scene.things] + [p.box for p in (scene.word, scene.digit) if p]
    for box in boxes:
        assert 0 <= box[0] < box[2] < scene.size[0]
        assert 0 <= box[1] < box[3] < scene.size[1]
    for i, a in enumerate(boxes):
        for b in boxes[i + 1 :]:
            assert a[2] < b[0] or b[2] < a[0] or a[3] < b[1] or b[3] < a[1]


def test_things_are_small_against_the_picture() -> None:
    shares = [(t.box[2] - t.box[0]) / max(scene.size) for scene in map(sample_scene, SEEDS) for t in scene.things]
    assert 0.09 < min(shares) and max(shares) < 0.22


def test_the_picture_shows_the_colour_at_the_centre_of_a_thing() -> None:
    checked = 0
    for seed in SEEDS:
        scene = sample_scene(seed)
        pixels = np.asarray(render(scene)).astype(int)
        assert pixels.shape == (scene.size[1], scene.size[0], 3)
        for thing in scene.things:
            x, y = (int(c) for c in thing.center)
            assert np.abs(pixels[y, x] - COLORS[thing.color]).max() <= 12, (seed, thing)
            checked += 1
    assert checked > 100


def test_every_canvas_colour_and_shape_occurs() -> None:
    scenes = [sample_scene(seed) for seed in range(300)]
    assert {scene.size for scene in scenes} == set(CANVASES)
    assert {thing.shape for scene in scenes for thing in scene.things} == set(SHAPES)
    assert {thing.color for scene in scenes for thing in scene.things} == set(COLORS)


def test_text_can_be_wanted_or_forbidden() -> None:
    assert all(sample_scene(seed, wants_text=True).word for seed in SEEDS)
    assert not any(
        sample_scene(seed, wants_text=False).word or sample_scene(seed, wants_text=False).digit for seed in SEEDS
    )
