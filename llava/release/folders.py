"""Output folders that are whole or not there, and the small files a checkpoint is made of besides its weights."""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llava.model.weight_files import read_json
from llava.utils import atomic_path

CONFIG = "config.json"
GENERATION = "generation_config.json"
RUN = "run.json"
MANIFEST = "manifest.json"
CARD = "README.md"
TOKENIZER_FILES = (
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


def require_free(out: Path) -> None:
    """Refuse to write where something lies.

    Raises:
        ValueError: `out` is a file, or a folder that is not empty.
    """
    if out.is_dir() and any(out.iterdir()):
        raise ValueError(f"{out} exists and is not empty: name a new folder with --out, or remove this one")
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; expected the name of a new folder")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its place when the block ends well, and is removed when it does not.

    Raises:
        ValueError: as `require_free`.
    """
    require_free(out)
    out = out.absolute()
    staging = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        yield staging
        require_free(out)
        os.replace(staging, out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def copy_files(source: Path, target: Path, names: Iterable[str]) -> list[str]:
    """Copy those of `names` that `source` has; returns them."""
    found = [name for name in names if (source / name).is_file()]
    target.mkdir(parents=True, exist_ok=True)
    for name in found:
        shutil.copyfile(source / name, target / name)
    return found


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_run(folder: Path) -> dict[str, Any]:
    """run.json of a training run, {} where there is none.

    Raises:
        ValueError: the file is broken.
    """
    return read_json(folder / RUN) if (folder / RUN).is_file() else {}
