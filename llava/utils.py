"""Small helpers under the names of the public package. Importing this sets nothing up: no log files, no handlers."""

from __future__ import annotations

import json
import logging
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

logger = logging.getLogger(__name__)


def disable_torch_init() -> None:
    """Do nothing; kept because clients call it before loading a model.

    In the public package it replaces `reset_parameters` of Linear and LayerNorm for the whole process, to save the time
    of drawing weights that a checkpoint overwrites. `from_pretrained` has long skipped that by itself.
    """


def rank0_print(*parts: object) -> None:
    """Log a message at level INFO in the first process of a distributed run, and nothing in the others."""
    if os.environ.get("RANK", "0") == "0":
        logger.info(" ".join(str(part) for part in parts))


def listed(names: Sequence[str], most: int) -> str:
    """Names in a line, the first of many.

    >>> listed(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place when the block ends well and is removed when it does not.

    A reader sees the old file or the new one, never a half, whoever else writes it; folders are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}.partial")
    try:
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    with atomic_path(Path(path)) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: str | Path, value: Any, indent: int = 2) -> None:
    """Write a JSON file whole or not at all."""
    write_text(path, json.dumps(value, indent=indent) + "\n")


def give_usual_mode(file: Path) -> None:
    """Give a file the mode new files get here (0644 under umask 022).

    safetensors writes through a temporary file that only its owner may read, and leaves it so.
    """
    sample = file.with_name(f".{file.name}.{uuid4().hex[:8]}.mode")
    sample.touch()
    try:
        file.chmod(stat.S_IMODE(sample.stat().st_mode))
    finally:
        sample.unlink()
