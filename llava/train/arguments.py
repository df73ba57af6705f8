"""What a run can be told: three groups of options with LLaVA's flag names, and the compressor's.

Names and meaning follow the public LLaVA scripts. None means: as the checkpoint says, and for a new multimodal model
the LLaVA-1.5 value (named in the help). Defaults that differ from the public code because its own would do harm:
`version` v1 (not v0), `model_max_length` 2048 (not 512, less than one picture), `mm_vision_select_layer` -2 (not -1),
`mm_projector_type` mlp2x_gelu (not linear), `mm_use_im_patch_token` False (True adds a token), `image_aspect_ratio` as
the checkpoint says (not square whatever it says).
"""

import logging
from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments as HFTrainingArguments
from transformers.training_args import OptimizerNames

logger = logging.getLogger(__name__)

TUNABLE_PARTS = ("mm_mlp_adapter", "mm_vision_tower", "mm_language_model")


def option(default: Any, text: str) -> Any:
    """A dataclass field with its help text."""
    return field(default=default, metadata={"help": text})


@dataclass
class ModelArguments:
    """Which model, which parts of it train, and how its vision tokens are compressed."""

    model_name_or_path: str | None = option(
        None, "LLaVA checkpoint, or a plain language model together with --vision_tower"
    )
    version: str = option(
        "v1", "conversation template the data is rendered with: v1, plain, llava_llama_2, qwen_1_5, ..."
    )
    freeze_backbone: bool = option(False, "freeze the language model")
    tune_mm_mlp_adapter: bool = option(False, "train the projector and nothing else")
    mm_tunable_parts: str | None = option(
        None, f"comma list of {', '.join(TUNABLE_PARTS)}; overrides the other freeze and tune switches"
    )
    unfreeze_mm_vision_tower: bool = option(False, "train the vision tower as well")
    vision_tower: str | None = option(None, "vision tower folder or hub name; needed with a plain language model")
    mm_vision_select_layer: int | None = option(None, "tower layer whose output is projected (new model: -2)")
    mm_vision_select_feature: str | None = option(None, "patch or cls_patch (new model: patch)")
    pretrain_mm_mlp_adapter: str | None = option(None, "mm_projector.bin to start the projector from")
    mm_projector_type: str | None = option(None, "linear, mlp2x_gelu, identity (new model: mlp2x_gelu)")
    mm_patch_merge_type: str | None = option(None, "flat, spatial or spatial_unpad (new model: flat)")
    mm_use_im_start_end: bool | None = option(None, "wrap images in <im_start>, <im_end> (new model: False)")
    mm_use_im_patch_token: bool | None = option(None, "add the <im_patch> token (new model: False)")
    zip_dominant: int | None = option(None, "VisionZip: dominant tokens per tile, CLS counted; None: no compression")
    zip_contextual: int | None = option(None, "VisionZip: contextual (merged) tokens per tile")
    zip_merge: str = option("official", "how contextual tokens are merged: official or average")
    zip_order: str = option("official", "order of compressed tiles in the sequence: official or spatial")

    def __post_init__(self) -> None:
        if (self.zip_dominant is None) != (self.zip_contextual is None):
            raise ValueError(
                f"zip_dominant and zip_contextual go together, got {self.zip_dominant} and {self.zip_contextual}; "
                "give both (54 and 10 make 64 tokens) or neither"
            )
        unknown = set(self.tunable_parts()) - set(TUNABLE_PARTS)
        if unknown:
            raise ValueError(f"mm_tunable_parts: unknown {sorted(unknown)}; known parts are {', '.join(TUNABLE_PARTS)}")

    def tunable_parts(self) -> list[str]:
        return [part.strip() for part in (self.mm_tunable_parts or "").split(",") if part.strip()]


@dataclass
class DataArguments:
    """Which rows, where their images lie, and how they are preprocessed."""

    data_path: str | None = option(None, "LLaVA JSON or JSON-lines file, or a .yaml list of such files with shares")
    image_folder: str | None = option(None, "folder the image paths in the data are relative to")
    subset_manifest: str | None = option(None, "train on the rows of this manifest (python -m llava.data.subset)")
    skip_text_only: bool = option(False, "projector-only training: leave out rows that give the projector no gradient")
    max_bad_rows: int = option(
        0,
        "so many rows may break the format (they are left out) or have no labels (they carry no loss); all are logged",
    )
    image_aspect_ratio: str | None = option(None, "pad, square or anyres (new model: square)")
    image_grid_pinpoints: str | None = option(None, "anyres canvas sizes, e.g. '[[336, 672], [672, 336]]'")
    feature_cache: str | None = option(
        None, "folder of the frozen tower's output; filled where it lacks images, then read instead of them"
    )
    lazy_preprocess: bool = option(True, "kept for old scripts: rows are always read when they are needed")
    is_multimodal: bool = option(True, "kept for old scripts: a run with a vision tower is multimodal")

    def __post_init__(self) -> None:
        for name in ("lazy_preprocess", "is_multimodal"):
            if not getattr(self, name):
                logger.warning("--%s False is ignored", name)


