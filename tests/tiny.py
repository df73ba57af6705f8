"""Tiny models for tests: a 6-layer CLIP tower and 2-layer LLaVA models with fixed random weights, float32, no network.

Weights are drawn wider than the usual 0.02 so that attention is not flat and logits differ clearly: a test that
compares selections or greedy answers then fails for a reason, never for a rounding tie.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel

PATCH = 14
SMALL = 56  # image side: 4 x 4 = 16 patches
LARGE = 168  # image side: 12 x 12 = 144 patches
VOCAB = 320
FAMILIES = ("llama", "mistral", "qwen2")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from a private random stream; the global one is put back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def randomize(module: nn.Module, seed: int = 0) -> nn.Module:
    """Overwrite every parameter in place: matrices ~ N(0, 1/fan_in) x 1.5, biases small, norm weights around 1."""
    with seeded(seed), torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.dim() >= 2:
                fan_in = parameter[0].numel()
                embedding = "embed" in name and "patch_embedding" not in name
                parameter.normal_(std=0.5 if embedding else 1.5 * fan_in**-0.5)
            elif "norm" in name and name.endswith("weight"):
                parameter.normal_(mean=1.0, std=0.1)
            else:
                parameter.normal_(std=0.1 if name.endswith("bias") else 0.5)
    return module


def tiny_clip_config(image_size: int = SMALL, layers: int = 6, width: int = 32, heads: int = 2) -> CLIPVisionConfig:
    """A CLIP vision config with patch 14; 56 px gives 16 patches, 168 px gives 144."""
    return CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        image_size=image_size,
        patch_size=PATCH,
        projection_dim=width,
        hidden_act="quick_gelu",
    )


def tiny_clip(image_size: int = SMALL, seed: int = 0, **config: int) -> CLIPVisionModel:
    """Plain transformers CLIP tower with random weights."""
    model = CLIPVisionModel(tiny_clip_config(image_size, **config))
    randomize(model, seed)
    model.train(False)
    return model


def tiny_tower_folder(folder: Path, image_size: int = SMALL, seed: int = 0, **config: int) -> Path:
    """Write a tower in the public layout: config, `vision_model.*` weights, preprocessor config."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    model = tiny_clip(image_size, seed, **config)
    model.config.save_pretrained(folder)
    state = {f"vision_model.{key}": value.contiguous() for key, value in model.state_dict().items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    tiny_image_processor(image_size).save_pretrained(folder)
    return folder


def tiny_image_processor(image_size: int = SMALL) -> CLIPImageProcessorPil:
    """CLIP's preprocessing (PIL backend) at a tiny size."""
    return CLIPImageProcessorPil(
        size={"shortest_edge": image_size}, crop_size={"height": image_size, "width": image_size}
    )


def tiny_llm_config(width: int = 48, layers: int = 2, vocab_size: int = VOCAB, **extra: Any) -> dict[str, Any]:
    """Keyword arguments shared by the Llama, Mistral and Qwen2 configs: 2 layers, 4 heads, 2 key/value heads."""
    return {
        "vocab_size": vocab_size,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": False,
        **extra,
    }


def llava_classes(family: str) -> tuple[type, type]:
    """(config class, causal-LM class) of one of FAMILIES."""
    from llava.model.language_model import llava_llama, llava_mistral, llava_qwen

    return {
        "llama": (llava_llama.LlavaConfig, llava_llama.LlavaLlamaForCausalLM),
        "mistral": (llava_mistral.LlavaMistralConfig, llava_mistral.LlavaMistralForCausalLM),
        "qwen2": (llava_qwen.LlavaQwenConfig, llava_qwen.LlavaQwenForCausalLM),
    }[family]


def tiny_llava_config(tower: Path | str, family: str = "llama", image_size: int = SMALL, **extra: Any) -> Any:
    """A LLaVA config over a tower folder with the released v1.5 keys; extra keys win."""
    config_class, _ = llava_classes(family)
    size = image_size
    keys = tiny_llm_config() | {
        "mm_vision_tower": str(tower),
        "mm_hidden_size": 32,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "image_aspect_ratio": "pad",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "use_mm_proj": True,
        "image_grid_pinpoints": [
            [size, 2 * size],
            [2 * size, size],
            [2 * size, 2 * size],
            [3 * size, size],
            [size, 3 * size],
        ],
    }
    return config_class(**(keys | extra))


def tiny_llava(folder: Path, family: str = "llama", image_size: int = SMALL, seed: int = 0, **extra: Any) -> Any:
    """A loaded LLaVA causal LM in eval mode, float32, all weights random but fixed by `seed`.

    Writes its tower to `folder/tower` (so that saving and reloading works). `extra` are config keys.
    """
    tower = folder / "tower"
    if not tower.exists():
        tiny_tower_folder(tower, image_size, seed)
    config = tiny_llava_config(tower, family, image_size, **extra)
    model = llava_classes(family)[1](config)
    vision_tower = model.get_vision_tower()
    if not vision_tower.is_loaded:
        vision_tower.load_model()
    randomize(model, seed)
    return model.eval()


def tiny_anyres_llava(folder: Path, family: str = "llama", image_size: int = SMALL, seed: int = 0, **extra: Any) -> Any:
    """The NeXT layout: anyres tiles, spatial_unpad with image_newline, tower weights inside the checkpoint."""
    keys = {
        "image_aspect_ratio": "anyres",
        "mm_patch_merge_type": "spatial_unpad",
        "unfreeze_mm_vision_tower": True,
    }
    return tiny_llava(folder, family, image_size, seed, **(keys | extra))


def tiny_images(count: int, image_size: int = SMALL, seed: int = 0) -> Tensor:
    """Pixel tiles [count, 3, S, S] ~ N(0, 1)."""
    with seeded(seed):
        return torch.randn(count, 3, image_size, image_size)
