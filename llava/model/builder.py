"""The door to every checkpoint: `load_pretrained_model` returns tokenizer, model, image processor and context length.

In order: find out what the checkpoint is (sources), read its weights and lay projector or LoRA extras over its base's
(checkpoint), build the class its config means, place it (placement), and refuse whatever does not fit exactly.

Rules where files and config could disagree:
- Vision tower weights in the checkpoint win over those `mm_vision_tower` names (v1.6, and full fine-tunes of v1.5 that
  stored their tower); without any (released v1.5) the tower is read from `mm_vision_tower`. A config that promises them
  (unfreeze_mm_vision_tower) over a checkpoint without is an error.
- The tower takes the model's dtype. Upstream leaves a tower read from the hub in float32 under device_map="auto" and in
  float16 elsewhere; `vision_dtype="float32"` reproduces the former.
- Embeddings are never resized. Marker tokens are added to the tokenizer only where the checkpoint has rows for them.
"""

import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, GenerationConfig, PreTrainedConfig, PreTrainedModel

from llava.model.checkpoint import ADAPTER_CONFIG, load_non_lora, load_projector, read_adapter, require_fit
from llava.model.language_model.generation_defaults import drop_idle_sampling
from llava.model.language_model.llava_llama import LlavaConfig, LlavaLlamaForCausalLM
from llava.model.language_model.llava_mistral import LlavaMistralConfig, LlavaMistralForCausalLM
from llava.model.language_model.llava_qwen import LlavaQwenConfig, LlavaQwenForCausalLM
from llava.model.multimodal_encoder.builder import resolve_vision_tower
from llava.model.placement import DeviceMap, Placement, as_dtype, place
from llava.model.sources import VISION_KEY, Checkpoint, family_of, inspect
from llava.model.tokenizer import load_tokenizer
from llava.model.vocabulary import add_markers
from llava.model.weight_files import State, read_json, read_weights

__all__ = ["load_pretrained_model"]

logger = logging.getLogger(__name__)

MODELS: dict[str, tuple[type[PreTrainedConfig], type[PreTrainedModel]]] = {
    "llama": (LlavaConfig, LlavaLlamaForCausalLM),
    "mistral": (LlavaMistralConfig, LlavaMistralForCausalLM),
    "qwen2": (LlavaQwenConfig, LlavaQwenForCausalLM),
}
KEYWORDS = (
    "attn_implementation",
    "customized_config",
    "dtype",
    "multimodal",
    "overwrite_config",
    "torch_dtype",
    "vision_dtype",
)
GENERATION_FILE = "generation_config.json"
EMBEDDING = "model.embed_tokens.weight"
TOWER_PREFIX = "model.vision_tower."
PROJECTOR_PREFIX = "model.mm_projector."
# Asked of the config in this order. LLaVA v1 asks for the first only, NeXT puts max_position_embeddings between them.
CONTEXT_KEYS = ("max_sequence_length", "tokenizer_model_max_length")
DEFAULT_CONTEXT = 2048


def load_pretrained_model(
    model_path: str | os.PathLike[str],
    model_base: str | os.PathLike[str] | None,
    model_name: str | None,
    load_8bit: bool = False,
    load_4bit: bool = False,
    device_map: DeviceMap | torch.device | int | None = "auto",
    device: str | torch.device = "cuda",
    use_flash_attn: bool = False,
    **kwargs: Any,
) -> tuple[Any, Any, Any, int]:
    """Load a LLaVA checkpoint, or a plain language model, from a folder or a hub id.

    Args:
        model_path: full checkpoint, projector-only folder (config.json and mm_projector.bin), or LoRA folder.
        model_base: the model a projector or an adapter was trained on.
        model_name: asked only if the config leaves the family open.
        load_8bit, load_4bit: quantize the language model with bitsandbytes; tower, projector and head stay as they are.
        device_map: transformers' device map. "auto" falls back to the CPU, with a warning, on a machine without GPU.
        device: anything but "cuda" puts the whole model there, whatever the map.
        use_flash_attn: short for attn_implementation="flash_attention_2".
        kwargs: attn_implementation; dtype or torch_dtype ("float16", "bfloat16", "float32" or a torch dtype; default
            float16 on a GPU, float32 on the CPU); vision_dtype (of the tower, default the model's); multimodal (True
            insists on a vision model); overwrite_config (dict laid over the config); customized_config (a config, a
            dict or the path of a JSON file, used in place of config.json).

    Returns:
        (tokenizer, model in eval mode, image processor or None for a plain language model, context length).

    Raises:
        TypeError: an unknown keyword.
        ValueError: anything missing, broken, unsafe or contradictory in the files or the arguments.
    """
    _refuse_unknown(kwargs)
    dtype = kwargs.get("dtype") if kwargs.get("dtype") is not None else kwargs.get("torch_dtype")
    where = place(device_map, device, dtype, load_8bit, load_4bit)
    checkpoint = inspect(os.fspath(model_path), os.fspath(model_base) if model_base else None)
    if kwargs.get("multimodal") and not checkpoint.has_vision:
        raise ValueError(
            f"multimodal=True, but {checkpoint.folder / 'config.json'} names no {VISION_KEY}: a plain language model"
        )
    attention = kwargs.get("attn_implementation") or ("flash_attention_2" if use_flash_attn else None)
    config_class, model_class = _classes(checkpoint, model_name or checkpoint.folder.name)
    config = _config(checkpoint, config_class, kwargs.get("customized_config"), kwargs.get("overwrite_config"))

    state = _weights(checkpoint)
    tokenizer = load_tokenizer(checkpoint.base)
    if checkpoint.has_vision and EMBEDDING in state:
        add_markers(tokenizer, config, len(state[EMBEDDING]), checkpoint.folder)
    model = _model(model_class, config, state, checkpoint, where, attention)
    processor = _finish_tower(model, where, as_dtype(kwargs.get("vision_dtype"))) if checkpoint.has_vision else None
    return tokenizer, model.eval(), processor, _context_length(config)


