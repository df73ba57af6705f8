"""Counting what a step shows the model."""

import torch

from llava.constants import IMAGE_TOKEN_INDEX
from llava.train.trainer import Meter

ROWS = torch.tensor([[1, IMAGE_TOKEN_INDEX, 5], [1, 5, 6], [IMAGE_TOKEN_INDEX, IMAGE_TOKEN_INDEX, 5]])


def test_single_tiles() -> None:
    meter = Meter()
    meter.add({"input_ids": ROWS, "images": torch.zeros(4, 3, 2, 2)}, tokens_per_tile=7)
    assert meter.read(1)["visual_tokens_per_sample"] == 7.0  # 3 images of 3 rows; the text row's zero tile is not shown


def test_tiled_images() -> None:
    meter = Meter()
    images = [torch.zeros(5, 3, 2, 2), torch.zeros(1, 3, 2, 2), torch.zeros(3, 3, 2, 2), torch.zeros(3, 2, 2)]
    meter.add({"input_ids": ROWS, "images": images}, tokens_per_tile=6)
    assert meter.read(1)["visual_tokens_per_sample"] == (5 + 3 + 1) * 6 / 3


def test_text_only_and_a_new_start_after_reading() -> None:
    meter = Meter()
    meter.add({"input_ids": ROWS[:, 2:], "images": torch.zeros(3, 3, 2, 2)}, tokens_per_tile=6)
    assert meter.read(2)["visual_tokens_per_sample"] == 0
    meter.add({"input_ids": ROWS[:, 2:]}, tokens_per_tile=0)
    rates = meter.read(2)
    assert rates["visual_tokens_per_sample"] == 0
    assert rates["samples_per_second"] > 0
