"""A checkpoint that is missing, broken, unsafe or of another kind is refused; the error says what and what to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from llava.model.builder import load_pretrained_model
from tests.tiny import tiny_tower_folder
from tests.tiny_checkpoints import (
    PROJECTOR,
    TOKENS,
    TOWER,
    tiny_vicuna_llava,
    weights,
    write_config,
    write_lora,
    write_plain,
    write_projector_only,
    write_shards,
    write_v15,
    write_v16,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny_vicuna_llava(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def complete(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound v1.5 checkpoint; tests break a copy."""
    return write_v15(model, tmp_path_factory.mktemp("complete") / "x", dtype=torch.float32)


@pytest.fixture
def folder(complete: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(complete, tmp_path / "x"))


def load(path: Path | str, base: Path | str | None = None, **kwargs: Any) -> Any:
    return load_pretrained_model(
        str(path), None if base is None else str(base), "my-ckpt", **({"device_map": "cpu"} | kwargs)
    )


def test_the_sound_copy_loads(folder: Path) -> None:
    assert load(folder)[3] == 2048


# ------------------------------------------------------------------------------------------------------ where it lies


@pytest.mark.parametrize("path", ["/no/such/checkpoint", "./checkpoints/run 1", "a/b/c", "../x"])
def test_no_folder_and_no_hub_id(path: str) -> None:
    with pytest.raises(ValueError, match="no such folder, and it is no hub id"):
        load(path)


def test_a_hub_id_that_cannot_be_fetched_keeps_the_hubs_error() -> None:
    with pytest.raises(
        ValueError, match=r"model_path 'liuhaotian/llava-none' is no folder here, and the hub"
    ) as caught:
        load("liuhaotian/llava-none")
    assert isinstance(caught.value.__cause__, OSError)


