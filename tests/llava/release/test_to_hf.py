"""Exports load in plain transformers and give the logits of our model for the same picture and question."""

import json
from pathlib import Path

import pytest
import torch

from llava.model.weight_files import read_weights
from llava.release.shards import write_weights
from llava.release.to_hf import CONV_MODES, to_hf
from tests.tiny_release import ZIP, hf_logits, llava_logits, write_checkpoint

QUESTION = "What colour is the square?"
# Both sides above one tile of 56 pixels: no two canvases tie (transformers breaks ties another way).
SIZES = ((200, 120), (100, 75))


def compare(folder: Path, exported: Path, mode: str, tokens: int | None, size: tuple[int, int] = SIZES[0]) -> None:
    ids, ours = llava_logits(folder, QUESTION, mode, size)
    theirs_ids, theirs, model = hf_logits(exported, QUESTION, size)
    assert type(model).__module__.startswith("transformers.")
    image = model.config.image_token_id
    at, count = ids.index(-200), theirs_ids.count(image)
    assert theirs_ids == ids[:at] + [image] * count + ids[at + 1 :]
    assert tokens is None or count == tokens
    torch.testing.assert_close(theirs[:, : ours.shape[1]], ours, rtol=1e-4, atol=1e-4)
    assert ours.std() > 0.1  # not equal for being nothing


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2"])
def test_llava(tmp_path: Path, family: str) -> None:
    folder = write_checkpoint(tmp_path, family, rope_theta=1000.0)
    exported = to_hf(str(folder), tmp_path / "out")
    compare(folder, exported, CONV_MODES[family], tokens=16)
    assert json.loads((exported / "config.json").read_text())["text_config"]["rope_theta"] == 1000.0


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2"])
def test_llava_next(tmp_path: Path, family: str) -> None:
    folder = write_checkpoint(tmp_path, family, is_next=True)
    exported = to_hf(str(folder), tmp_path / "out")
    config = json.loads((exported / "config.json").read_text())
    assert config["architectures"] == ["LlavaNextForConditionalGeneration"]
    ours = json.loads((folder / "config.json").read_text())["image_grid_pinpoints"]
    assert config["image_grid_pinpoints"] == [size[::-1] for size in ours] != ours  # theirs are (height, width)
    for size in SIZES:
        compare(folder, exported, CONV_MODES[family], tokens=None, size=size)


def test_cls_and_patches(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, mm_vision_select_feature="cls_patch", image_aspect_ratio="square")
    compare(folder, to_hf(str(folder), tmp_path / "out"), "vicuna_v1", tokens=17)


def test_tied_tables(tmp_path: Path) -> None:
    """Small Qwen2 bases store one table for both ends."""
    folder = write_checkpoint(tmp_path, "qwen2", tie_word_embeddings=True)
    state = {key: value for key, value in read_weights(folder).items() if key != "lm_head.weight"}
    for file in folder.glob("model*"):
        file.unlink()
    write_weights(state, folder)
    exported = to_hf(str(folder), tmp_path / "out")
    assert "language_model.lm_head.weight" not in read_weights(exported)
    compare(folder, exported, "qwen_1_5", tokens=16)


def test_rows_keep_their_bits_and_nothing_is_lost(v15: Path, exported: Path) -> None:
    config = json.loads((exported / "config.json").read_text())
    assert config["mm_compressor"] == ZIP and config["text_config"]["vocab_size"] == 448
    assert config["image_token_index"] == 400 and config["text_config"]["pad_token_id"] == 0
    before, after = read_weights(v15), read_weights(exported)
    table = after["language_model.model.embed_tokens.weight"]
    assert table.shape[0] == after["language_model.lm_head.weight"].shape[0] == 448
    assert torch.equal(table[:400], before["model.embed_tokens.weight"])
    assert len(list(exported.glob("model-*.safetensors"))) > 1


def test_spare_rows_are_used_as_they_are(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, "qwen2")  # 480 rows for 403 tokens
    exported = to_hf(str(folder), tmp_path / "out")
    assert json.loads((exported / "config.json").read_text())["text_config"]["vocab_size"] == 480
    assert torch.equal(read_weights(exported)["language_model.lm_head.weight"], read_weights(folder)["lm_head.weight"])


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"mm_projector_type": "linear"}, "mm_projector_type 'linear'"),
        ({"image_aspect_ratio": "anyres"}, "mm_patch_merge_type 'flat'"),
        ({"image_aspect_ratio": "anyres_max_9"}, "image_aspect_ratio 'anyres_max_9'"),
    ],
)
def test_what_the_classes_cannot_do_is_refused(v15: Path, tmp_path: Path, keys: dict, said: str) -> None:
    config = json.loads((v15 / "config.json").read_text()) | keys
    for file in v15.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=said):
        to_hf(str(tmp_path), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_part_of_a_checkpoint_is_refused(v15: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has a config but no weights"):
        (tmp_path / "config.json").write_bytes((v15 / "config.json").read_bytes())
        to_hf(str(tmp_path), tmp_path / "out")
