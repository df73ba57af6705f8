"""Weight files as they lie on disk: which files make a checkpoint, and their tensors. Knows no model and no config.

Reading is safe (a `.bin` may hold tensors only, nothing that runs code), lazy (tensors are memory-mapped views: a page
is read when it is used) and complete (a missing shard, a half-written file or a key the index promised is an error
that names it). Writing is atomic: a reader sees the old file or the new one, never a half.
"""

import hashlib
import json
import pickle
import re
import struct
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

__all__ = [
    "State",
    "WeightFiles",
    "digest",
    "find_weights",
    "listed",
    "read_file",
    "read_json",
    "read_weights",
]

State = dict[str, Tensor]

# In order of preference; an index beats the single file of its format.
WEIGHT_FILES = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)
# Buffers old releases stored and nobody reads: rotary frequencies and CLIP's position ids are computed.
OBSOLETE = re.compile(r"(^|\.)(rotary_emb\.inv_freq|embeddings\.position_ids)$")
_LFS_POINTER = b"version https://git-lfs"
_SHOWN = 6


@dataclass(frozen=True)
class WeightFiles:
    """The files that hold a folder's weights; `promised` maps each key to its shard where an index says so."""

    files: tuple[Path, ...]
    promised: Mapping[str, Path]


def find_weights(folder: Path) -> WeightFiles | None:
    """Weight files of a checkpoint folder, None if it has none (a projector or an adapter alone).

    Raises:
        ValueError: an index is broken or names a file that is not there; shards lie there without their index.
    """
    for name in WEIGHT_FILES:
        path = folder / name
        if not path.is_file():
            continue
        if not name.endswith(".json"):
            return WeightFiles((path,), {})
        return _from_index(path)
    shards = sorted(file.name for file in folder.glob("*-of-*") if file.suffix in {".bin", ".safetensors"})
    if shards:
        raise ValueError(
            f"{folder} holds weight shards ({listed(shards)}) but no index: expected "
            f"{WEIGHT_FILES[0]} or {WEIGHT_FILES[2]} beside them. Download the checkpoint again."
        )
    return None


def read_weights(folder: Path) -> State:
    """All weights of a checkpoint folder, obsolete buffers dropped; dtypes as stored.

    Raises:
        ValueError: no weights in the folder, or a file is missing, broken, unsafe, or lacks a key the index promises.
    """
    found = find_weights(folder)
    if found is None:
        present = listed(sorted(file.name for file in folder.iterdir()))
        raise ValueError(f"{folder} holds no weights: expected one of {', '.join(WEIGHT_FILES)}; found {present}.")
    state: State = {}
    for file in found.files:
        held = read_file(file)
        lost = [key for key, place in found.promised.items() if place == file and key not in held]
        if lost:
            raise ValueError(
                f"{file} lacks {len(lost)} of the keys its index names: {listed(lost)}. "
                f"Index and shard come from different saves, or one is half-written: download both again."
            )
        state.update((key, value) for key, value in held.items() if found.promised.get(key, file) == file)
    return {key: value for key, value in state.items() if not OBSOLETE.search(key)}


def read_file(path: Path) -> State:
    """Tensors of one `.safetensors` or `.bin` file, on the CPU, memory-mapped where possible, dtypes as stored.

    Raises:
        ValueError: the file is missing, empty, half-written, a Git LFS pointer, holds code, or is no dict of tensors.
    """
    if not path.is_file():
        raise ValueError(f"weight file {path} does not exist. Download the checkpoint again or mend the path.")
    if path.stat().st_size == 0:
        raise ValueError(f"weight file {path} is empty (0 bytes), so a download or a save broke off. Get it again.")
    with path.open("rb") as stream:
        if stream.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise ValueError(f"{path} is a Git LFS pointer, not the weights. Run `git lfs pull` in its folder.")
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)


def read_json(path: Path) -> dict[str, Any]:
    """One JSON object.

    Raises:
        ValueError: the file is missing, no JSON, or no object.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist; is {path.parent} a checkpoint folder?")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no valid JSON ({error}). Download or save it again.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} should hold a JSON object, found {type(value).__name__}.")
    return value


def digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bits: equal only for equal weights, in whatever order and files."""
    total = hashlib.sha256()
    for key in sorted(state):
        value = state[key].detach().cpu().contiguous()
        total.update(f"{key} {value.dtype} {list(value.shape)}\n".encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def listed(names: Iterable[str], shown: int = _SHOWN) -> str:
    """The first names and how many more there are."""
    names = list(names)
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more if names else "nothing"


def _from_index(index: Path) -> WeightFiles:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise ValueError(f"{index} has no 'weight_map' of key -> file. Download it again.")
    promised = {key: index.parent / name for key, name in weight_map.items()}
    files = tuple(sorted(set(promised.values())))
    gone = [file.name for file in files if not file.is_file()]
    if gone:
        raise ValueError(
            f"{index} names {len(files)} files, of which {len(gone)} are not in {index.parent}: {listed(gone)}. "
            f"Download the missing files."
        )
    return WeightFiles(files, promised)


def _read_safetensors(path: Path) -> State:
    try:
        with safe_open(path, framework="pt") as stored:
            return {key: stored.get_tensor(key) for key in stored.keys()}
    except (SafetensorError, OSError) as error:
        raise _broken(path, error) from error


def _read_pickle(path: Path) -> State:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        if "GLOBAL" not in str(error):
            raise _broken(path, error) from error
        raise _unsafe(path, error) from error
    except (RuntimeError, OSError, EOFError, struct.error, KeyError, ValueError, IndexError) as error:
        raise _broken(path, error) from error
    if not isinstance(loaded, dict):
        raise ValueError(f"{path} should hold a dict of tensors, found {type(loaded).__name__}.")
    others = [f"{key} ({type(value).__name__})" for key, value in loaded.items() if not isinstance(value, Tensor)]
    if others:
        raise ValueError(f"{path} should hold tensors only, found also {listed(others)}. Save the state dict alone.")
    return {str(key): value.detach() for key, value in loaded.items()}


def _broken(path: Path, error: Exception) -> ValueError:
    reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    size = path.stat().st_size
    return ValueError(
        f"cannot read {path} ({size} bytes): {reason[:200]} "
        f"The file is half-written or damaged: compare its size and hash with the original and download it again."
    )


def _unsafe(path: Path, error: Exception) -> ValueError:
    named = re.search(r"GLOBAL ([\w.]+)", str(error))
    wanted = named.group(1) if named else "code"
    target = path.with_suffix(".safetensors").name
    return ValueError(
        f"refused to load {path}: it is a pickle that wants to import {wanted}, and loading it could run any program. "
        f"Weight files need tensors only. If you trust its author, convert it once in an isolated environment with "
        f"safetensors.torch.save_file(torch.load('{path.name}', weights_only=False), '{target}'), and use that file."
    )
