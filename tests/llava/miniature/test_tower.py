"""The tower's throw-away heads can be learned, and what is measured of it means what it says."""

from pathlib import Path

import numpy as np
import torch

from llava.miniature import tower
from llava.miniature.tower_labels import cls_labels, patch_labels, patch_middles, pixels_of
from llava.miniature.world import SPLITS, sample_scene


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


def test_a_few_steps_lower_the_loss() -> None:
    torch.manual_seed(0)
    config = tower.tower_config()
    config.num_hidden_layers, config.hidden_size, config.intermediate_size = 2, 32, 64
    model = tower.PretrainingModel(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    scenes = [sample_scene(seed) for seed in range(4)]
    pixels = tower.normalise(np.stack([pixels_of(scene) for scene in scenes]))
    patches = torch.from_numpy(np.stack([patch_labels(scene) for scene in scenes]))
    middles = torch.from_numpy(np.stack([patch_middles(scene) for scene in scenes]))
    wholes = torch.from_numpy(np.stack([cls_labels(scene) for scene in scenes]))
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
