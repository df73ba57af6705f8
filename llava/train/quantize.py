"""Training beside a quantized language model: loading it for that, and what may go together.

`--bits 4` or `8` keeps the language model's matrices in bitsandbytes' format, as `load_pretrained_model` does for
inference (nf4, double quantization; tower, projector and lm_head stay whole). They are frozen: either nothing but the
projector trains (VisionZip's tuning of 13B on one 24 GB card), or adapters beside them do (QLoRA). Both pass gradients
through the quantized matrices, which are expanded one at a time in the backward pass as well.

What a run saves is the trained part alone and a config without a word of quantization: it belongs to the whole base.
"""

from typing import Any

from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from llava.train.arguments import TrainingArguments
from llava.train.stages import Stage

WHOLE = 16


def require_frozen_weights(stage: Stage, training_args: TrainingArguments) -> None:
    """Refuse what quantized weights cannot do. Raises: ValueError, with the way out."""
    bits = training_args.bits
    if bits == WHOLE:
        return
    if not (stage.projector_only or stage.lora):
        raise ValueError(
            f"--bits {bits} freezes the language model's matrices, but stage {stage.name} trains and saves them; add "
            "--lora_enable True (QLoRA) or --tune_mm_mlp_adapter True, or leave --bits out"
        )
    if is_deepspeed_zero3_enabled():
        raise ValueError(f"--bits {bits} does not go with ZeRO-3, which cannot shard such weights; take zero2.json")


def load_options(training_args: TrainingArguments) -> dict[str, Any]:
    """Where and how to load the model, in the words of `load_pretrained_model`.

    Quantized weights go straight to the device they are used on, which no other weight needs: the Trainer moves those.
    """
    bits = training_args.bits
    here = bits == WHOLE or training_args.use_cpu
    return {
        "device": "cpu" if here else str(training_args.device),
        "load_4bit": bits == 4,
        "load_8bit": bits == 8,
    }


def detach_quantization(model: Any) -> None:
    """Make a quantized model look like the whole one it stands for; without quantization nothing changes.

    The config of a trained part must not say that its base is stored quantized, and the Trainer takes a quantized
    model only with PEFT's adapters on it, though a projector trains just as well.
    """
    if getattr(model, "is_quantized", False):
        del model.config.quantization_config
        model.is_quantized = False
