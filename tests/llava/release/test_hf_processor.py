"""The exported processor makes our pixels and as many placeholders as the model has features."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoProcessor, CLIPImageProcessorPil

from llava.mm_utils import process_images
from llava.release.probe import draw_picture
from llava.release.to_hf import to_hf
from tests.tiny_release import write_checkpoint


@pytest.mark.parametrize("aspect", ["pad", "square", "anyres"])
def test_pixels_are_equal(tmp_path: Path, aspect: str) -> None:
    folder = write_checkpoint(tmp_path, is_next=aspect == "anyres", image_aspect_ratio=aspect)
    exported = to_hf(str(folder), tmp_path / "out")
    processor = AutoProcessor.from_pretrained(exported, backend="pil")
    tower = CLIPImageProcessorPil.from_pretrained(tmp_path / "tower")
    config = type("Config", (), json.loads((folder / "config.json").read_text()))
    for size in ((200, 120), (90, 160)):
        picture = draw_picture().resize(size)
        theirs = processor(images=picture, text="<image>", return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(theirs, process_images([picture], tower, config), rtol=0, atol=1e-6)
    said = json.loads((exported / "processor_config.json").read_text())
    assert said["patch_size"] == 14 and said["num_additional_image_tokens"] == 1
    assert said["vision_feature_select_strategy"] == "default"
    assert json.loads((exported / "preprocessor_config.json").read_text())["crop_size"]["height"] == 56
