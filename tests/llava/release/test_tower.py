"""The tower a checkpoint names: found, told apart by its bits, written anew."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from llava.model.multimodal_encoder.clip_encoder import CLIPVisionTower
from llava.release.names import TOWER
from llava.release.tower import tower_config, tower_digest, tower_folder, tower_state, write_tower
from tests.tiny import tiny_image_processor, tiny_images, tiny_tower_folder


def test_found_where_named_or_beside(tmp_path: Path) -> None:
    tower = tiny_tower_folder(tmp_path / "tower")
    (tmp_path / "model").mkdir()
    assert tower_folder({"mm_vision_tower": str(tower)}, tmp_path / "model") == tower
    assert tower_folder({"mm_vision_tower": "elsewhere/tower"}, tmp_path / "model") == tower
    with pytest.raises(ValueError, match="mm_vision_tower"):
        tower_folder({"mm_vision_tower": "./none"}, tmp_path / "model")


def test_the_text_side_of_a_whole_clip_is_left_out(tmp_path: Path) -> None:
    tower = tiny_tower_folder(tmp_path / "tower")
    alone = tower_state(tower)
    whole = {f"vision_model.{key.removeprefix(TOWER)}": value for key, value in alone.items()}
    whole |= {"text_model.a": torch.ones(2), "logit_scale": torch.ones(()), "visual_projection.weight": torch.ones(2)}
    save_file(whole, tower / "model.safetensors")
    assert tower_digest(tower_state(tower)) == tower_digest(alone) and tower_state(tower).keys() == alone.keys()


def test_the_digest_sees_one_bit_and_the_dtype() -> None:
    state = {f"{TOWER}a": torch.zeros(4), "other": torch.ones(1)}
    other = {f"{TOWER}a": torch.tensor([0.0, 0.0, 0.0, 1e-45])}
    half = {f"{TOWER}a": torch.zeros(8, dtype=torch.float16)}
    assert tower_digest(state) == tower_digest({f"{TOWER}a": torch.zeros(4)})
    assert len({tower_digest(state), tower_digest(other), tower_digest(half)}) == 3


def test_a_written_tower_sees_the_same(tmp_path: Path) -> None:
    source = tiny_tower_folder(tmp_path / "source")
    processor = tiny_image_processor()
    write_tower(tower_state(source), tower_config(source).to_dict(), processor, tmp_path / "new")
    images = tiny_images(2)
    old, new = (CLIPVisionTower(str(folder), args=None) for folder in (source, tmp_path / "new"))
    assert torch.equal(old(images), new(images))
    assert new.image_processor.to_dict() == old.image_processor.to_dict()


def test_another_kind_of_tower_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "siglip_vision_model"}))
    with pytest.raises(ValueError, match="only CLIP towers"):
        tower_config(tmp_path)
