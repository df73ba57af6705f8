"""Precision, device, quantization and config overrides of the loader."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from llava.model.builder import load_pretrained_model
from llava.model.placement import Placement, place
from tests.tiny import tiny_images
from tests.tiny_checkpoints import tiny_vicuna_llava, write_config, write_lora, write_v15, write_v16

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    # Widths are multiples of 32: bitsandbytes' CPU kernels ask for that.
    return tiny_vicuna_llava(tmp_path_factory.mktemp("model"), hidden_size=64, intermediate_size=128)


@pytest.fixture(scope="module")
def v15(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_v15(model, tmp_path_factory.mktemp("v15") / "x")


@pytest.fixture(scope="module")
def v16(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_v16(model, tmp_path_factory.mktemp("v16") / "x")


def load(path: Path, **kwargs: Any) -> Any:
    return load_pretrained_model(str(path), None, "my-ckpt", **({"device_map": "cpu"} | kwargs))[1]


# --------------------------------------------------------------------------------------------------------- precision


def test_float32_is_the_default_on_the_cpu(v15: Path) -> None:
    model = load(v15)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("value", ["bfloat16", torch.bfloat16, "torch.bfloat16"])
def test_the_tower_follows_the_models_dtype(v15: Path, v16: Path, key: str, value: Any) -> None:
    for folder in (v15, v16):
        model = load(folder, **{key: value})
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}, folder


def test_vision_dtype_reproduces_the_float32_tower_of_upstream(v15: Path, v16: Path) -> None:
    for folder in (v15, v16):
        model = load(folder, dtype="float16", vision_dtype="float32")
        assert model.get_vision_tower().dtype == torch.float32 and model.dtype == torch.float16
        assert model.encode_images(tiny_images(1).to(torch.float16)).dtype == torch.float16


def test_a_dtype_that_is_none(v15: Path) -> None:
    with pytest.raises(ValueError, match=r"dtype 'int4' is unknown; expected one of float16, bfloat16, float32"):
        load(v15, torch_dtype="int4")


# ------------------------------------------------------------------------------------------------------------ device


@NO_GPU
def test_auto_without_a_gpu_loads_on_the_cpu_and_says_so(v15: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = load(v15, device_map="auto")
    assert model.device.type == "cpu" and model.dtype == torch.float32
    assert "no CUDA device" in caplog.text
    assert not hasattr(model, "_hf_hook")


@pytest.mark.parametrize("kwargs", [{"device_map": "cpu"}, {"device": "cpu"}, {"device_map": torch.device("cpu")}])
def test_the_cpu_needs_no_warning(v15: Path, kwargs: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert load(v15, **kwargs).device.type == "cpu"
    assert "CUDA" not in caplog.text


@NO_GPU
@pytest.mark.parametrize(
    "kwargs",
    [
        {"device_map": "cuda:0"},
        {"device_map": None, "device": "cuda"},
        {"device_map": "auto", "device": "cuda:1"},
        {"device_map": {"model": 0, "lm_head": "cpu"}},
        {"device_map": 0},
    ],
)
def test_a_gpu_asked_for_by_name_must_exist(v15: Path, kwargs: Any) -> None:
    with pytest.raises(ValueError, match=r'no CUDA device.*Pass device="cpu"'):
        load(v15, **kwargs)


def test_placement_with_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert place("auto", "cuda", None) == Placement("auto", torch.float16, None)
    assert place("cuda:1", "cuda", "bfloat16") == Placement({"": "cuda:1"}, torch.bfloat16, None)
    assert place(None, "cuda", None).device_map == {"": "cuda"}
    assert place("auto", "cuda:1", None).device_map == {"": "cuda:1"}
    assert place(0, "cuda", None).device_map == {"": 0}
    assert place({"model": 0, "lm_head": "cpu"}, "cuda", None).device_map == {"model": 0, "lm_head": "cpu"}
    assert place("auto", "cpu", None) == Placement(None, torch.float32, None)


# ------------------------------------------------------------------------------------------------------ quantization


@pytest.mark.parametrize(("flag", "kind"), [("load_8bit", "Linear8bitLt"), ("load_4bit", "Linear4bit")])
def test_quantized_loading_spares_projector_tower_and_head(v15: Path, v16: Path, flag: str, kind: str) -> None:
    pytest.importorskip("bitsandbytes")
    for folder in (v15, v16):
        model = load(folder, **{flag: True})
        kinds = {
            name: type(module).__name__ for name, module in model.named_modules() if "Linear" in type(module).__name__
        }
        quantized = {name for name, found in kinds.items() if found == kind}
        assert len(quantized) == 14 and all(name.startswith("model.layers.") for name in quantized)
        assert kinds["model.mm_projector.0"] == kinds["lm_head"] == "Linear"


@torch.no_grad()
def test_quantized_answers_stay_close(v15: Path) -> None:
    pytest.importorskip("bitsandbytes")
    ids, images = torch.tensor([[1, 300, -200, 17, 290, 44]]), tiny_images(1)
    full = load(v15)(ids, images=images).logits
    for flag, bound in (("load_8bit", 0.05), ("load_4bit", 0.3)):
        logits = load(v15, **{flag: True})(ids, images=images).logits
        assert ((logits - full).norm() / full.norm()) < bound, flag
        assert not torch.equal(logits, full)


@torch.no_grad()
@pytest.mark.parametrize("flag", ["load_8bit", "load_4bit"])
def test_an_adapter_is_merged_before_quantization(model: Any, tmp_path: Path, flag: str) -> None:
    """Same answer as quantizing the merged checkpoint: the weights are rounded once."""
    pytest.importorskip("bitsandbytes")
    base = write_v15(model, tmp_path / "base", dtype=torch.float32)
    folder, merged = write_lora(model, tmp_path / "lora")
    ids, images = torch.tensor([[1, 300, -200, 17, 290, 44]]), tiny_images(1)
    expected = load(write_v15(merged, tmp_path / "merged", dtype=torch.float32), **{flag: True})(ids, images=images)
    quantized = load_pretrained_model(str(folder), str(base), "x", device_map="cpu", **{flag: True})[1]
    assert torch.allclose(quantized(ids, images=images).logits, expected.logits, atol=1e-3)


def test_one_quantization_at_a_time(v15: Path) -> None:
    with pytest.raises(ValueError, match="load_8bit and load_4bit exclude each other"):
        load(v15, load_8bit=True, load_4bit=True)


# ------------------------------------------------------------------------------------------------ keywords and config


def test_an_unknown_keyword_is_a_type_error_that_names_it(v15: Path) -> None:
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'use_flash_attention_2'; known: .*multimodal"):
        load(v15, use_flash_attention_2=True)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_reaches_the_decoder(v15: Path, attention: str) -> None:
    assert load(v15, attn_implementation=attention, multimodal=True).config._attn_implementation == attention


def test_overwrite_config_wins_over_the_file(v15: Path) -> None:
    compressor = {"method": "visionzip", "dominant": 4, "contextual": 2, "merge": "official"}
    overwrite = {"image_aspect_ratio": "square", "mm_newline_position": "grid", "mm_compressor": compressor}
    model = load(v15, overwrite_config=overwrite)
    assert model.config.image_aspect_ratio == "square" and model.config.mm_newline_position == "grid"
    assert model.encode_images(tiny_images(1)).shape[1] == 6
    assert load(v15, overwrite_config=None).config.image_aspect_ratio == "pad"


@pytest.mark.parametrize("kind", ["dict", "file", "config"])
def test_customized_config_replaces_the_file(model: Any, v15: Path, tmp_path: Path, kind: str) -> None:
    values = json.loads((v15 / "config.json").read_text()) | {"image_aspect_ratio": "square"}
    file = tmp_path / "custom.json"
    file.write_text(json.dumps(values))
    custom = {"dict": values, "file": str(file), "config": type(model.config).from_dict(values)}[kind]
    assert load(v15, customized_config=custom).config.image_aspect_ratio == "square"


def test_a_customized_config_that_is_not_there(v15: Path) -> None:
    with pytest.raises(ValueError, match=r"custom\.json does not exist"):
        load(v15, customized_config="custom.json")


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, 2048),
        ({"tokenizer_model_max_length": 4096}, 4096),
        ({"max_sequence_length": 1024, "tokenizer_model_max_length": 4096}, 1024),
    ],
)
def test_context_length(model: Any, v15: Path, tmp_path: Path, keys: dict[str, int], expected: int) -> None:
    folder = write_config(model, Path(shutil.copytree(v15, tmp_path / "x")), **keys)
    assert load_pretrained_model(str(folder), None, "x", device_map="cpu")[3] == expected


def test_released_generation_defaults_are_kept_where_they_have_an_effect(v15: Path, tmp_path: Path) -> None:
    greedy = load(v15).generation_config
    assert (greedy.eos_token_id, greedy.pad_token_id, greedy.temperature in (None, 1.0)) == (2, 0, True)
    folder = Path(shutil.copytree(v15, tmp_path / "x"))
    (folder / "generation_config.json").write_text('{"do_sample": true, "temperature": 0.9, "eos_token_id": 2}')
    assert load(folder).generation_config.temperature == 0.9