def test_a_base_that_is_not_there_is_named_as_the_base(model: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model_base '\./nowhere/base'"):
        load(write_projector_only(model, tmp_path / "run"), "./nowhere/base")


def test_a_file_is_no_checkpoint(folder: Path) -> None:
    with pytest.raises(ValueError, match="is a file; expected the folder"):
        load(folder / "config.json")


def test_a_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config\.json does not exist"):
        load(tmp_path)


def test_a_folder_with_a_config_alone(folder: Path) -> None:
    for file in folder.glob("pytorch_model*"):
        file.unlink()
    with pytest.raises(ValueError, match=r"has a config but no weights.*found config\.json"):
        load(folder)


# ---------------------------------------------------------------------------------------------------- which kind it is


def test_transformers_own_layout_is_told_apart(tmp_path: Path) -> None:
    hf = {
        "model_type": "llava",
        "text_config": {"model_type": "llama"},
        "vision_config": {},
        "image_token_index": 32000,
    }
    (tmp_path / "config.json").write_text(json.dumps(hf))
    with pytest.raises(ValueError, match=r"transformers' own LLaVA layout.*release from-hf.*liuhaotian/llava-v1\.5-7b"):
        load(tmp_path)


def test_an_unknown_model_type_is_named(model: Any, folder: Path) -> None:
    write_config(model, folder, model_type="llava_mpt")
    with pytest.raises(ValueError, match=r"config\.json says model_type 'llava_mpt'; known.*llava_qwen"):
        load(folder)


def test_a_config_that_is_no_language_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "clip_vision_model"}')
    torch.save({"a": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"'clip_vision_model'.*no causal language model.*mm_vision_tower"):
        load(tmp_path)


def test_multimodal_is_insisted_on(model: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"multimodal=True, but .* names no mm_vision_tower"):
        load(write_plain(model, tmp_path / "vicuna"), multimodal=True)


def test_a_projector_needs_its_base(model: Any, tmp_path: Path) -> None:
    folder = write_projector_only(model, tmp_path / "run", _name_or_path="lmsys/vicuna-7b-v1.5")
    with pytest.raises(ValueError, match=r"pass model_base.*recorded 'lmsys/vicuna-7b-v1\.5'"):
        load(folder)


def test_a_projector_without_vision_keys(model: Any, tmp_path: Path) -> None:
    folder = write_plain(model, tmp_path / "run")
    for file in folder.glob("pytorch_model*"):
        file.unlink()
    write_projector_only(model, folder, mm_vision_tower=None)
    with pytest.raises(ValueError, match=r"holds mm_projector\.bin, but its config\.json has no mm_vision_tower"):
        load(folder)


def test_an_adapter_needs_its_base(model: Any, tmp_path: Path) -> None:
    folder, _ = write_lora(model, tmp_path / "lora")
    with pytest.raises(ValueError, match="holds a LoRA adapter: pass model_base"):
        load(folder)


# ------------------------------------------------------------------------------------------------------- half written


def test_a_missing_shard(folder: Path) -> None:
    (folder / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(ValueError, match=r"pytorch_model-00002-of-00002\.bin.*Download"):
        load(folder)


@pytest.mark.parametrize("keep", [0.0, 0.6])
def test_a_half_written_shard(folder: Path, keep: float) -> None:
    shard = folder / "pytorch_model-00001-of-00002.bin"
    content = shard.read_bytes()
    shard.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(ValueError, match=r"pytorch_model-00001-of-00002\.bin.*(empty|half-written)"):
        load(folder)


def test_a_half_written_safetensors_file(model: Any, tmp_path: Path) -> None:
    folder = write_v16(model, tmp_path / "x")
    shard = folder / "model-00003-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model-00003-of-00003\.safetensors.*half-written"):
        load(folder)


def test_missing_and_unexpected_keys(model: Any, folder: Path) -> None:
    state = weights(model)
    state["model.layers.7.mlp.up_proj.weight"] = state.pop("model.layers.1.mlp.up_proj.weight")
    write_shards(state, folder)
    with pytest.raises(ValueError, match=r"missing keys 1: model\.layers\.1\.mlp.*unexpected keys 1: model\.layers\.7"):
        load(folder)


def test_a_missing_key_is_not_filled_with_noise(model: Any, folder: Path) -> None:
    state = weights(model)
    for key in (f"{PROJECTOR}2.bias", "lm_head.weight"):
        broken = {name: value for name, value in state.items() if name != key}
        write_shards(broken, folder)
        with pytest.raises(ValueError, match=f"missing keys 1: {key}"):
            load(folder)


def test_a_wrong_shape(model: Any, folder: Path) -> None:
    write_shards(weights(model) | {"model.norm.weight": torch.ones(7)}, folder)
    with pytest.raises(ValueError, match=r"model\.norm\.weight \[7\] instead of \[48\]"):
        load(folder)


def test_v16_without_the_tower_it_promises(model: Any, tmp_path: Path) -> None:
    folder = write_v16(model, tmp_path / "x")
    for file in folder.glob("model*"):
        file.unlink()
    write_shards(weights(model, tower=False), folder, "safetensors")
    with pytest.raises(ValueError, match=rf"missing keys 103: {TOWER}"):
        load(folder)


def test_half_a_tower(model: Any, folder: Path) -> None:
    state = weights(model, tower=True)
    lost = f"{TOWER}vision_tower.vision_model.pre_layrnorm.weight"
    write_shards({key: value for key, value in state.items() if key != lost}, folder)
    with pytest.raises(ValueError, match=r"missing keys 1: .*pre_layrnorm\.weight"):
        load(folder)


def test_a_tower_that_is_nowhere(model: Any, folder: Path) -> None:
    write_config(model, folder, mm_vision_tower="./gone/clip")
    with pytest.raises(ValueError, match=r"mm_vision_tower.*\./gone/clip"):
        load(folder)


def test_a_half_written_tower(model: Any, folder: Path, tmp_path: Path) -> None:
    tower = Path(shutil.copytree(model.config.mm_vision_tower, tmp_path / "clip"))
    write_config(model, folder, mm_vision_tower=str(tower))
    file = tower / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(ValueError, match=r"clip/model\.safetensors.*half-written"):
        load(folder)
    file.unlink()
    with pytest.raises(ValueError, match=r"clip holds no weights"):
        load(folder)


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_a_projector_file_fits_exactly(model: Any, complete: Path, tmp_path: Path, change: str) -> None:
    """The base has a projector of its own: it must not fill what the file lacks."""
    folder = write_projector_only(model, tmp_path / "run", dtype=torch.float32)
    state = torch.load(folder / "mm_projector.bin", weights_only=True)
    if change == "missing":
        del state[f"{PROJECTOR}2.weight"]
    elif change == "extra":
        state[f"{PROJECTOR}4.weight"] = torch.ones(1)
    else:
        state[f"{PROJECTOR}0.weight"] = torch.ones(3, 3)
    torch.save(state, folder / "mm_projector.bin")
    key = {"missing": "missing keys 1: .*2", "extra": "unexpected keys 1: .*4", "shape": r"wrong shapes 1: .*0"}[change]
    with pytest.raises(ValueError, match=rf"run over .*{key}\.weight"):
        load(folder, complete)


@pytest.mark.parametrize("change", ["missing", "unexpected", "gone", "broken"])
def test_an_adapter_fits_exactly(model: Any, complete: Path, tmp_path: Path, change: str) -> None:
    from safetensors.torch import load_file, save_file

    folder, _ = write_lora(model, tmp_path / "lora")
    file = folder / "adapter_model.safetensors"
    state = load_file(file)
    key = next(iter(state))
    if change == "missing":
        save_file({name: value for name, value in state.items() if name != key}, file)
    elif change == "unexpected":
        save_file(state | {key.replace("layers.0", "layers.9"): state[key].clone()}, file)
    elif change == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-10])
    expected = {
        "missing": "missing keys 1: .*layers.0",
        "unexpected": "unexpected keys 1: .*layers.9",
        "gone": "no weights: expected adapter_model",
        "broken": "half-written",
    }[change]
    with pytest.raises(ValueError, match=expected):
        load(folder, complete)


