"""The loader's door as outside programs use it: LLaVA's scripts, LLaVA-NeXT's and lmms-eval's own model classes."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from llava.model.builder import load_pretrained_model
from tests.tiny import tiny_images
from tests.tiny_checkpoints import tiny_vicuna_llava, write_v15


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("door")
    return write_v15(tiny_vicuna_llava(root), root / "my-ckpt", model_type="llava_llama")


def test_the_signature_is_llavas() -> None:
    parameters = inspect.signature(load_pretrained_model).parameters
    assert list(parameters) == [
        "model_path",
        "model_base",
        "model_name",
        "load_8bit",
        "load_4bit",
        "device_map",
        "device",
        "use_flash_attn",
        "kwargs",
    ]
    defaults = {name: p.default for name, p in parameters.items() if p.default is not inspect.Parameter.empty}
    assert defaults == {
        "load_8bit": False,
        "load_4bit": False,
        "device_map": "auto",
        "device": "cuda",
        "use_flash_attn": False,
    }


def test_llavas_positional_call(folder: Path) -> None:
    tokenizer, model, image_processor, context_len = load_pretrained_model(
        str(folder), None, "llava-v1.5-7b", False, False, device="cpu"
    )
    assert model.get_vision_tower().is_loaded and image_processor.image_mean[0] == pytest.approx(0.48145466)
    assert tokenizer.padding_side == "right" and context_len == 2048


def test_lmms_evals_call_and_all_it_does_with_the_result(folder: Path) -> None:
    """The steps of lmms-eval's `--model llava`: load, tie, move, encode without BOS, generate from float16 pixels."""
    options = {"multimodal": True, "attn_implementation": "sdpa"}
    tokenizer, model, _, _ = load_pretrained_model(str(folder), None, "my-ckpt", device_map="cpu", **options)
    model.eval()
    model.tie_weights()
    model.to(torch.device("cpu"))
    assert tokenizer.encode("hello", add_special_tokens=False)[0] != tokenizer.bos_token_id
    assert tokenizer.pad_token_id is not None and tokenizer.eos_token_id == 2
    ids = torch.tensor([[1, 300, -200, 17], [1, -200, 44, 290]])
    output = model.generate(
        ids,
        attention_mask=ids.ne(tokenizer.pad_token_id),
        pad_token_id=tokenizer.pad_token_id,
        images=tiny_images(2).to(torch.float16),
        image_sizes=[(56, 56), (56, 56)],
        do_sample=False,
        temperature=0,
        top_p=None,
        num_beams=1,
        max_new_tokens=3,
        use_cache=True,
    )
    assert output.shape[0] == 2 and output.shape[1] <= 3  # new tokens only


def test_lmms_evals_probe_catches_a_type_error(folder: Path) -> None:
    """It retries without a keyword on TypeError only, so an unknown keyword must raise nothing else."""
    with pytest.raises(TypeError, match="'use_flash_attention_2'"):
        load_pretrained_model(str(folder), None, "x", device_map="cpu", use_flash_attention_2=True)


def test_lmms_evals_onevision_and_video_arguments(folder: Path) -> None:
    overwrite: dict[str, Any] = {"mm_spatial_pool_stride": 2, "mm_spatial_pool_mode": "bilinear", "delay_load": True}
    assert AutoConfig.from_pretrained(folder).model_type == "llava_llama"  # registered by importing the builder
    model = load_pretrained_model(
        str(folder), None, "x", device_map="cpu", torch_dtype="bfloat16", overwrite_config=overwrite, multimodal=True
    )[1]
    assert model.config.mm_spatial_pool_mode == "bilinear" and model.dtype == torch.bfloat16


def test_a_path_may_be_a_path(folder: Path) -> None:
    assert load_pretrained_model(folder, None, None, device="cpu")[1].dtype == torch.float32
