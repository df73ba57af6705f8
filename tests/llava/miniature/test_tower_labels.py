"""Labels lie where things are drawn, and the pixels are those of the evaluation."""

import numpy as np
import torch

from llava.miniature import tower
from llava.miniature.tower_labels import cls_labels, patch_labels, patch_middles, pixels_of
from llava.miniature.world import COLORS, SHAPES, sample_scene


def test_patch_labels_lie_on_the_things() -> None:
    shape_row, color_row = 0, 1
    for seed in range(40):
        scene = sample_scene(seed)
        labels = patch_labels(scene).reshape(8, 12, 12)
        pixels = pixels_of(scene).astype(int)
        for thing in scene.things:
            centers = np.argwhere(labels[3] == 1)
            assert len(centers) >= 1
            assert SHAPES.index(thing.shape) + 1 in labels[shape_row]
        for row, column in np.argwhere(labels[3] == 1):
            color = list(COLORS.values())[labels[color_row, row, column] - 1]
            patch = pixels[row * 14 : row * 14 + 14, column * 14 : column * 14 + 14].reshape(-1, 3)
            assert (np.abs(patch - color).max(axis=1) < 40).mean() > 0.1, (
                "a centre patch shows the colour it is labelled"
            )


def test_every_patch_knows_its_place() -> None:
    rows, columns = patch_labels(sample_scene(0)).reshape(8, 12, 12)[6:]
    assert rows[0, 5] == 1 and rows[11, 5] == 12 and columns[5, 0] == 1 and columns[5, 11] == 12


def test_patches_of_a_thing_know_its_middle() -> None:
    scene = sample_scene(7)
    middles = patch_middles(scene).reshape(12, 12, 2)
    held = middles[..., 0] >= 0
    labels = patch_labels(scene).reshape(8, 12, 12)
    assert np.array_equal(held, (labels[0] > 0) | (labels[4] > 0) | (labels[5] > 0))
    side = max(scene.size)
    for thing in scene.things:
        left, top = ((side - length) // 2 for length in scene.size)
        x, y = (thing.center[0] + left) / side * 12, (thing.center[1] + top) / side * 12
        assert np.allclose(middles[int(y), int(x)], (y, x))


def test_whole_labels_name_what_is_there() -> None:
    scene = sample_scene(3)
    labels = cls_labels(scene)
    names = [f"{color} {shape}" for color in COLORS for shape in SHAPES]
    assert {names[i] for i in np.flatnonzero(labels[:30])} == {thing.name for thing in scene.things}
    assert labels[-1] == len(scene.things)


def test_pixels_are_those_of_the_evaluation() -> None:
    """The tower must be trained on what process_images with `pad` will show it."""
    from transformers import CLIPImageProcessorPil

    from llava.miniature.world import render
    from llava.mm_utils import process_images

    size = {"shortest_edge": 168}
    processor = CLIPImageProcessorPil(size=size, crop_size={"height": 168, "width": 168})
    config = type("Config", (), {"image_aspect_ratio": "pad"})()
    for seed in range(4):
        scene = sample_scene(seed)
        shown = process_images([render(scene)], processor, config)[0]
        trained = tower.normalise(pixels_of(scene)[None])[0]
        assert torch.allclose(shown, trained, atol=2e-2)
