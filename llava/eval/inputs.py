"""What a result was made from: weights, question files, pictures, settings. A finished cell is redone when any of it
changed."""

import hashlib
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from llava.eval.records import Question, read_questions
from llava.provenance import sha256_file

_WEIGHT_PATTERNS = ("config.json", "*.safetensors", "*.bin", "tokenizer*", "preprocessor_config.json")
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


def task_files(data: Path, task: str) -> tuple[Path, Path, Path]:
    """(question file, reference file, image folder) of a task.

    Raises:
        ValueError: naming the missing one.
    """
    questions, answers, images = data / task / "questions.jsonl", data / task / "answers.json", data / "images"
    for place, exists in (
        (questions, questions.is_file()),
        (answers, answers.is_file()),
        (images, images.is_dir()),
    ):
        if not exists:
            raise ValueError(
                f"task {task}: {place} is missing; write the miniature's files with "
                f"`python -m llava.miniature.benchmarks --out {data.parent}`"
            )
    return questions, answers, images


def task_inputs(data: Path, task: str, limit: int | None) -> dict[str, str]:
    """Hashes of a task's files; pictures by name and size.

    Raises:
        ValueError: a file is missing or malformed.
    """
    questions, answers, images = task_files(data, task)
    pictures = _picture_digest(images, read_questions(questions)[:limit])
    return {"questions": _sha256(questions), "answers": _sha256(answers), "images": pictures}


def read_references(path: Path) -> dict[str, Any]:
    """answers.json: question id -> {"answer", "answers"}.

    Raises:
        ValueError: not JSON, or no object of objects.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: expected JSON references: {error}") from error
    if not isinstance(raw, dict) or not all(isinstance(value, dict) for value in raw.values()):
        raise ValueError(f"{path}: expected an object of question id -> {{answer, answers}}")
    return raw


def _picture_digest(folder: Path, questions: Iterable[Question]) -> str:
    names = sorted({question.image for question in questions if question.image is not None})
    digest = hashlib.sha256()
    for name in names:
        file = folder / name
        digest.update(f"{name}:{file.stat().st_size if file.is_file() else 'missing'}\n".encode())
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
