"""Names of weights and families in the two layouts: LLaVA's own and transformers'.

    LLaVA                                          transformers, as published by llava-hf
    model.layers.0..., model.embed_tokens.weight   language_model.model.layers.0...
    lm_head.weight                                 language_model.lm_head.weight
    model.mm_projector.0.weight                    multi_modal_projector.linear_1.weight
    model.mm_projector.2.weight                    multi_modal_projector.linear_2.weight
    model.vision_tower.vision_tower.vision_model.* vision_tower.vision_model.*
    model.image_newline                            image_newline

transformers 5 renames these on loading; older versions know no others. What transformers 5 names them in memory
(`model.language_model.*`) is read as well.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import LlamaConfig, MistralConfig, PreTrainedConfig, Qwen2Config

from llava.model.checkpoint import State
from llava.model.weight_files import listed

TOWER = "model.vision_tower.vision_tower.vision_model."
NEWLINE = "model.image_newline"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"

# LLaVA's prefix -> the published one of transformers; the first that fits counts.
TO_HF = (
    (TOWER, "vision_tower.vision_model."),
    ("model.mm_projector.0.", "multi_modal_projector.linear_1."),
    ("model.mm_projector.2.", "multi_modal_projector.linear_2."),
    (NEWLINE, "image_newline"),
    ("lm_head.", "language_model.lm_head."),
    ("model.", "language_model.model."),
)
FROM_HF = (
    ("model.language_model.", "model."),
    ("model.vision_tower.vision_model.", TOWER),
    ("model.vision_tower.", TOWER),
    ("model.multi_modal_projector.linear_1.", "model.mm_projector.0."),
    ("model.multi_modal_projector.linear_2.", "model.mm_projector.2."),
    (NEWLINE, NEWLINE),
    ("lm_head.", "lm_head."),
    *((theirs, ours) for ours, theirs in TO_HF),
    ("language_model.", "model."),
    ("vision_tower.", TOWER),
)
# Family -> (transformers' text config, LLaVA's model_type, LLaVA's class). Vicuna checkpoints were released as "llava".
FAMILIES: dict[str, tuple[type[PreTrainedConfig], str, str]] = {
    "llama": (LlamaConfig, "llava", "LlavaLlamaForCausalLM"),
    "mistral": (MistralConfig, "llava_mistral", "LlavaMistralForCausalLM"),
    "qwen2": (Qwen2Config, "llava_qwen", "LlavaQwenForCausalLM"),
}


def is_hf_layout(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is in transformers' own LLaVA layout."""
    return "text_config" in config or "vision_config" in config


def renamed(state: Mapping[str, Tensor], rules: tuple[tuple[str, str], ...], where: str) -> State:
    """`state` under the names `rules` give, TO_HF or FROM_HF.

    Raises:
        ValueError: a name no rule fits, or two weights that would get the same name.
    """
    new: State = {}
    strangers = []
    for key, value in state.items():
        rule = next((rule for rule in rules if key.startswith(rule[0])), None)
        if rule is None:
            strangers.append(key)
            continue
        name = rule[1] + key.removeprefix(rule[0])
        if name in new:
            raise ValueError(f"{where}: two weights stand for {name}; the files mix two layouts")
        new[name] = value
    if strangers:
        raise ValueError(f"{where} holds weights this conversion does not know: {listed(strangers)}")
    return new