def _refuse_unknown(keywords: Mapping[str, Any]) -> None:
    unknown = sorted(set(keywords) - set(KEYWORDS))
    if unknown:
        known = ", ".join(KEYWORDS)
        raise TypeError(f"load_pretrained_model() got an unexpected keyword argument {unknown[0]!r}; known: {known}")


def _classes(checkpoint: Checkpoint, name: str) -> tuple[type[PreTrainedConfig], type[PreTrainedModel]]:
    """Config and model class the checkpoint's config means."""
    if checkpoint.has_vision:
        return MODELS[family_of(checkpoint.config, name, checkpoint.folder)]
    if "llava" in name.lower():
        logger.warning("%s: its config names no %s, loading a plain language model", checkpoint.folder, VISION_KEY)
    try:
        config_class = type(AutoConfig.for_model(checkpoint.config.get("model_type", "")))
        model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[config_class]
    except (ValueError, KeyError) as error:
        found = checkpoint.config.get("model_type")
        raise ValueError(
            f"{checkpoint.folder / 'config.json'} says model_type {found!r}, and transformers knows no causal language "
            f"model of that type; for a LLaVA checkpoint the config lacks {VISION_KEY}."
        ) from error
    return config_class, model_class


def _config(
    checkpoint: Checkpoint,
    config_class: type[PreTrainedConfig],
    customized: PreTrainedConfig | Mapping[str, Any] | str | None,
    overwrite: Mapping[str, Any] | None,
) -> PreTrainedConfig:
    """The config the model is built from: config.json or its replacement, with the caller's keys laid over it."""
    values: dict[str, Any] = dict(checkpoint.config)
    if isinstance(customized, PreTrainedConfig):
        values = customized.to_dict()
    elif isinstance(customized, Mapping):
        values = dict(customized)
    elif customized is not None:
        values = read_json(Path(customized))
    values |= dict(overwrite or {})
    values["model_type"] = config_class.model_type
    config: PreTrainedConfig = config_class.from_dict(values)
    return config


def _weights(checkpoint: Checkpoint) -> State:
    """Every weight of the model: the base's, with what the checkpoint trained laid over them."""
    state = read_weights(checkpoint.base)
    if checkpoint.kind == "projector":
        state = {key: value for key, value in state.items() if not key.startswith(PROJECTOR_PREFIX)}
        state |= load_projector(checkpoint.folder)
    elif checkpoint.kind == "lora":
        state |= load_non_lora(checkpoint.folder)
    return state


def _model(
    model_class: type[PreTrainedModel],
    config: PreTrainedConfig,
    state: State,
    checkpoint: Checkpoint,
    where: Placement,
    attention: str | None,
) -> Any:
    """The finished language model, its adapter merged; merged before quantization, so that weights are rounded once."""
    if checkpoint.kind not in {"lora", "plain_lora"}:
        return _build(model_class, config, state, checkpoint, where, attention)
    whole = where if where.quantization is None else replace(where, device_map=None, quantization=None)
    merged = _merge_adapter(_build(model_class, config, state, checkpoint, whole, attention), checkpoint)
    if where.quantization is None:
        return merged
    return _build(model_class, config, merged.state_dict(), checkpoint, where, attention)


