"""origin.json: the weight files a release was made from, by sha256.

A merged or exported checkpoint holds the weights that were evaluated in other files than the evaluation read; this is
how its records are told from those of other weights.
"""

import fnmatch
from pathlib import Path
from typing import Any

from llava.model.weight_files import read_json
from llava.provenance import sha256_file
from llava.release.folders import write_json

ORIGIN = "origin.json"
_WEIGHTS = ("*.safetensors", "*.bin")
_NOT_WEIGHTS = ("training_args.bin",)

Hashes = dict[str, str]


def is_weight_file(name: str) -> bool:
    """Whether a file of this name holds weights of a checkpoint."""
    return name not in _NOT_WEIGHTS and any(fnmatch.fnmatch(name, pattern) for pattern in _WEIGHTS)


def weight_hashes(folder: Path) -> Hashes:
    """Name -> sha256 of the weight files in a folder."""
    return {path.name: sha256_file(path) for path in sorted(folder.iterdir()) if is_weight_file(path.name)}


def write_origin(folder: Path, model: Path, base: Path | None = None) -> None:
    """Note in `folder` which weights it holds: those of `model`, over `base` where it is a projector or LoRA run.

    A `model` that has an origin itself passes that on.
    """
    if base is None and (model / ORIGIN).is_file():
        write_json(folder / ORIGIN, read_json(model / ORIGIN))
        return
    origin: dict[str, Any] = {"model": weight_hashes(model)}
    if base is not None:
        origin["base"] = weight_hashes(base)
    write_json(folder / ORIGIN, origin)


def read_origins(folder: Path) -> tuple[list[Hashes], list[Hashes]]:
    """(weights that are the release's, weights of its base): each a set of files under the names it was measured by."""
    own = [weight_hashes(folder)]
    origin = read_json(folder / ORIGIN) if (folder / ORIGIN).is_file() else {}
    return [*own, *_listed(origin.get("model"))], _listed(origin.get("base"))


def _listed(hashes: Hashes | None) -> list[Hashes]:
    return [hashes] if hashes else []
