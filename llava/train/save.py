"""What a run leaves behind.

    projector stage   mm_projector.bin (public layout), config.json
    lora stage        adapter_model.safetensors, adapter_config.json, non_lora_trainables.bin, config.json
    other stages      model*.safetensors, config.json, tokenizer files
    always            trainer_state.json, and run.json: what was run on which data with which versions

Files are written aside and moved into place, run.json last: a folder with run.json is complete.
"""

import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer
from transformers.integrations import is_deepspeed_zero3_enabled

from llava.model.checkpoint import NON_LORA_FILE, PROJECTOR_FILE, save_projector
from llava.provenance import stamp, without_machine_paths
from llava.train.stages import LORA_MARK, Stage
from llava.utils import give_usual_mode, write_json

logger = logging.getLogger(__name__)

RUN_FILE = "run.json"
STATE_FILE = "trainer_state.json"
STAGING = "incomplete"


def trained_state(trainer: Trainer) -> dict[str, Tensor]:
    """Names and values of what trains, gathered from all processes: every one must call, the first gets it all.

    Under ZeRO-3 the values come in the precision the model computes in.
    """
    trained = {name: value for name, value in trainer.model.named_parameters() if value.requires_grad}
    if not is_deepspeed_zero3_enabled():
        return {name: value.detach() for name, value in trained.items()}
    gathered = trainer.model_wrapped._zero3_consolidated_16bit_state_dict(exclude_frozen_parameters=True)
    return {name: value for name, value in (gathered or {}).items() if name in trained}


def write_trained(trainer: Trainer, stage: Stage, folder: Path) -> None:
    """Write the trained part of a projector or LoRA run and the model's config. Called on every process."""
    state = trained_state(trainer)
    if not trainer.args.should_save:
        return
    folder.mkdir(parents=True, exist_ok=True)
    if stage.projector_only:
        save_projector(state, folder / PROJECTOR_FILE)
        trainer.model.config.save_pretrained(folder)
        return
    adapter = {name: value for name, value in state.items() if LORA_MARK in name}
    trainer.model.save_pretrained(folder, state_dict=adapter)
    rest = {name: value.cpu().clone() for name, value in state.items() if LORA_MARK not in name}
    torch.save(rest, folder / NON_LORA_FILE)
    trainer.model.get_base_model().config.save_pretrained(folder)


def save_run(trainer: Trainer, stage: Stage, tokenizer: Any, record: Mapping[str, Any]) -> None:
    """The final save, into `output_dir` itself. Called on every process.

    Args:
        trainer: after training.
        stage: decides which weights are written.
        tokenizer: saved beside complete weights.
        record: written to run.json, with the stamp.
    """
    output = Path(trainer.args.output_dir)
    staging = output / STAGING
    if trainer.args.should_save:
        shutil.rmtree(staging, ignore_errors=True)
        (output / RUN_FILE).unlink(missing_ok=True)
    trainer.accelerator.wait_for_everyone()
    if stage.projector_only or stage.lora:
        write_trained(trainer, stage, staging)
    else:
        trainer.save_model(str(staging))
    trainer.accelerator.wait_for_everyone()
    if not trainer.args.should_save:
        return
    if not (stage.projector_only or stage.lora):
        (staging / "training_args.bin").unlink(missing_ok=True)  # a pickle nobody needs: run.json says it all
        tokenizer.save_pretrained(staging)
    trainer.state.save_to_json(str(staging / STATE_FILE))
    for file in sorted(staging.iterdir()):
        give_usual_mode(file)
        os.replace(file, output / file.name)
    staging.rmdir()
    write_json(output / RUN_FILE, {"stamp": stamp(**_precision(trainer)), **without_machine_paths(dict(record))})
    logger.info("saved %s to %s", stage.name, output)


def _precision(trainer: Trainer) -> dict[str, Any]:
    args = trainer.args
    dtype = "bfloat16" if args.bf16 else "float16" if args.fp16 else "float32"
    return {"dtype": dtype, "seed": args.seed, "processes": args.world_size}
