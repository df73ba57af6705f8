"""What trains, decided and applied in one place.

A stage is a set of parts (projector, language model, vision tower) and whether the language model trains through LoRA.
Everything else is frozen. The usual ones:

    projector   tune_mm_mlp_adapter True: pretraining, and VisionZip's efficient tuning (arXiv 2412.04467)
    full        nothing said: language model and projector, tower frozen (LLaVA's fine-tuning)
    lora        lora_enable True: adapters on the language model, and the projector
"""

import logging
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from llava.train.arguments import TUNABLE_PARTS, ModelArguments, TrainingArguments

logger = logging.getLogger(__name__)

PROJECTOR, TOWER, LANGUAGE_MODEL = TUNABLE_PARTS
LORA_MARK = "lora_"
# Linear layers of the decoder blocks, by full name: neither the tower's layers of the same short name nor lm_head.
LORA_TARGETS = r"model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"


@dataclass(frozen=True)
class Stage:
    """The parts that train. `lora`: the language model does so through adapters."""

    parts: frozenset[str]
    lora: bool = False

    @property
    def projector_only(self) -> bool:
        return self.parts == {PROJECTOR}

    @property
    def name(self) -> str:
        if self.lora:
            return "lora"
        if self.projector_only:
            return "projector"
        return "full" if LANGUAGE_MODEL in self.parts else "+".join(sorted(self.parts))


def choose_stage(model_args: ModelArguments, training_args: TrainingArguments) -> Stage:
    """Read the switches. `mm_tunable_parts` overrides the others, as in LLaVA-NeXT.

    Raises:
        ValueError: switches that contradict each other, or that leave nothing to train.
    """
    parts = set(model_args.tunable_parts())
    if not parts and model_args.tune_mm_mlp_adapter:
        parts = {PROJECTOR}
    elif not parts:
        frozen = {LANGUAGE_MODEL} if model_args.freeze_backbone else set()
        parts = {PROJECTOR, LANGUAGE_MODEL} - frozen
        if model_args.unfreeze_mm_vision_tower:
            parts.add(TOWER)
    if training_args.freeze_mm_mlp_adapter:
        parts.discard(PROJECTOR)
    if not parts:
        raise ValueError("nothing is left to train; see tune_mm_mlp_adapter, freeze_mm_mlp_adapter, freeze_backbone")
    if training_args.lora_enable and LANGUAGE_MODEL not in parts:
        raise ValueError(
            f"lora_enable trains the language model, but only {sorted(parts)} shall train; drop one of both"
        )
    if parts == {PROJECTOR} and model_args.mm_use_im_start_end:
        raise ValueError("projector-only training cannot learn the tokens mm_use_im_start_end adds; set it to False")
    return Stage(frozenset(parts), training_args.lora_enable)


def part_of(name: str) -> str:
    """The part a parameter belongs to, by its full name. `image_newline` belongs to the language model."""
    if "vision_tower" in name:
        return TOWER
    return PROJECTOR if "mm_projector" in name else LANGUAGE_MODEL


def apply_stage(model: Any, stage: Stage, training_args: TrainingArguments) -> Any:
    """Freeze and unfreeze, wrap in LoRA where the stage says so, and log what trains. Returns the model to train.

    Without DeepSpeed, which keeps its own float32 copy of what it trains, trainable weights of a half-precision model
    are made float32: an optimizer step of 2e-5 would vanish in bfloat16.

    Raises:
        ValueError: no parameter is left to train.
    """
    if stage.lora:
        model = _with_lora(model, training_args)
    for name, parameter in model.named_parameters():
        trains = part_of(name) in stage.parts and parameter.dtype.is_floating_point
        if stage.lora and part_of(name) == LANGUAGE_MODEL:
            trains = parameter.requires_grad
        parameter.requires_grad_(trains)
        if trains and not training_args.deepspeed:
            parameter.data = parameter.data.to(torch.float32)
    _report(model, stage)
    return model


def _with_lora(model: nn.Module, training_args: TrainingArguments) -> nn.Module:
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ValueError("lora_enable needs peft: pip install 'llava-visionzip[train]'") from error
    config = LoraConfig(
        r=training_args.lora_r,
        lora_alpha=training_args.lora_alpha,
        target_modules=LORA_TARGETS,
        lora_dropout=training_args.lora_dropout,
        bias=training_args.lora_bias,
        task_type="CAUSAL_LM",
    )
    wrapped: nn.Module = get_peft_model(model, config)
    return wrapped


def _size(parameter: Any) -> int:
    """Numbers a parameter stands for: ZeRO-3 keeps a shard of them, a 4-bit weight two in a byte."""
    packed = getattr(parameter, "quant_state", None)
    if packed is not None:
        return math.prod(packed.shape)
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def _report(model: nn.Module, stage: Stage) -> None:
    counts: dict[str, int] = {}
    total = 0
    for name, parameter in model.named_parameters():
        count = _size(parameter)
        total += count
        if parameter.requires_grad:
            counts[part_of(name)] = counts.get(part_of(name), 0) + count
    trained = sum(counts.values())
    if trained == 0:
        raise ValueError(
            f"stage {stage.name}: the model has no parameters of {sorted(stage.parts)}; nothing would train"
        )
    shares = ", ".join(f"{part} {count:,}" for part, count in sorted(counts.items()))
    logger.info("stage %s trains %s of %s parameters (%s)", stage.name, f"{trained:,}", f"{total:,}", shares)
