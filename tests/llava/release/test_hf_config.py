"""config.json between the layouts: what only a look at the file shows; logits are compared in test_to_hf."""

import json
from pathlib import Path

import pytest

from llava.release.hf_config import family_of_text, from_hf_config, is_next

PUBLISHED = {
    "architectures": ["LlavaForConditionalGeneration"],
    "image_token_index": 32000,
    "model_type": "llava",
    "text_config": {"model_type": "llama", "max_position_embeddings": 4096, "torch_dtype": "float16", "vocab_size": 64},
    "torch_dtype": "float16",
    "vision_config": {"hidden_size": 1024, "image_size": 336, "num_attention_heads": 16, "patch_size": 14},
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
}


def test_a_published_config() -> None:
    """As llava-hf/llava-1.5-7b-hf has it."""
    ours = from_hf_config(PUBLISHED, "llama", 32064)
    assert ours["model_type"] == "llava" and ours["architectures"] == ["LlavaLlamaForCausalLM"]
    assert ours["vocab_size"] == 32064 and ours["torch_dtype"] == "float16" and "text_config" not in ours
    assert ours["mm_hidden_size"] == 1024 and ours["mm_vision_select_feature"] == "patch"
    assert ours["mm_projector_type"] == "mlp2x_gelu" and "mm_compressor" not in ours
    json.dumps(ours)


def test_pinpoints_change_sides() -> None:
    config = PUBLISHED | {"model_type": "llava_next", "image_grid_pinpoints": [[336, 672], [1008, 336]]}
    ours = from_hf_config(config, "llama", 32064)
    assert ours["image_grid_pinpoints"] == [[672, 336], [336, 1008]]
    assert (ours["image_aspect_ratio"], ours["mm_patch_merge_type"]) == ("anyres", "spatial_unpad")


def test_which_class_a_config_means() -> None:
    base = {"mm_projector_type": "mlp2x_gelu"}
    assert not is_next(base, Path())
    assert is_next(base | {"image_aspect_ratio": "anyres", "mm_patch_merge_type": "spatial_unpad"}, Path())
    with pytest.raises(ValueError, match="spatial_unpad and patch"):
        wrong = {"image_aspect_ratio": "anyres", "mm_patch_merge_type": "spatial_unpad"}
        is_next(base | wrong | {"mm_vision_select_feature": "cls_patch"}, Path())


def test_a_config_that_leaves_out_defaults() -> None:
    """Size 1024 of the tower and the canvases of llava_next are transformers' defaults."""
    sparse = {
        "model_type": "llava_next",
        "text_config": {"model_type": "mistral"},
        "vision_config": {"hidden_size": 64, "num_attention_heads": 4},
    }
    ours = from_hf_config(sparse, "mistral", 32064)
    assert ours["mm_hidden_size"] == 64 and len(ours["image_grid_pinpoints"]) == 5
    assert ours["model_type"] == "llava_mistral" and not ours["tie_word_embeddings"]
    with pytest.raises(ValueError, match=r"vision_feature_layer \[-2, -5\]"):
        from_hf_config(sparse | {"vision_feature_layer": [-2, -5]}, "mistral", 32064)


def test_an_unknown_family_is_named() -> None:
    assert family_of_text({"text_config": {}}, Path()) == "llama"
    with pytest.raises(ValueError, match="text_config is a 'gemma'"):
        family_of_text({"text_config": {"model_type": "gemma"}}, Path())
