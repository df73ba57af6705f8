"""Tiny checkpoints on disk, in every layout LLaVA checkpoints are published in.

Each writer takes a model of tests/tiny.py (give it `vocab_size=TOKENS`, the size of the tokenizer written beside it)
and returns the folder. Files are written key by key, as the public releases have them: not with save_pretrained.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.tiny import tiny_llava
from tests.tiny_text import build_sentencepiece

TOKENS = 400  # rows of the embedding = tokens of the tokenizer
TOWER = "model.vision_tower."
PROJECTOR = "model.mm_projector."

State = dict[str, Tensor]


def tiny_vicuna_llava(folder: Path, family: str = "llama", seed: int = 0, **extra: Any) -> Any:
    """A tiny LLaVA that fits the tokenizer of `build_sentencepiece`; its tower's weights lie in `folder/tower`."""
    model = tiny_llava(folder, family, seed=seed, **({"vocab_size": TOKENS} | extra))
    write_tower(model, folder / "tower")
    return model


def write_tower(model: Any, folder: Path) -> Path:
    """Put the model's own tower weights into a tower folder that tests/tiny.py wrote."""
    inner = f"{TOWER}vision_tower."
    named = {key: value.detach().contiguous() for key, value in model.state_dict().items() if key.startswith(inner)}
    state = {key.removeprefix(inner): value for key, value in named.items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def weights(model: Any, tower: bool = False, dtype: torch.dtype = torch.float32) -> State:
    """State dict under public names, with or without the vision tower."""
    return {
        key: value.detach().to(dtype).contiguous()
        for key, value in model.state_dict().items()
        if tower or not key.startswith(TOWER)
    }


def write_config(model: Any, folder: Path, **keys: Any) -> Path:
    """config.json in the words of the released v1.5 checkpoints, nulls included; a key given as None is left out."""
    released = {
        "model_type": "llava",
        "architectures": [type(model).__name__],
        "_name_or_path": "./checkpoints/somewhere",
        "max_length": 4096,
        "pretraining_tp": 1,
        "rope_scaling": None,
        "torch_dtype": "float16",
        "transformers_version": "4.31.0",
        "mm_resampler_type": None,
        "freeze_mm_mlp_adapter": False,
        "tune_mm_mlp_adapter": False,
    }
    config = model.config.to_dict()
    for modern in ("dtype", "rope_parameters", "head_dim", "image_grid_pinpoints"):
        config.pop(modern, None)
    if model.config.image_aspect_ratio == "anyres":
        config["image_grid_pinpoints"] = model.config.image_grid_pinpoints
    config |= released
    config = {key: value for key, value in config.items() if key not in keys or keys[key] is not None}
    config |= {key: value for key, value in keys.items() if value is not None}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    return folder


def write_shards(state: State, folder: Path, kind: str = "bin", count: int = 2) -> Path:
    """Shards with an index: pytorch_model-0000x-of-0000y.bin or model-0000x-of-0000y.safetensors."""
    stem = "model" if kind == "safetensors" else "pytorch_model"
    names = [f"{stem}-{i:05d}-of-{count:05d}.{kind}" for i in range(1, count + 1)]
    place = {key: names[i * count // len(state)] for i, key in enumerate(sorted(state))}
    for name in names:
        part = {key: value for key, value in state.items() if place[key] == name}
        if kind == "safetensors":
            save_file(part, folder / name, metadata={"format": "pt"})
        else:
            torch.save(part, folder / name)
    index = {"metadata": {"total_size": 0}, "weight_map": place}
    (folder / f"{stem}.{kind}.index.json").write_text(json.dumps(index))
    return folder


def write_v15(model: Any, folder: Path, dtype: torch.dtype = torch.float16, **keys: Any) -> Path:
    """Released v1.5: model_type llava, two fp16 .bin shards, no tower weights, obsolete rotary buffers, tokenizer."""
    write_config(model, folder, **keys)
    obsolete = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(6) for i in range(2)}
    write_shards(weights(model, dtype=dtype) | obsolete, folder)
    generation = {"temperature": 0.9, "top_p": 0.6, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return build_sentencepiece(folder, vocab=TOKENS)


def write_v16(model: Any, folder: Path, dtype: torch.dtype = torch.bfloat16, **keys: Any) -> Path:
    """Released v1.6: safetensors shards that hold the tower, unfreeze_mm_vision_tower true, tokenizer."""
    v16 = {"unfreeze_mm_vision_tower": True, "tokenizer_model_max_length": 4096, "tokenizer_padding_side": "right"}
    write_config(model, folder, **(v16 | keys))
    write_shards(weights(model, tower=True, dtype=dtype), folder, "safetensors", count=3)
    return build_sentencepiece(folder, vocab=TOKENS)


def write_projector_only(
    model: Any, folder: Path, prefix: str = "model.", dtype: torch.dtype = torch.bfloat16, **keys: Any
) -> Path:
    """What projector tuning leaves: config.json and mm_projector.bin."""
    write_config(model, folder, **keys)
    named = {key.removeprefix("model."): value for key, value in weights(model, dtype=dtype).items()}
    state = {f"{prefix}{key}": value for key, value in named.items() if key.startswith("mm_projector.")}
    torch.save(state, folder / "mm_projector.bin")
    return folder


def write_plain(model: Any, folder: Path, dtype: torch.dtype = torch.float16) -> Path:
    """The language model alone, as its makers released it: a base for projectors and adapters."""
    keys = dict.fromkeys(key for key in model.config.to_dict() if key.startswith(("mm_", "image_", "use_mm")))
    llama = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "freeze_mm_mlp_adapter": None}
    write_config(model, folder, **keys, **llama, tune_mm_mlp_adapter=None)
    plain = {key: value for key, value in weights(model, dtype=dtype).items() if not key.startswith(PROJECTOR)}
    write_shards(plain, folder)
    return build_sentencepiece(folder, vocab=TOKENS)


def write_lora(
    model: Any, folder: Path, seed: int = 1, non_lora: bool = True, bias: str = "none", **keys: Any
) -> tuple[Path, Any]:
    """A LoRA folder made with peft over a copy of `model`; also returns that copy, adapter merged, as the answer.

    As in public runs, whose adapters were made before the model had its tower, adapter_config.json says nothing of it.
    """
    import copy

    from peft import LoraConfig, get_peft_model

    tuned = copy.deepcopy(model)
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "up_proj"], bias=bias, task_type="CAUSAL_LM"
    )
    config.base_model_name_or_path = "org/base"
    config.exclude_modules = r".*(vision_tower|mm_projector).*"
    wrapped = get_peft_model(tuned, config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
            elif ("mm_projector" in name or (bias == "all" and name.endswith("base_layer.bias"))) and non_lora:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    config.exclude_modules = None
    wrapped.save_pretrained(str(folder))
    if non_lora:
        kept = ("mm_projector", ".bias") if bias == "all" else ("mm_projector",)
        extra = {
            key: value.detach()
            for key, value in wrapped.named_parameters()
            if any(part in key for part in kept) and "vision_tower" not in key
        }
        torch.save(extra, folder / "non_lora_trainables.bin")
        write_config(model, folder, **keys)
    return folder, wrapped.merge_and_unload()