def test_a_lora_without_its_config_does_not_lose_its_projector(model: Any, tmp_path: Path) -> None:
    base = write_plain(model, tmp_path / "base", dtype=torch.float32)
    folder, _ = write_lora(model, tmp_path / "lora")
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"holds non_lora_trainables\.bin .* copy config\.json of the run"):
        load(folder, base)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("adapter_config.json", '{"peft_type": "LO', r"adapter_config\.json is no valid JSON"),
        ("adapter_config.json", "{}", r"adapter_config\.json names no peft_type"),
    ],
)
def test_a_broken_adapter_config_is_named(
    model: Any, complete: Path, tmp_path: Path, name: str, content: str, message: str
) -> None:
    folder, _ = write_lora(model, tmp_path / "lora")
    (folder / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        load(folder, complete)


@pytest.mark.parametrize("content", ['{"bos_to', "[]"])
def test_a_broken_special_tokens_map_is_named(folder: Path, content: str) -> None:
    (folder / "special_tokens_map.json").write_text(content)
    with pytest.raises(ValueError, match=r"special_tokens_map\.json"):
        load(folder)


def test_an_index_of_something_else_is_named(folder: Path) -> None:
    (folder / "pytorch_model.bin.index.json").write_text('{"weight_map": {"lm_head.weight": 3}}')
    with pytest.raises(ValueError, match=r"pytorch_model\.bin\.index\.json has no 'weight_map'"):
        load(folder)


def test_a_tower_of_another_width_is_told_before_the_first_image(model: Any, folder: Path, tmp_path: Path) -> None:
    wide = tiny_tower_folder(tmp_path / "wide", width=64)
    write_config(model, folder, mm_vision_tower=str(wide))
    with pytest.raises(ValueError, match=r"wide' has width 64, but the projector was made for mm_hidden_size 32"):
        load(folder)


def test_a_tower_of_several_scales_is_not_run_as_a_plain_one(model: Any, folder: Path) -> None:
    write_config(model, folder, s2=True)
    with pytest.raises(ValueError, match="S2 tower"):
        load(folder)


def test_lora_extras_the_model_does_not_have(model: Any, complete: Path, tmp_path: Path) -> None:
    folder, _ = write_lora(model, tmp_path / "lora")
    torch.save({"base_model.model.model.vision_resampler.weight": torch.ones(1)}, folder / "non_lora_trainables.bin")
    with pytest.raises(ValueError, match=r"unexpected keys 1: model\.vision_resampler\.weight"):
        load(folder, complete)


# -------------------------------------------------------------------------------------------------------------- unsafe


@pytest.mark.parametrize("name", ["pytorch_model-00001-of-00002.bin", "mm_projector.bin", "non_lora_trainables.bin"])
def test_a_pickle_with_code_is_refused(model: Any, complete: Path, folder: Path, tmp_path: Path, name: str) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            import os

            return os.mkdir, (str(tmp_path / "it-ran"),)

    base: Path | None = complete
    if name == "mm_projector.bin":
        folder = write_projector_only(model, tmp_path / "run")
    elif name == "non_lora_trainables.bin":
        folder, _ = write_lora(model, tmp_path / "lora")
    else:
        base = None
    torch.save({"a": Payload()}, folder / name)
    with pytest.raises(ValueError, match=rf"refused to load .*{name}"):
        load(folder, base)
    assert not (tmp_path / "it-ran").exists()


# ---------------------------------------------------------------------------------------------- tokenizer and embedding


def test_embeddings_are_never_resized(model: Any, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A missing mm_use_im_patch_token means True upstream; without a row for the token it is not added."""
    write_config(model, folder, mm_use_im_patch_token=None)
    tokenizer, loaded, _, _ = load(folder)
    assert len(tokenizer) == TOKENS and loaded.get_input_embeddings().num_embeddings == TOKENS
    assert "mm_use_im_patch_token" in caplog.text and "<im_patch>" in caplog.text


@pytest.mark.parametrize(
    ("key", "token"), [("mm_use_im_patch_token", "<im_patch>"), ("mm_use_im_start_end", "<im_start>")]
)
def test_a_marker_without_a_row_is_an_error(model: Any, folder: Path, key: str, token: str) -> None:
    write_config(model, folder, **{key: True})
    with pytest.raises(ValueError, match=rf"{key}: true.*{token}.*{TOKENS} rows.*untrained"):
        load(folder)


@pytest.mark.parametrize("explicit", [True, None])
def test_markers_are_added_where_rows_wait_for_them(tmp_path: Path, explicit: bool | None) -> None:
    roomy = tiny_vicuna_llava(tmp_path, vocab_size=TOKENS + 8)
    keys = {"mm_use_im_patch_token": explicit, "mm_use_im_start_end": True}
    tokenizer, loaded, _, _ = load(write_v15(roomy, tmp_path / "x", **keys))
    assert tokenizer.convert_tokens_to_ids(["<im_patch>", "<im_start>", "<im_end>"]) == [TOKENS, TOKENS + 1, TOKENS + 2]
    assert loaded.get_input_embeddings().num_embeddings == TOKENS + 8


def test_a_foreign_tokenizer(tmp_path: Path) -> None:
    short = tiny_vicuna_llava(tmp_path, vocab_size=TOKENS - 20)
    with pytest.raises(ValueError, match=f"tokenizer has {TOKENS} tokens, the embedding {TOKENS - 20} rows"):
        load(write_v15(short, tmp_path / "x"))