@dataclass
class TrainingArguments(HFTrainingArguments):
    """transformers' options, and LLaVA's."""

    cache_dir: str | None = option(None, "kept for old scripts: set the variable HF_HOME instead")
    optim: str = option("adamw_torch", "optimizer, see transformers")
    remove_unused_columns: bool = option(False, "leave at False: the model takes images beside its named inputs")
    freeze_mm_mlp_adapter: bool = option(False, "freeze the projector")
    mpt_attn_impl: str | None = option(None, "kept for old scripts: MPT is not supported")
    model_max_length: int = option(2048, "longest sequence, image tokens included; longer rows are cut")
    attn_implementation: str | None = option(None, "sdpa, flash_attention_2 or eager (None: transformers' choice)")
    double_quant: bool = option(True, "bits 4: quantize the scales as well (always done)")
    quant_type: str = option("nf4", "bits 4: data type of the quantized weights (nf4 alone)")
    bits: int = option(16, "4 or 8: frozen language model quantized by bitsandbytes; 16: no quantization")
    lora_enable: bool = option(False, "train LoRA adapters on the language model, and the projector")
    lora_r: int = option(64, "LoRA rank")
    lora_alpha: int = option(16, "LoRA scale numerator")
    lora_dropout: float = option(0.05, "LoRA dropout")
    lora_weight_path: str = option("", "kept for old scripts: has no effect, as in the public code")
    lora_bias: str = option("none", "none or all; biases trained beside LoRA")
    mm_projector_lr: float | None = option(None, "learning rate of the projector (None: learning_rate)")
    mm_vision_tower_lr: float | None = option(None, "learning rate of the vision tower (None: learning_rate)")
    muon_learning_rate: float | None = option(
        None,
        "train the decoder blocks' matrices with Muon at this rate, e.g. 0.02 (None: AdamW trains all)",
    )
    group_by_modality_length: bool = option(False, "steps of one modality, processes evenly loaded")
    pack_sequences: bool = option(False, "pack the rows of a batch to model_max_length instead of padding each")
    global_batch_size: int | None = option(
        None, "rows per optimizer step over all processes; sets gradient_accumulation_steps to reach it"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bits not in (4, 8, 16):
            raise ValueError(f"bits must be 4, 8 or 16 (no quantization), got {self.bits}")
        if self.bits == 4 and (self.quant_type, self.double_quant) != ("nf4", True):
            raise ValueError(
                f"bits 4 means quant_type nf4 with double_quant True, as at inference; got {self.quant_type} and "
                f"double_quant {self.double_quant}; leave both out"
            )
        if self.muon_learning_rate is not None:
            against = ("deepspeed", "lora_enable", "mm_projector_lr", "mm_vision_tower_lr")
            clash = [name for name in against if getattr(self, name)]
            if clash or self.optim != "adamw_torch":
                raise ValueError(
                    f"muon_learning_rate goes with optim adamw_torch and without {', '.join(against)}; "
                    f"got optim {OptimizerNames(self.optim).value} and {', '.join(clash) or 'none of these'}"
                )
        if self.pack_sequences and self.label_smoothing_factor:
            raise ValueError("pack_sequences and label_smoothing_factor do not go together; leave one of them out")
        if self.lora_bias not in ("none", "all"):
            raise ValueError(f"lora_bias must be none or all, got {self.lora_bias!r}")
        if self.model_max_length < 1:
            raise ValueError(f"model_max_length must be positive, got {self.model_max_length}")


# Accepted so that old scripts run, without effect; giving one is answered with a warning.
IGNORED_OPTIONS: dict[str, str] = {
    "cache_dir": "hub downloads go where the variable HF_HOME says",
    "mpt_attn_impl": "MPT models are not supported",
    "lora_weight_path": "it has no effect in the public code either",
}
