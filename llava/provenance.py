"""Where a number comes from: the stamp every result file carries, and the hash every input file is known by.

A stamp names the commit, the versions, the device and the command, and holds nothing of the machine it was made on:
paths below the working directory are written relative to it, other absolute paths are cut to their last component.
"""

import hashlib
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

__all__ = ["DISTRIBUTION", "device_name", "sha256_file", "stamp", "without_machine_paths"]

DISTRIBUTION = "llava-visionzip"
STAMPED_PACKAGES = (
    "torch",
    "torchvision",
    "transformers",
    "deepspeed",
    "accelerate",
    "peft",
    "bitsandbytes",
    "lmms-eval",
    "vllm",
    DISTRIBUTION,
)
_HASH_BLOCK = 1 << 20
# An absolute path inside a longer text, two slashes at least: "tokens/s" and "https://host/page" are none.
_ABSOLUTE = re.compile(r"(?<![\w.:/~-])(?:~?/)[^\s:,;'\"=/]+/[^\s:,;'\"=]*")


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Hex SHA-256 of a file's bytes, read in blocks.

    Raises:
        ValueError: if there is no such file.
    """
    file = Path(path)
    if not file.is_file():
        raise ValueError(
            f"cannot hash {file}: expected a file, found {'a folder' if file.is_dir() else 'nothing'} there"
        )
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(_HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def without_machine_paths(value: Any, root: Path | None = None) -> Any:
    """Copy of a JSON-like value whose strings name no place of this machine.

    A path below `root` (default: the working directory) becomes relative to it; any other absolute path keeps only its
    last component. `Path` objects become strings; torch dtypes and devices, too.
    """
    base = Path.cwd() if root is None else root
    if isinstance(value, Mapping):
        return {str(key): without_machine_paths(item, base) for key, item in value.items()}
    if isinstance(value, str):
        if value.startswith("/") and os.path.exists(value):  # a path with blanks in it, or of one component
            return _shorten(value, base)
        return _ABSOLUTE.sub(lambda match: _shorten(match.group(0), base), value)
    if isinstance(value, (torch.dtype, torch.device)):
        return str(value).removeprefix("torch.")
    if isinstance(value, os.PathLike):
        return _shorten(os.fspath(value), base)
    if isinstance(value, (Sequence, set, frozenset)) and not isinstance(value, (bytes, bytearray)):
        items = sorted(value) if isinstance(value, (set, frozenset)) else value
        return [without_machine_paths(item, base) for item in items]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    raise ValueError(f"a stamp holds JSON values, paths, dtypes and devices; got {type(value).__name__}: {value!r}")


def stamp(**extra: Any) -> dict[str, Any]:
    """JSON-serialisable record of what produced a result.

    Keys: commit, dirty (None outside a checkout), date (UTC), python, platform, versions (installed packages only),
    device, dtype (torch's default unless given), command, and whatever `extra` adds or replaces, e.g.
    `stamp(seed=0, dtype="bfloat16")`.
    """
    commit, dirty = _commit(_package_root())
    record = {
        "commit": commit,
        "dirty": dirty,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "versions": _versions(),
        "device": device_name(),
        "dtype": torch.get_default_dtype(),
        "command": _command(sys.argv),
    }
    record.update(extra)
    cleaned: dict[str, Any] = without_machine_paths(record)
    return cleaned


def _shorten(text: str, root: Path) -> str:
    path = Path(text).expanduser()
    if not path.is_absolute():
        return text
    return str(path.relative_to(root)) if path.is_relative_to(root) else path.name


def _package_root() -> Path:
    return Path(__file__).resolve().parent.parent


def _commit(root: Path) -> tuple[str, bool | None]:
    """Commit and dirty flag of the checkout this package runs from.

    LLAVA_COMMIT goes before it: for a copy of a commit's files whose .git is missing or older, as on a cluster's node.
    The flag is None then, and where name and version stand in for a commit because the package is installed.
    """
    told = os.environ.get("LLAVA_COMMIT")
    head = None if told or not (root / ".git").exists() else _git(root, "rev-parse", "HEAD")
    if head is None:
        return told or f"{DISTRIBUTION} {_version(DISTRIBUTION) or 'unknown'}", None
    # results/ holds what runs write, this one perhaps: it changes nothing that runs.
    return head, bool(_git(root, "status", "--porcelain", "--", ".", ":(exclude)results"))


def _git(root: Path, *arguments: str) -> str | None:
    """Output of one git command, None where git or the commit is missing."""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


@cache
def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _versions() -> dict[str, str]:
    installed = {package: found for package in STAMPED_PACKAGES if (found := _version(package)) is not None}
    return installed | {"torch": torch.__version__}  # torch's own string also names its CUDA build


def device_name(kind: str | None = None) -> str:
    """Name of the accelerator, or the CPU's architecture and the thread count torch uses.

    kind: "cuda" or "cpu", what was used; None: the accelerator if there is one.
    """
    if kind != "cpu" and torch.cuda.is_available():
        count = torch.cuda.device_count()
        return f"{count} x {torch.cuda.get_device_name(0)}" if count > 1 else torch.cuda.get_device_name(0)
    return f"cpu ({platform.machine()}, {torch.get_num_threads()} threads)"


def _command(argv: Sequence[str]) -> str:
    """The command line as typed, with `python -m package.module` written back for modules of this package."""
    program, arguments = (argv[0] if argv else ""), list(argv[1:])
    path = Path(program).resolve() if program else Path()
    root = _package_root()
    if path.suffix == ".py" and path.is_relative_to(root) and path.relative_to(root).parts[0] in {"llava", "visionzip"}:
        module = ".".join(path.relative_to(root).with_suffix("").parts)
        head = ["python", "-m", module]
    else:
        head = [path.name] if program else []
    return shlex.join([*head, *arguments])
