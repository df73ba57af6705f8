"""From arguments to a model and tokenizer that are ready to train.

Two ways in: a LLaVA checkpoint (its config says what it is), or a plain language model with `--vision_tower`, which
gets a tower and a fresh or pretrained projector.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers.integrations.deepspeed import (
    is_deepspeed_zero3_enabled,
    set_hf_deepspeed_config,
    unset_hf_deepspeed_config,
)

from llava.anyres import parse_pinpoints
from llava.data.dataset import LazySupervisedDataset
from llava.model.builder import MODELS, load_pretrained_model
from llava.model.checkpoint import require_fit
from llava.model.placement import Placement, place
from llava.model.sources import Checkpoint, family_of, inspect
from llava.model.tokenizer import load_tokenizer
from llava.model.weight_files import read_weights
from llava.train.arguments import DataArguments, ModelArguments, TrainingArguments
from llava.train.quantize import detach_quantization, load_options
from llava.train.stages import TOWER, Stage
from visionzip import visionzip

logger = logging.getLogger(__name__)

# Values of LLaVA-1.5 for what neither the flags nor a checkpoint say. Option -> value.
NEW_MODEL = {
    "mm_vision_select_layer": -2,
    "mm_vision_select_feature": "patch",
    "mm_projector_type": "mlp2x_gelu",
    "mm_patch_merge_type": "flat",
    "mm_use_im_start_end": False,
    "mm_use_im_patch_token": False,
}


def compute_dtype(training_args: TrainingArguments) -> torch.dtype:
    if training_args.bf16:
        return torch.bfloat16
    return torch.float16 if training_args.fp16 else torch.float32


def load_model(
    model_args: ModelArguments, data_args: DataArguments, training_args: TrainingArguments, stage: Stage
) -> tuple[Any, Any]:
    """Load or assemble the model, attach the compressor, and write into its config what the run decides.

    Returns:
        (model in the compute dtype, tokenizer); the model lies on the CPU, a quantized one where it will train.

    Raises:
        ValueError: no model named, a plain language model without --vision_tower, flags that contradict the checkpoint.
    """
    if not model_args.model_name_or_path:
        raise ValueError("--model_name_or_path is missing: a LLaVA checkpoint, or a language model with --vision_tower")
    with _whole_while_loading(training_args):
        return _load_model(model_args, data_args, training_args, stage)


@contextmanager
def _whole_while_loading(training_args: TrainingArguments) -> Iterator[None]:
    """On the CPU, load whole weights and let ZeRO-3 shard them afterwards.

    transformers starts DeepSpeed's communication late there, so sharding during loading would see one process.
    """
    config = getattr(training_args, "hf_deepspeed_config", None)
    if config is None or not training_args.use_cpu:
        yield
        return
    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        set_hf_deepspeed_config(config)


def _load_model(
    model_args: ModelArguments, data_args: DataArguments, training_args: TrainingArguments, stage: Stage
) -> tuple[Any, Any]:
    dtype, options = compute_dtype(training_args), load_options(training_args)
    attention = training_args.attn_implementation
    checkpoint = inspect(model_args.model_name_or_path, None)
    if checkpoint.has_vision:
        tokenizer, model, _, _ = load_pretrained_model(
            model_args.model_name_or_path, None, None, dtype=dtype, attn_implementation=attention, **options
        )
    else:
        tokenizer, model = _load_language_model(checkpoint, place(None, dtype=dtype, **options), attention)
    detach_quantization(model)
    _prepare_tokenizer(tokenizer, training_args.model_max_length)
    if checkpoint.has_vision or model_args.vision_tower:
        _prepare_vision(model, tokenizer, model_args, data_args, checkpoint.has_vision)
        _join(model, dtype)
    elif stage.projector_only:
        raise ValueError(f"{checkpoint.folder} is a plain language model: give --vision_tower")
    _record(model.config, model_args, training_args, stage)
    _attach_compressor(model, model_args)
    return model, tokenizer


def make_dataset(
    model: Any, tokenizer: Any, model_args: ModelArguments, data_args: DataArguments
) -> LazySupervisedDataset:
    """The rows the arguments name, as samples for this model.

    Raises:
        ValueError: see `LazySupervisedDataset`.
    """
    tower = model.get_vision_tower()
    return LazySupervisedDataset(
        str(data_args.data_path),
        tokenizer,
        version=model_args.version,
        image_folder=data_args.image_folder,
        image_processor=None if tower is None else tower.image_processor,
        model_cfg=model.config,
        subset_manifest=data_args.subset_manifest,
        max_bad_rows=data_args.max_bad_rows,
        skip_text_only=data_args.skip_text_only,
    )


def _load_language_model(checkpoint: Checkpoint, where: Placement, attention: str | None) -> tuple[Any, Any]:
    """A plain language model as the LLaVA class of its family, without tower and projector."""
    family = family_of(checkpoint.config, checkpoint.folder.name, checkpoint.folder)
    config_class, model_class = MODELS[family]
    config = config_class.from_dict(checkpoint.config | {"model_type": config_class.model_type})
    options: dict[str, Any] = {
        "dtype": where.dtype,
        "device_map": where.device_map,
        "quantization_config": where.quantization,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,
    }
    if attention is not None:
        options["attn_implementation"] = attention
    state = read_weights(checkpoint.folder)
    model, report = model_class.from_pretrained(None, config=config, state_dict=state, **options)
    require_fit(str(checkpoint.folder), report["missing_keys"], report["unexpected_keys"], report["mismatched_keys"])
    model.config._name_or_path = str(checkpoint.folder)
    return load_tokenizer(checkpoint.folder), model


def _prepare_tokenizer(tokenizer: Any, model_max_length: int) -> None:
    """Right padding with `<unk>`, as LLaVA trains; a tokenizer without one keeps its own padding token."""
    tokenizer.padding_side = "right"
    tokenizer.model_max_length = model_max_length
    tokenizer.pad_token = tokenizer.unk_token or tokenizer.pad_token or tokenizer.eos_token


def _prepare_vision(
    model: Any, tokenizer: Any, model_args: ModelArguments, data_args: DataArguments, from_checkpoint: bool
) -> None:
    """Fill open options from the checkpoint (else LLaVA-1.5), then give the model its tower and projector."""
    config = model.config
    wanted = model_args.mm_projector_type
    present = getattr(config, "mm_projector_type", None) or "linear"
    if from_checkpoint and wanted is not None and wanted != present:
        raise ValueError(f"--mm_projector_type {wanted}: the checkpoint's projector is of type {present}; leave it out")
    if from_checkpoint and model_args.pretrain_mm_mlp_adapter and is_deepspeed_zero3_enabled():
        raise ValueError("--pretrain_mm_mlp_adapter cannot be laid over a LLaVA checkpoint under ZeRO-3; use ZeRO-2")
    for name, value in NEW_MODEL.items():
        if getattr(model_args, name) is None:
            said = getattr(config, name, None) if from_checkpoint else None
            setattr(model_args, name, value if said is None else said)
    if from_checkpoint:
        model_args.mm_projector_type = present
    model_args.vision_tower = model_args.vision_tower or config.mm_vision_tower
    model.get_model().initialize_vision_modules(model_args)
    config.mm_use_im_start_end = model_args.mm_use_im_start_end
    config.mm_use_im_patch_token = model_args.mm_use_im_patch_token
    model.initialize_vision_tokenizer(model_args, tokenizer)
    if data_args.image_aspect_ratio is not None or not from_checkpoint:
        config.image_aspect_ratio = data_args.image_aspect_ratio or "square"
    if data_args.image_grid_pinpoints is not None:
        tile = model.get_vision_tower().image_size
        config.image_grid_pinpoints = [list(size) for size in parse_pinpoints(data_args.image_grid_pinpoints, tile)]


def _join(model: Any, dtype: torch.dtype) -> None:
    """Bring what was added to a language model to its device and the compute dtype."""
    for part in (model.get_vision_tower(), model.get_model().mm_projector):
        part.to(device=model.device, dtype=dtype)
    newline = getattr(model.get_model(), "image_newline", None)
    if newline is not None:
        newline.data = newline.data.to(model.device)


def _record(config: Any, model_args: ModelArguments, training_args: TrainingArguments, stage: Stage) -> None:
    """The config keys public LLaVA training writes."""
    config.tokenizer_padding_side = "right"
    config.tokenizer_model_max_length = training_args.model_max_length
    config.tune_mm_mlp_adapter = stage.projector_only
    config.freeze_mm_mlp_adapter = training_args.freeze_mm_mlp_adapter
    config.mm_projector_lr = training_args.mm_projector_lr
    if TOWER in stage.parts:  # never reset: in a v1.6 checkpoint it says that the tower's weights lie beside
        config.unfreeze_mm_vision_tower = True
        config.mm_vision_tower_lr = training_args.mm_vision_tower_lr


def _attach_compressor(model: Any, model_args: ModelArguments) -> None:
    if model_args.zip_dominant is not None and model_args.zip_contextual is not None:
        visionzip(
            model,
            model_args.zip_dominant,
            model_args.zip_contextual,
            merge=model_args.zip_merge,  # type: ignore[arg-type]  # checked by visionzip
            order=model_args.zip_order,  # type: ignore[arg-type]
        )
    compressor = getattr(model.config, "mm_compressor", None)
    if compressor:
        logger.info("vision tokens are compressed: %s", compressor)
