"""The training program: parse, load, attach, choose the stage, train, save.

python -m llava.train.train --config configs/train/zip_tune_miniature.yaml --output_dir checkpoints/mini-zip
"""

import json
import logging
import math
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import set_seed
from transformers.trainer_utils import TrainOutput

from llava.data.collator import DataCollatorForSupervisedDataset
from llava.data.dataset import LazySupervisedDataset
from llava.data.subset import Subset
from llava.model.row_attention import row_attention
from llava.provenance import sha256_file
from llava.train.arguments import DataArguments, ModelArguments, TrainingArguments
from llava.train.cache_features import fill_cache, require_frozen_tower
from llava.train.fsdp import require_fsdp_fits
from llava.train.interrupt import StopOnSignal
from llava.train.options import parse_args
from llava.train.quantize import require_frozen_weights
from llava.train.save import RUN_FILE, STATE_FILE, save_run
from llava.train.setup import load_model, make_dataset
from llava.train.stages import Stage, apply_stage, choose_stage
from llava.train.trainer import LLaVATrainer, last_checkpoint, missing_parts

logger = logging.getLogger(__name__)


def train(attn_implementation: str | None = None, argv: Sequence[str] | None = None) -> LLaVATrainer:
    """Run one training from the command line (or `argv`).

    Args:
        attn_implementation: used when the flag of that name is not given.

    Raises:
        ValueError: whatever is wrong with arguments, data or checkpoint; nothing computed before is lost.
        SystemExit: the run was told to stop (see `llava.train.interrupt`).
    """
    model_args, data_args, training_args = parse_args(sys.argv[1:] if argv is None else argv)
    if not data_args.data_path:
        raise ValueError("--data_path is missing: a LLaVA JSON or JSON-lines file")
    training_args.attn_implementation = training_args.attn_implementation or attn_implementation
    set_seed(training_args.seed)  # a new projector starts equal on every process
    stage = choose_stage(model_args, training_args)
    if data_args.skip_text_only and not stage.projector_only:
        raise ValueError(
            f"--skip_text_only is for projector-only training: stage {stage.name} learns from text-only rows as well"
        )
    require_frozen_weights(stage, training_args)
    require_fsdp_fits(stage, training_args)
    model, tokenizer = load_model(model_args, data_args, training_args, stage)
    dataset = make_dataset(model, tokenizer, model_args, data_args)
    if training_args.pack_sequences and dataset.image_processor is None:
        raise ValueError("--pack_sequences packs rows with images; this model has no vision tower, leave it out")
    if data_args.feature_cache:
        require_frozen_tower(stage)
        workers = training_args.dataloader_num_workers
        dataset.features = fill_cache(data_args.feature_cache, dataset, model, training_args.device, workers)
    cached = model.config.use_cache
    model = apply_stage(model, stage, training_args)
    trainer = LLaVATrainer(
        model=model,
        args=training_args,
        train_dataset=dataset,
        data_collator=DataCollatorForSupervisedDataset(tokenizer.pad_token_id),
        stage=stage,
    )
    start = checkpoint_to_resume(training_args, model.config)
    if start and is_finished(Path(start), training_args):
        logger.info("%s is finished: no step is left to train, its files stay as they are", training_args.output_dir)
        return trainer
    if start:
        dataset.masked.restore(Path(start))
    stop = StopOnSignal()
    trainer.add_callback(stop)
    by_row = row_attention(model.config, training_args.model_max_length)
    with by_row if training_args.pack_sequences else nullcontext(), stop.listening():
        result = trainer.train(resume_from_checkpoint=start)
    stop.leave_if_asked(trainer.state)
    trainer.share_masked_rows()
    model.config.use_cache = cached
    described = {
        "data": describe_data(data_args, dataset),
        "arguments": describe_arguments(model_args, data_args, training_args),
    }
    save_run(trainer, stage, tokenizer, describe_run(stage, model.config, result) | described)
    return trainer


def describe_run(stage: Stage, config: Any, result: TrainOutput) -> dict[str, Any]:
    """What trained, under which compressor, and what came out."""
    return {
        "stage": stage.name,
        "trained_parts": sorted(stage.parts),
        "compressor": getattr(config, "mm_compressor", None),
        "result": result.metrics | {"steps": result.global_step},
    }


def checkpoint_to_resume(args: TrainingArguments, config: Any) -> str | None:
    """The checkpoint a run goes on from: the one asked for, else the newest complete one in its output folder.

    Raises:
        ValueError: the checkpoint asked for is incomplete, or was trained under another compressor.
    """
    found: Path | None
    asked = args.resume_from_checkpoint
    if asked and asked.lower() in ("false", "no"):
        return None
    if asked and asked.lower() not in ("true", "yes"):
        missing = missing_parts(Path(asked))
        if missing:
            raise ValueError(f"--resume_from_checkpoint {asked}: no {', no '.join(missing)} there")
        found = Path(asked)
    else:
        found = last_checkpoint(str(args.output_dir))
    if found is None:
        return None
    require_same_compressor(found, config)
    logger.info("going on from %s", found)
    return str(found)


def is_finished(checkpoint: Path, args: TrainingArguments) -> bool:
    """Whether the run in output_dir was completed (run.json) and no more is asked of it; transformers would step on."""
    if not (Path(str(args.output_dir)) / RUN_FILE).is_file():
        return False
    state = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
    if state["global_step"] < state["max_steps"]:
        return False
    if args.max_steps > 0:
        return bool(args.max_steps <= state["global_step"])
    return bool(math.ceil(args.num_train_epochs) <= state["num_train_epochs"])


def require_same_compressor(checkpoint: Path, config: Any) -> None:
    """Refuse to go on from a run that showed the model other vision tokens."""
    trained = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    for key in ("mm_compressor", "mm_compressed_order"):
        before, now = trained.get(key), getattr(config, key, None)
        if before != now:
            raise ValueError(
                f"{checkpoint} was trained with {key} {before}, this run has {now}; choose another --output_dir, or "
                "start anew with --resume_from_checkpoint False"
            )


def describe_data(data_args: DataArguments, dataset: LazySupervisedDataset) -> dict[str, Any]:
    """The data of a run, for run.json."""
    data: dict[str, Any] = {
        "path": str(data_args.data_path),
        "sha256": sha256_file(str(data_args.data_path)),
        "rows": len(dataset),
        "rows_with_images": sum(dataset.has_image),
        "text_only": "left_out" if data_args.skip_text_only else "kept",
        "text_only_rows_left_out": dataset.skipped_text_only,
        "rows_without_labels": [dataset.name_of(position) for position in dataset.masked.positions()],
    }
    if dataset.chosen.sets:
        data["sets"] = dataset.chosen.describe_sets()
    if data_args.subset_manifest is not None:
        subset = Subset.load(data_args.subset_manifest)
        data["subset"] = {key: value for key, value in asdict(subset).items() if key != "ids"}
        data["subset"]["manifest_sha256"] = sha256_file(data_args.subset_manifest)
    return data


def describe_arguments(
    model_args: ModelArguments, data_args: DataArguments, training_args: TrainingArguments
) -> dict[str, Any]:
    """Every argument of a run, for run.json."""
    return {"model": asdict(model_args), "data": asdict(data_args), "training": training_args.to_dict()}


def main(attn_implementation: str | None = None) -> None:
    first = int(os.environ.get("RANK", "0")) == 0
    logging.basicConfig(level=logging.INFO if first else logging.WARNING, format="%(name)s: %(message)s")
    train(attn_implementation)


if __name__ == "__main__":
    main()
