"""Patch labels lie where things are drawn, and the two tasks can be learned."""

from pathlib import Path

import numpy as np
import torch

from llava.miniature import tower
from llava.miniature.world import COLORS, SHAPES, SPLITS, sample_scene


def test_patch_labels_lie_on_the_things() -> None:
    shape_row, color_row = 0, 1
    for seed in range(40):
        scene = sample_scene(seed)
        labels = tower.patch_labels(scene).reshape(8, 12, 12)
        pixels = tower.pixels_of(scene).astype(int)
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
    rows, columns = tower.patch_labels(sample_scene(0)).reshape(8, 12, 12)[6:]
    assert rows[0, 5] == 1 and rows[11, 5] == 12 and columns[5, 0] == 1 and columns[5, 11] == 12


def test_patches_of_a_thing_know_its_middle() -> None:
    scene = sample_scene(7)
    middles = tower.patch_middles(scene).reshape(12, 12, 2)
    held = middles[..., 0] >= 0
    labels = tower.patch_labels(scene).reshape(8, 12, 12)
    assert np.array_equal(held, (labels[0] > 0) | (labels[4] > 0) | (labels[5] > 0))
    side = max(scene.size)
    for thing in scene.things:
        left, top = ((side - length) // 2 for length in scene.size)
        x, y = (thing.center[0] + left) / side * 12, (thing.center[1] + top) / side * 12
        assert np.allclose(middles[int(y), int(x)], (y, x))


def test_place_losses_are_errors_in_patches() -> None:
    """Own places exact, one held patch told two rows too low and one column too far right: 1.5 on average."""
    rows, columns = np.indices((12, 12)) + 0.5
    middles = torch.full((1, 144, 2), -1.0)
    middles[0, 40] = torch.tensor([3.0, 4.0])
    said = torch.zeros(1, 144, 4)
    said[0, :, 0], said[0, :, 1] = torch.from_numpy(rows.ravel()), torch.from_numpy(columns.ravel())
    said[0, 40, 2:] = torch.tensor([5.0, 5.0])
    parts = tower.place_losses(said, middles)
    assert parts["place/own"].item() == 0
    assert parts["place/middle"].item() == 1.5
    said[0, 40, 0] += 1
    # one of 144 patches, weighing 5 of 148, off by one along one of two axes
    assert abs(tower.place_losses(said, middles)["place/own"].item() - 0.5 * 5 / 148) < 1e-6


def test_whole_labels_name_what_is_there() -> None:
    scene = sample_scene(3)
    labels = tower.cls_labels(scene)
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
        trained = tower.normalise(tower.pixels_of(scene)[None])[0]
        assert torch.allclose(shown, trained, atol=2e-2)


def test_a_few_steps_lower_the_loss() -> None:
    torch.manual_seed(0)
    config = tower.tower_config()
    config.num_hidden_layers, config.hidden_size, config.intermediate_size = 2, 32, 64
    model = tower.PretrainingModel(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    scenes = [sample_scene(seed) for seed in range(4)]
    pixels = tower.normalise(np.stack([tower.pixels_of(scene) for scene in scenes]))
    patches = torch.from_numpy(np.stack([tower.patch_labels(scene) for scene in scenes]))
    middles = torch.from_numpy(np.stack([tower.patch_middles(scene) for scene in scenes]))
    wholes = torch.from_numpy(np.stack([tower.cls_labels(scene) for scene in scenes]))
    losses = []
    for _ in range(12):
        loss, parts = tower.loss_of(model, pixels, patches, middles, wholes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert set(parts) >= {"patch/shape", "place/own", "place/middle", "cls-2/names", "cls-1/names"}


def test_drawn_scenes_are_kept(tmp_path: Path) -> None:
    seeds = SPLITS["train"][:3]
    first = tower.draw_scenes(seeds, tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    second = tower.draw_scenes(seeds, tmp_path)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}


def test_measure_reports_shares(tmp_path: Path) -> None:
    torch.manual_seed(0)
    report = tower.measure(tower.PretrainingModel(tower.tower_config()), SPLITS["train"][:4])
    assert 0 < report["area"] < 0.5
    assert abs(report["attention_on_things"] - report["area"]) < 0.1, "a random tower attends everywhere alike"
    assert report.pop("middle_error") > 1, "a random tower knows no places"
    assert all(0 <= value <= 1 for value in report.values())
