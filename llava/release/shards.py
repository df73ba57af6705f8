"""Weights as safetensors: one file, or shards with an index, in the names transformers gives them."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from llava.release import SHARD_GB
from llava.release.folders import write_json
from llava.utils import give_usual_mode

INDEX = "model.safetensors.index.json"


def write_weights(state: Mapping[str, Tensor], folder: Path, shard_gb: float = SHARD_GB) -> list[str]:
    """Write `state` in the order it has, dtypes as they are; returns the names of the weight files.

    One shard at a time is copied to memory, so memory-mapped tensors may be larger than it.

    Args:
        shard_gb: size of a shard in units of 10^9 bytes; a single tensor above it gets a shard of its own.

    Raises:
        ValueError: nothing to write, or a shard size that is not positive.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not state:
        raise ValueError(f"no weights to write to {folder}")
    if shard_gb <= 0:
        raise ValueError(f"--shard-gb must be above 0, got {shard_gb}")
    groups = _grouped(state, int(shard_gb * 1e9))
    count = len(groups)
    if count == 1:
        save_safetensors({key: state[key] for key in groups[0]}, folder / "model.safetensors")
        return ["model.safetensors"]
    names = [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
    for name, keys in zip(names, groups, strict=True):
        save_safetensors({key: state[key] for key in keys}, folder / name)
    place = {key: name for name, keys in zip(names, groups, strict=True) for key in keys}
    total = sum(tensor.nbytes for tensor in state.values())
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": place})
    return names


def _grouped(state: Mapping[str, Tensor], limit: int) -> list[list[str]]:
    groups: list[list[str]] = [[]]
    size = 0
    for key, tensor in state.items():
        if groups[-1] and size + tensor.nbytes > limit:
            groups.append([])
            size = 0
        groups[-1].append(key)
        size += tensor.nbytes
    return groups


def save_safetensors(part: Mapping[str, Tensor], path: Path) -> None:
    """Write one file; tensors go to the CPU and keep their dtype."""
    # Copies: safetensors refuses tensors that share memory, as tied or memory-mapped ones may.
    owned = {key: value.detach().cpu().clone(memory_format=torch.contiguous_format) for key, value in part.items()}
    save_file(owned, path, metadata={"format": "pt"})
    give_usual_mode(path)
