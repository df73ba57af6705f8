"""A tuned projector or a LoRA run and the base it was trained on, as one full checkpoint in LLaVA's layout.

What was not trained keeps the base's bits and dtype. A trained projector keeps the dtype its run stored it in, so that
the merged checkpoint gives the logits of `load_pretrained_model(tuned, base)` in whatever precision it is loaded.
Weights under a LoRA adapter are added up in the base's dtype, as that call with `dtype` of the base does.
"""

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llava.model.builder import EMBEDDING, PROJECTOR_PREFIX, TOWER_PREFIX, load_pretrained_model
from llava.model.checkpoint import State, load_non_lora, load_projector, read_adapter, require_fit
from llava.model.placement import DTYPES
from llava.model.sources import VISION_KEY, Checkpoint, inspect
from llava.model.weight_files import read_weights
from llava.provenance import without_machine_paths
from llava.release import SHARD_GB
from llava.release.folders import (
    CONFIG,
    GENERATION,
    RUN,
    TOKENIZER_FILES,
    copy_files,
    new_folder,
    write_json,
)
from llava.release.origin import write_origin
from llava.release.shards import write_weights

logger = logging.getLogger(__name__)


def merge(tuned: str, base: str, out: Path, shard_gb: float = SHARD_GB, tower: str | None = None) -> Path:
    """Write `tuned` over `base` as one checkpoint: sharded safetensors, config.json, tokenizer, the run's run.json,
    and origin.json with the hashes of what it was made from.

    Tower weights are inside where the base has them inside (v1.6), and else stay with `mm_vision_tower` (v1.5).

    Args:
        tuned: folder with mm_projector.bin and config.json, or of a LoRA run.
        base: folder or hub id of the model it was trained on.
        out: a new folder.
        tower: what config.json shall say under mm_vision_tower, for example the hub id of a tower that lay in a local
            folder; default: as the run had it.

    Raises:
        ValueError: `tuned` is complete already, does not fit `base`, or is no LLaVA checkpoint.
    """
    checkpoint = inspect(tuned, base)
    if checkpoint.kind not in {"projector", "lora"}:
        raise ValueError(
            f"{checkpoint.folder} is a {checkpoint.kind} checkpoint: only a tuned projector (mm_projector.bin and "
            f"config.json) or a LoRA run of a LLaVA model is merged"
        )
    held = read_weights(checkpoint.base)
    dtype = base_dtype(held)
    state = _with_projector(held, checkpoint) if checkpoint.kind == "projector" else _with_lora(held, checkpoint, dtype)
    with new_folder(out) as staging:
        write_weights(state, staging, shard_gb)
        write_json(staging / CONFIG, _config(checkpoint, state, dtype, tower))
        copy_files(checkpoint.base, staging, (*TOKENIZER_FILES, GENERATION))
        copy_files(checkpoint.folder, staging, (RUN,))
        write_origin(staging, checkpoint.folder, checkpoint.base)
    logger.info("%s: %s laid over %s, %d tensors, %s", out, checkpoint.folder, checkpoint.base, len(state), dtype)
    return out


def base_dtype(state: Mapping[str, Tensor]) -> torch.dtype:
    """The dtype most elements of the language model are stored in.

    Raises:
        ValueError: none of float16, bfloat16, float32.
    """
    counts: Counter[torch.dtype] = Counter()
    for key, value in state.items():
        if not key.startswith(TOWER_PREFIX):
            counts[value.dtype] += value.numel()
    dtype = counts.most_common(1)[0][0]
    if dtype not in DTYPES.values():
        raise ValueError(f"the base's weights are stored as {dtype}; expected one of {', '.join(DTYPES)}")
    return dtype


def _with_projector(held: State, checkpoint: Checkpoint) -> State:
    """The base with the tuned projector in place of its own."""
    trained = load_projector(checkpoint.folder)
    own = {key for key in held if key.startswith(PROJECTOR_PREFIX)}
    new = {key for key in trained if key.startswith(PROJECTOR_PREFIX)}
    others = trained.keys() - new
    shapes = [(k, trained[k].shape, held[k].shape) for k in (new & own) | (others & held.keys())]
    different = [item for item in shapes if item[1] != item[2]]
    where = f"{checkpoint.folder} over {checkpoint.base}"
    require_fit(where, own - new, new - own if own else (), different)
    return {key: trained.get(key, value) for key, value in held.items()} | trained


def _with_lora(held: State, checkpoint: Checkpoint, dtype: torch.dtype) -> State:
    """The base with the adapter's products added and the run's other trained weights in place."""
    _, model, _, _ = load_pretrained_model(checkpoint.folder, checkpoint.base, None, device="cpu", dtype=dtype)
    merged = model.state_dict()
    of_tower = any(TOWER_PREFIX in key for key in read_adapter(checkpoint.folder))
    state = {key: _changed(value, merged.get(key), dtype) for key, value in held.items()}
    if of_tower:
        state |= {key: value for key, value in merged.items() if key.startswith(TOWER_PREFIX)}
    return state | load_non_lora(checkpoint.folder)


def _changed(stored: Tensor, merged: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The merged weight where the adapter changed it, else the base's own bits."""
    return stored if merged is None or torch.equal(stored.to(dtype), merged) else merged


def _config(checkpoint: Checkpoint, state: State, dtype: torch.dtype, tower: str | None) -> dict[str, Any]:
    """The run's config.json, with what the merged files say of themselves."""
    config = {key: value for key, value in checkpoint.config.items() if key not in {"dtype", "torch_dtype"}}
    config["torch_dtype"] = str(dtype).removeprefix("torch.")  # the older name: transformers 4 knows no other
    if "_name_or_path" in config:
        config["_name_or_path"] = without_machine_paths(config["_name_or_path"])
    if tower is not None:
        config[VISION_KEY] = tower
    if EMBEDDING in state:
        config["vocab_size"] = len(state[EMBEDDING])
    if any(key.startswith(TOWER_PREFIX) for key in state):
        config["unfreeze_mm_vision_tower"] = True  # the key that says, also to public LLaVA, that the tower lies inside
    return config
