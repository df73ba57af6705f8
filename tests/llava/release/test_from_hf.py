"""Back from transformers' layout: our exports bit for bit, other folders by what they say."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from llava.model.builder import load_pretrained_model
from llava.model.weight_files import read_weights
from llava.release.from_hf import from_hf
from llava.release.to_hf import to_hf
from tests.tiny_release import ZIP, hf_logits, llava_logits, write_checkpoint

QUESTION = "What colour is the square?"


def assert_same_checkpoint(one: Path, other: Path) -> None:
    before, after = read_weights(one), read_weights(other)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) and before[key].dtype == after[key].dtype for key in before)
    assert json.loads((one / "config.json").read_text()) == json.loads((other / "config.json").read_text())
    for file in one.glob("*token*"):
        assert (other / file.name).read_bytes() == file.read_bytes()


def test_a_round_trip_is_bit_equal_and_compresses(v15: Path, exported: Path) -> None:
    back = from_hf(str(exported), v15.parent / "back")
    assert_same_checkpoint(v15, back)
    model = load_pretrained_model(back, None, None, device="cpu")[1]
    assert model.get_vision_tower().compressor.to_config().items() >= ZIP.items()


@pytest.mark.parametrize("family", ["mistral", "qwen2"])
def test_a_round_trip_of_next(tmp_path: Path, family: str) -> None:
    folder = write_checkpoint(tmp_path, family, is_next=True, unfreeze_mm_vision_tower=True)
    back = from_hf(str(to_hf(str(folder), tmp_path / "hf")), tmp_path / "back")
    assert_same_checkpoint(folder, back)
    assert any(key.startswith("model.vision_tower.") for key in read_weights(back))
    assert not (tmp_path / "back-vision-tower").exists()


@pytest.mark.parametrize(("family", "is_next"), [("llama", False), ("qwen2", False), ("mistral", True)])
def test_a_folder_transformers_saved_itself(tmp_path: Path, family: str, is_next: bool) -> None:
    """Saved anew by transformers without our keys: logits stay, the tower lies beside, pictures are prepared alike."""
    exported = to_hf(str(write_checkpoint(tmp_path / "a", family, is_next, rope_theta=500.0)), tmp_path / "hf")
    model = AutoModelForImageTextToText.from_pretrained(exported, dtype=torch.float32)
    for key in ("llava_layout", "llava_tower"):
        delattr(model.config, key)
    model.save_pretrained(tmp_path / "theirs")
    AutoProcessor.from_pretrained(exported).save_pretrained(tmp_path / "theirs")
    back = from_hf(str(tmp_path / "theirs"), tmp_path / "b" / "back")

    shutil.rmtree(tmp_path / "a")  # nothing of the original is needed
    config = json.loads((back / "config.json").read_text())
    assert config["mm_vision_tower"] == "back-vision-tower" and config["vocab_size"] == (
        480 if family == "qwen2" else 448
    )
    assert config["image_aspect_ratio"] == ("anyres" if is_next else "pad")
    mode = {"llama": "vicuna_v1", "qwen2": "qwen_1_5", "mistral": "mistral_instruct"}[family]
    ids, ours = llava_logits(back, QUESTION, mode)
    _, theirs, _ = hf_logits(tmp_path / "theirs", QUESTION)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert -200 in ids
    shapes = {key: value.shape for key, value in read_weights(back).items()}
    assert shapes["lm_head.weight"] == shapes["model.embed_tokens.weight"]


def test_a_tower_trained_on_is_not_lost(v15: Path, exported: Path, tmp_path: Path) -> None:
    changed = shutil.copytree(exported, tmp_path / "changed")
    model = AutoModelForImageTextToText.from_pretrained(changed, dtype=torch.float32)
    with torch.no_grad():
        next(model.model.vision_tower.parameters()).add_(0.5)
    for file in changed.glob("model*"):
        file.unlink()
    model.save_pretrained(changed)
    back = from_hf(str(changed), tmp_path / "back")
    assert json.loads((back / "config.json").read_text())["mm_vision_tower"] == "back-vision-tower"
    assert (tmp_path / "back-vision-tower" / "model.safetensors").exists()
    assert read_weights(back).keys() == read_weights(v15).keys()
    assert load_pretrained_model(back, None, None, device="cpu")[1].config.mm_compressor["dominant"] == ZIP["dominant"]


def test_the_loader_sends_here(exported: Path, v15: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"python -m llava\.release from-hf"):
        load_pretrained_model(exported, None, None, device="cpu")
    with pytest.raises(ValueError, match="is no llava or llava_next config of transformers"):
        from_hf(str(v15), tmp_path / "out")