def _build(
    model_class: type[PreTrainedModel],
    config: PreTrainedConfig,
    state: State,
    checkpoint: Checkpoint,
    where: Placement,
    attention: str | None,
) -> Any:
    """Construct the model, fill it with `state` and insist that both have the same keys and shapes."""
    named = getattr(config, VISION_KEY, None)
    promised = getattr(config, "unfreeze_mm_vision_tower", None)
    if checkpoint.has_vision:
        setattr(config, VISION_KEY, _tower_source(named, checkpoint))
        config.unfreeze_mm_vision_tower = promised or any(key.startswith(TOWER_PREFIX) for key in state)
    options: dict[str, Any] = {
        "dtype": where.dtype,
        "device_map": where.device_map,
        "quantization_config": where.quantization,
        "ignore_mismatched_sizes": True,  # reported below, with every key, as our own error
        "output_loading_info": True,
    }
    if attention is not None:
        options["attn_implementation"] = attention
    try:
        loaded: Any = model_class.from_pretrained(None, config=config, state_dict=state, **options)
    except ImportError as error:
        raise ValueError(f"cannot build {checkpoint.folder} as asked: {error}") from error
    model, report = loaded
    source = str(checkpoint.folder)
    if checkpoint.base != checkpoint.folder:
        source += f" over {checkpoint.base}"
    require_fit(source, report["missing_keys"], report["unexpected_keys"], report["mismatched_keys"])
    model.config._name_or_path = str(checkpoint.base)
    if checkpoint.has_vision:  # the config keeps what the checkpoint says, not where this machine found it
        setattr(model.config, VISION_KEY, named)
        model.config.unfreeze_mm_vision_tower = promised
    if (checkpoint.base / GENERATION_FILE).is_file():
        model.generation_config = GenerationConfig.from_dict(read_json(checkpoint.base / GENERATION_FILE))
        drop_idle_sampling(model.generation_config)
    return model


def _tower_source(named: Any, checkpoint: Checkpoint) -> str:
    """Where the tower lies: as named, or beside the checkpoint, or beside its base; else a hub id."""
    for folder in (checkpoint.folder, checkpoint.base):
        with suppress(ValueError):
            source = resolve_vision_tower(str(named), str(folder))
            if Path(source).is_dir():
                return source
    return resolve_vision_tower(str(named), str(checkpoint.base))


def _merge_adapter(model: Any, checkpoint: Checkpoint) -> Any:
    """Add a LoRA adapter's product to the weights it was trained on, and leave no trace of PEFT on the model."""
    try:
        from peft import PeftConfig, PeftModel, set_peft_model_state_dict
    except ImportError as error:
        raise ValueError(
            f"{checkpoint.folder} is a LoRA checkpoint, and merging it needs peft: pip install 'llava-visionzip[train]'"
        ) from error
    adapter = read_adapter(checkpoint.folder)
    config = PeftConfig.from_pretrained(str(checkpoint.folder))
    if checkpoint.kind == "lora":
        of_tower = [key for key in adapter if "vision_tower" in key]
        if not any("lora_" in key for key in of_tower):
            # Public adapters were made before the model had its tower and name their targets by last part ("q_proj"),
            # which would also match the tower's layers.
            config.exclude_modules = r".*\bvision_tower\b.*"
        if of_tower and not model.get_vision_tower().is_loaded:
            model.get_vision_tower().load_model(device_map={"": model.device}, dtype=model.dtype)
    wrapped = PeftModel(model, config)
    report: Any = set_peft_model_state_dict(wrapped, adapter)
    missing = [key for key in report.missing_keys if "lora_" in key]
    require_fit(str(checkpoint.folder / ADAPTER_CONFIG), missing, report.unexpected_keys)
    return wrapped.merge_and_unload()


def _finish_tower(model: Any, where: Placement, dtype: torch.dtype | None) -> Any:
    """Load the tower if the checkpoint held none, bring it to its dtype; its image processor."""
    tower = model.get_vision_tower()
    if getattr(model.config, "s2", False):
        raise ValueError("the config asks for an S2 tower (several scales, key s2), which is not supported")
    if tower.hidden_size != model.config.mm_hidden_size:
        raise ValueError(
            f"the tower {tower.vision_tower_name!r} has width {tower.hidden_size}, but the projector was made for "
            f"mm_hidden_size {model.config.mm_hidden_size}: {VISION_KEY} names another tower than the one trained with"
        )
    if not tower.is_loaded:
        source = Path(tower.vision_tower_name)
        if source.is_dir():
            read_weights(source)  # only maps the files: names what is missing, broken or unsafe
        projector: nn.Module = model.get_model().mm_projector
        beside = next((parameter.device for parameter in projector.parameters()), model.device)
        device_map = None if where.device_map is None else {"": beside}
        tower.load_model(device_map=device_map, dtype=dtype or where.dtype)
    elif dtype is not None:
        tower.to(dtype=dtype)
    return tower.image_processor


def _context_length(config: PreTrainedConfig) -> int:
    for key in CONTEXT_KEYS:
        value = getattr(config, key, None)
        if value:
            return int(value)
    return DEFAULT_CONTEXT
