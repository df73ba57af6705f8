"""How often the encoder runs, and that a first run's bytes are any other run's."""

from typing import Any

import pytest
import torch

from llava.bench import encode
from llava.bench.footprint import peak_bytes
from tests.llava.bench.tiny_subject import tiny_subject
from visionzip import VisionZip

ZIPPER = VisionZip(12, 4)


def quiet(_: str) -> None:
    pass


def test_on_a_cpu_the_counted_run_is_the_warm_up() -> None:
    """Its bytes are those of a later run, so nothing is lost by counting the first."""
    subject, ran = tiny_subject(), []
    tower = subject.model.get_vision_tower()
    tower.vision_tower.vision_model.pre_layrnorm.register_forward_hook(lambda *_: ran.append(1))
    rows = encode.measure(subject, ZIPPER, [2], 3, quiet)
    assert len(ran) == 3 * (1 + 3), "blocks, dense and visionzip share the tower: one run each, and three rounds"
    assert [row["way"] for row in rows] == list(encode.NAMES)
    assert {row["seconds"]["total"]["n"] for row in rows} == {3}
    pixels = torch.randn(2, 3, tower.image_size, tower.image_size)
    warm = encode.encoders(subject, pixels, ZIPPER)
    for _ in range(2):
        assert {name: peak_bytes(run, "cpu") for name, run in warm.items()} == {
            row["way"]: row["peak_bytes"] for row in rows
        }


@pytest.mark.parametrize("tiles", [[], [1, 0]])
def test_tiles_that_cannot_be_are_refused(tiles: list[int]) -> None:
    with pytest.raises(ValueError, match="tiles: expected at least one number"):
        encode.measure(tiny_subject(), ZIPPER, tiles, 1, quiet)


def test_on_a_gpu_bytes_are_counted_behind_the_timed_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a warm-up in front of these."""
    asked: list[Any] = []
    monkeypatch.setattr(encode, "alternate", lambda *_, **options: asked.append(options))
    monkeypatch.setattr(encode, "peak_bytes", lambda *_: asked.append("bytes"))
    encode._times_and_peaks({"a": print}, torch.device("cuda"), 4)
    assert asked == [{"rounds": 4}, "bytes"]
