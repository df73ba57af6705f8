"""The parts of a checkpoint LLaVA adds to plain weights: projector file, LoRA folder, and the test that weights fit.

`mm_projector.bin` is written and read under its public names (`model.mm_projector.0.weight`); a LoRA folder holds
`adapter_model.*` and `non_lora_trainables.bin`. Whole checkpoints: `read_weights`, see weight_files.py.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from llava.model.weight_files import (
    State,
    WeightFiles,
    find_weights,
    listed,
    read_file,
    read_json,
    read_weights,
)
from llava.utils import atomic_path

__all__ = [
    "ADAPTER_CONFIG",
    "NON_LORA_FILE",
    "PROJECTOR_FILE",
    "State",
    "WeightFiles",
    "find_weights",
    "load_non_lora",
    "load_projector",
    "projector_state",
    "read_adapter",
    "read_file",
    "read_json",
    "read_weights",
    "require_fit",
    "save_projector",
]

PROJECTOR_FILE = "mm_projector.bin"
NON_LORA_FILE = "non_lora_trainables.bin"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
_PROJECTOR = "mm_projector."


def load_projector(path: str | os.PathLike[str]) -> State:
    """Read a projector file (or a folder's `mm_projector.bin`) under public names, dtypes as stored.

    Whatever prefix a training run left before `mm_projector.` is replaced by `model.`. Besides the projector the file
    may hold `model.embed_tokens.weight` (runs with <im_start>/<im_end>) and `model.image_newline`.

    Raises:
        ValueError: no projector key in the file, or a key of something else.
    """
    file = Path(path)
    file = file / PROJECTOR_FILE if file.is_dir() else file
    state: State = {}
    strangers = []
    for key, value in read_file(file).items():
        name = _public_name(key)
        if name is None:
            strangers.append(key)
        else:
            state[name] = value
    if strangers:
        raise ValueError(f"{file} is no projector file: it also holds {listed(strangers)}.")
    if not any(_PROJECTOR in key for key in state):
        raise ValueError(f"{file} holds no key with '{_PROJECTOR}' in it; found {listed(state)}.")
    return state


def projector_state(state: Mapping[str, Tensor]) -> State:
    """The projector's own state dict (`0.weight`, ...) out of a dict with full names; the rest is left out."""
    return {key.split(_PROJECTOR, 1)[1]: value for key, value in state.items() if _PROJECTOR in key}


def save_projector(source: nn.Module | Mapping[str, Tensor], path: str | os.PathLike[str]) -> Path:
    """Write the projector alone, in the public layout, atomically; tensors go to the CPU and keep their dtype.

    Args:
        source: the LLaVA model or its state dict (under ZeRO-3: the gathered one).
        path: the file to write, by custom `mm_projector.bin`; its folder is made.

    Raises:
        ValueError: `source` has no projector, or its tensors hold no data (sharded or on the meta device).
    """
    named = source.state_dict() if isinstance(source, nn.Module) else source
    short = projector_state(named)
    if not short:
        raise ValueError(f"nothing to save to {path}: none of {len(named)} keys holds '{_PROJECTOR}'.")
    hollow = [key for key, value in short.items() if value.numel() == 0 or value.is_meta]
    if hollow:
        raise ValueError(f"cannot save {path}: no data in {listed(hollow)}; gather the ZeRO-3 shards first.")
    state = {f"model.{_PROJECTOR}{key}": value.detach().cpu().clone() for key, value in short.items()}
    file = Path(path)
    with atomic_path(file) as temporary:
        torch.save(state, temporary)
    return file


def load_non_lora(folder: Path) -> State:
    """Everything a LoRA run trained besides the adapter, under the base model's names; empty without the file.

    Stored names carry PEFT's wrapping (`base_model.model.model.mm_projector...`): drop `base_model.`, then one `model.`
    where two are left.
    """
    file = folder / NON_LORA_FILE
    if not file.exists():
        return {}
    # A bias that trained beside an adapter lies in the layer the adapter wraps.
    state = {
        key.removeprefix("base_model.").replace(".base_layer.", "."): value for key, value in read_file(file).items()
    }
    if any(key.startswith("model.model.") for key in state):
        state = {key.removeprefix("model."): value for key, value in state.items()}
    return state


def read_adapter(folder: Path) -> State:
    """Weights of a LoRA adapter.

    Raises:
        ValueError: neither adapter file is there.
    """
    for name in ADAPTER_FILES:
        if (folder / name).exists():
            return read_file(folder / name)
    raise ValueError(f"{folder} has {ADAPTER_CONFIG} but no weights: expected {' or '.join(ADAPTER_FILES)}.")


def require_fit(
    source: str,
    missing: Iterable[str] = (),
    unexpected: Iterable[str] = (),
    mismatched: Iterable[tuple[str, Iterable[int], Iterable[int]]] = (),
) -> None:
    """Refuse weights that do not fit a model exactly.

    Args:
        source: what was read, for the message.
        missing: keys of the model the files do not hold.
        unexpected: keys of the files the model does not have.
        mismatched: (key, shape in the file, shape in the model).

    Raises:
        ValueError: any of them is not empty.
    """
    lost, extra = sorted(missing), sorted(unexpected)
    shapes = [f"{key} {list(stored)} instead of {list(wanted)}" for key, stored, wanted in sorted(mismatched)]
    parts = [
        f"{what} {len(keys)}: {listed(keys)}"
        for what, keys in (("missing keys", lost), ("unexpected keys", extra), ("wrong shapes", shapes))
        if keys
    ]
    if parts:
        raise ValueError(
            f"the weights in {source} do not fit the model its config describes. {'; '.join(parts)}. "
            f"Download the checkpoint again, or check that config.json belongs to these weights."
        )


def _public_name(key: str) -> str | None:
    """Name in a projector file -> public name, None for a key that does not belong there."""
    if _PROJECTOR in key:
        return f"model.{_PROJECTOR}{key.split(_PROJECTOR, 1)[1]}"
    for name in ("embed_tokens.weight", "image_newline"):
        if key == name or key.endswith(f".{name}"):
            return f"model.{name}"
    return None
