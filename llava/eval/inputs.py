"""What a result was made from: weights, question files, pictures, settings. A finished cell is redone when any of it
changed."""

import hashlib
import json
from functools import cache
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from llava.eval.question_set import QuestionSet
from llava.eval.tasks.base import Benchmark
from llava.provenance import sha256_file

_WEIGHT_PATTERNS = (
    "config.json",
    "*.safetensors",
    "*.bin",
    "tokenizer*",
    "preprocessor_config.json",
    "adapter_config.json",
)
_NOT_WEIGHTS = ("training_args.bin",)


def checkpoint_files(path: str, base: str | None = None) -> dict[str, str]:
    """Name -> sha256 of the files that make up a checkpoint, its base and its vision tower; a hub name stands for
    itself."""
    found: dict[str, str] = {}
    for role, place in (("model", path), ("base", base), ("tower", _tower(path) or _tower(base))):
        if place is None:
            continue
        folder = Path(place)
        if not folder.is_dir():
            found[role] = place
            continue
        files = {file for pattern in _WEIGHT_PATTERNS for file in folder.glob(pattern) if file.name not in _NOT_WEIGHTS}
        found |= {f"{role}/{file.name}": _sha256(file) for file in sorted(files)}
    return found


def task_inputs(benchmark: Benchmark, root: Path, asked: QuestionSet) -> dict[str, str]:
    """Hashes of a benchmark's files, those that are there, and of the pictures asked about."""
    files = (benchmark.questions, *benchmark.annotations)
    hashes = {name: _hash_of(root / name) for name in files if (root / name).exists()}
    return {**hashes, "images": asked.picture_digest()}


def answer_inputs(path: str, base: str | None, asked: QuestionSet, pictures: str) -> dict[str, str]:
    """What answers depend on beside the settings, by name; call it when the model is loaded, so that a hub model's
    revision is known.

    Args:
        pictures: the digest of the pictures asked about.
    """
    weights = checkpoint_files(path, base)
    hub = {role: weights[role] for role in ("model", "base", "tower") if role in weights}
    revisions = {f"revision of {role}": found for role, name in hub.items() if (found := _revision(name)) is not None}
    about = "".join(f"{question.question_id}\t{question.image}\n" for question in asked.questions)
    return {
        **weights,
        **revisions,
        "questions and their pictures": hashlib.sha256(about.encode()).hexdigest(),
        "pictures": pictures,
    }


def _revision(name: str) -> str | None:
    """The commit of a hub model that lies in the cache, None if none does."""
    found = try_to_load_from_cache(name, "config.json")
    return Path(found).parent.name if isinstance(found, str) else None


def _hash_of(place: Path) -> str:
    """sha256 of a file, or of the text files below a folder (MME keeps its references among the pictures)."""
    if place.is_file():
        return _sha256(place)
    digest = hashlib.sha256()
    for file in sorted(place.rglob("*.txt")):
        digest.update(f"{file.relative_to(place).as_posix()}:{_sha256(file)}\n".encode())
    return digest.hexdigest()


def _tower(checkpoint: str | None) -> str | None:
    """The tower a local checkpoint names, where it lies: from the working directory, else beside the checkpoint."""
    config = Path(checkpoint or "") / "config.json"
    if checkpoint is None or not config.is_file():
        return None
    name = json.loads(config.read_text(encoding="utf-8")).get("mm_vision_tower")
    if not name:
        return None
    beside = Path(checkpoint).parent / Path(name).name
    return str(beside) if not Path(name).is_dir() and beside.is_dir() else str(name)


def _sha256(file: Path) -> str:
    status = file.stat()
    return _sha256_of(file, status.st_size, status.st_mtime_ns)


@cache
def _sha256_of(file: Path, _size: int, _modified: int) -> str:
    return sha256_file(file)
