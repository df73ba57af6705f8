"""Which part of the questions this process answers, and where it writes while others answer the rest."""

import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
_LOADED = time.time()
_START_FIELD = 19  # of /proc/self/stat behind the program's name: start in clock ticks since boot


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count`; the default is everything.

    Raises:
        ValueError: index outside 0..count-1.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(
                f"expected 0 <= chunk index < number of chunks, got index {self.index} of {self.count} chunks"
            )

    def take(self, items: Sequence[T]) -> list[T]:
        """This shard's items: LLaVA's rule, slices of ceil(n / count). With few items the last shards are empty."""
        size = -(-len(items) // self.count)
        return list(items[self.index * size : (self.index + 1) * size])

    def part_file(self, answers_file: Path) -> Path:
        """Where this rank writes before the parts are merged into `answers_file`."""
        return answers_file.with_name(f"{answers_file.stem}.part{self.index}of{self.count}{answers_file.suffix}")


def launched_shard(environ: Mapping[str, str] | None = None) -> Shard | None:
    """The shard of a process started by accelerate or torchrun (RANK, WORLD_SIZE); None when started alone.

    Raises:
        ValueError: the two variables are no numbers or do not fit.
    """
    env = os.environ if environ is None else environ
    if "RANK" not in env or "WORLD_SIZE" not in env:
        return None
    try:
        rank, world = int(env["RANK"]), int(env["WORLD_SIZE"])
    except ValueError as error:
        raise ValueError(
            f"expected whole numbers in RANK and WORLD_SIZE, got {env['RANK']!r}, {env['WORLD_SIZE']!r}"
        ) from error
    return Shard(rank, world) if world > 1 else None


def process_start() -> float:
    """When this process began, in seconds since 1970; where the system does not say, when this file was loaded.

    The ranks of a launch begin together, so what a launch wrote is younger than any of its ranks.
    """
    try:
        fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[_START_FIELD]) / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, IndexError, ValueError):
        return _LOADED
    return time.time() - age


def part_files(answers_file: Path) -> list[Path]:
    """All part files beside `answers_file`, whatever the number of ranks that wrote them."""
    pattern = re.compile(re.escape(answers_file.stem) + r"\.part\d+of\d+" + re.escape(answers_file.suffix))
    if not answers_file.parent.is_dir():
        return []
    return sorted(path for path in answers_file.parent.iterdir() if pattern.fullmatch(path.name))
