"""Counting what a step shows the model."""

import pytest
import torch

from llava.constants import IMAGE_TOKEN_INDEX
from llava.train.meter import Meter

ROWS = torch.tensor([[1, IMAGE_TOKEN_INDEX, 5], [1, 5, 6], [IMAGE_TOKEN_INDEX, IMAGE_TOKEN_INDEX, 5]])
CPU = torch.device("cpu")


def read(meter: Meter, processes: int = 1) -> dict[str, float]:
    return meter.read(processes, step=1, last_step=3, device=CPU)


def test_single_tiles() -> None:
    meter = Meter()
    meter.add({"input_ids": ROWS, "images": torch.zeros(4, 3, 2, 2)}, tokens_per_tile=7)
    assert read(meter)["visual_tokens_per_sample"] == 7.0  # 3 images of 3 rows; the text row's zero tile is not shown


def test_tiled_images() -> None:
    meter = Meter()
    images = [torch.zeros(5, 3, 2, 2), torch.zeros(1, 3, 2, 2), torch.zeros(3, 3, 2, 2), torch.zeros(3, 2, 2)]
    meter.add({"input_ids": ROWS, "images": images}, tokens_per_tile=6)
    assert read(meter)["visual_tokens_per_sample"] == (5 + 3 + 1) * 6 / 3


def test_text_only_and_a_new_start_after_reading() -> None:
    meter = Meter()
    meter.add({"input_ids": ROWS[:, 2:], "images": torch.zeros(3, 3, 2, 2)}, tokens_per_tile=6)
    assert read(meter, 2)["visual_tokens_per_sample"] == 0
    meter.add({"input_ids": ROWS[:, 2:]}, tokens_per_tile=0)
    rates = read(meter, 2)
    assert rates["visual_tokens_per_sample"] == 0
    assert rates["samples_per_second"] > 0


def test_tokens_leave_padding_out_and_count_pictures_as_the_model_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 12.0, 16.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    meter = Meter()
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 1, 1]]).bool()
    meter.add({"input_ids": ROWS, "attention_mask": mask, "images": torch.zeros(4, 3, 2, 2)}, tokens_per_tile=7)
    rates = read(meter, 2)
    assert rates["tokens_per_second"] == (8 - 3 + 3 * 7) * 2 / 2.0
    assert rates["samples_per_second"] == 3 * 2 / 2.0
    meter.add({"input_ids": ROWS}, tokens_per_tile=7, step=1)
    assert read(meter)["tokens_per_second"] == round((9 - 3) / 4.0, 1)


def test_time_left_at_the_pace_of_this_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed run starts at step 100: the hundred steps before took none of its time."""
    clock = iter([0.0, 60.0, 240.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    meter = Meter()
    meter.add({"input_ids": ROWS}, tokens_per_tile=0, step=100)
    assert "minutes_left" not in meter.read(1, step=100, last_step=110, device=CPU)
    assert meter.read(1, step=102, last_step=110, device=CPU)["minutes_left"] == 2.0 * 8


def test_peak_memory_never_falls() -> None:
    meter = Meter()
    before = read(meter)["peak_memory_gb"]
    held = torch.ones(60_000_000)
    during = read(meter)["peak_memory_gb"]
    assert held.sum() > 0
    del held
    assert 0.01 < before <= during == read(meter)["peak_memory_gb"]
    assert during < 100  # gigabytes, not kilobytes
