"""FSDP as the second engine beside DeepSpeed: when it may be asked for (`ENGINE=fsdp bash scripts/train/...`)."""

import os

from llava.train.arguments import TrainingArguments
from llava.train.stages import Stage


def fsdp_asked(training_args: TrainingArguments) -> bool:
    """Whether FSDP shards the run: by flag, or by `accelerate launch`, which says so in the environment."""
    return bool(training_args.fsdp) or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def require_fsdp_fits(stage: Stage, training_args: TrainingArguments) -> None:
    """Refuse FSDP where it would do nothing, or where the trained part could not be saved.

    Raises:
        ValueError: on the CPU, where accelerate leaves it out without a word; for a projector or LoRA stage.
    """
    if not fsdp_asked(training_args):
        return
    if training_args.use_cpu:
        raise ValueError("FSDP is for GPUs: on the CPU accelerate shards nothing; take DeepSpeed (ENGINE unset)")
    if stage.projector_only or stage.lora:
        raise ValueError(
            f"FSDP is for training the whole language model; stage {stage.name} has little to shard, and its part is "
            "not gathered from FSDP's shards; take DeepSpeed with configs/deepspeed/zero2.json (ENGINE unset)"
        )
