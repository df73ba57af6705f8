"""Parameters counted from a config equal those of the model."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from llava.bench.shapes import KNOWN, shape_of, shape_of_config
from tests.tiny import LARGE, tiny_anyres_llava, tiny_llava


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", ["llava-v1.5-7b", "llava-v1.5-13b", "llava-v1.6-mistral-7b"])
def test_known_shapes(name: str) -> None:
    shape = shape_of(f"liuhaotian/{name}")
    sizes: dict[str, Any] = {
        key: value for key, value in KNOWN[f"liuhaotian/{name}"].items() if "mm" not in key and "image" not in key
    }
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**sizes))
        tower = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=1024,
                num_hidden_layers=24,
                intermediate_size=4096,
                num_attention_heads=16,
                image_size=336,
                patch_size=14,
            )
        )
    assert shape.block_parameters + shape.embedding_parameters == count(model)
    assert shape.tower_parameters == pytest.approx(count(tower), rel=1e-3)
    assert shape.max_tiles == (5 if "v1.6" in name else 1)


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_a_checkpoint_folder(tmp_path: Path, family: str) -> None:
    model = tiny_llava(tmp_path, family, image_size=LARGE)
    model.save_pretrained(tmp_path / "checkpoint")
    shape = shape_of(str(tmp_path / "checkpoint"))
    assert (shape.layers, shape.width, shape.patches, shape.max_tiles) == (2, 48, 144, 1)
    assert shape.kv_width == 24
    assert shape.projector_parameters == count(model.get_model().mm_projector)
    text = count(model) - count(model.get_vision_tower()) - shape.projector_parameters
    assert shape.block_parameters + shape.embedding_parameters == text


def test_tiles_of_anyres(tmp_path: Path) -> None:
    tiny_anyres_llava(tmp_path).save_pretrained(tmp_path / "checkpoint")
    assert shape_of(str(tmp_path / "checkpoint")).max_tiles == 5


def test_unknown_models(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--model nobody/none is no folder with.*liuhaotian/llava-v1\.5-7b"):
        shape_of("nobody/none")
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 8}))
    with pytest.raises(ValueError, match="no num_hidden_layers, no intermediate_size"):
        shape_of(str(tmp_path))


def test_qwen2_and_a_plain_language_model_in_a_folder(tmp_path: Path) -> None:
    sizes = KNOWN["Qwen/Qwen2-7B-Instruct"]
    shape = shape_of("Qwen/Qwen2-7B-Instruct")
    with torch.device("meta"):
        model = Qwen2ForCausalLM(Qwen2Config(**sizes))
        small = Qwen2ForCausalLM(Qwen2Config(**(sizes | {"tie_word_embeddings": True})))
    assert shape.block_parameters + shape.embedding_parameters == pytest.approx(count(model), rel=1e-4)  # biases
    assert (shape.own_tower, shape.max_tiles, shape.patches) == (False, 1, 576)
    small.config.save_pretrained(tmp_path)
    tied = shape_of(str(tmp_path))
    assert tied.block_parameters + tied.embedding_parameters == pytest.approx(count(small), rel=1e-4)


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [("linear", 8 * 6 + 6), ("mlp2x_gelu", 8 * 6 + 6 * 6 + 2 * 6), ("mlp3x_gelu", 8 * 6 + 2 * 36 + 18)],
)
def test_a_projector_counts_the_layers_it_has(kind: str, parameters: int) -> None:
    sizes = dict.fromkeys(("num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size"), 2)
    tower = {"num_hidden_layers": 2, "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2}
    tower |= {"image_size": 28, "patch_size": 14}
    config = {**sizes, "hidden_size": 6, "mm_projector_type": kind}
    assert shape_of_config(config, tower).projector_parameters == parameters
    with pytest.raises(ValueError, match="mm_projector_type 'identity': expected linear or mlpNx_gelu"):
        shape_of_config({**config, "mm_projector_type": "identity"}, tower)
