"""Where the rows of a run come from: one LLaVA file, or a list of such files with a share of each.

A list is a YAML file (`.yaml`, `.yml`) in the format of LLaVA-NeXT:

    seed: 0                                      # of the random shares; 0 when left out
    datasets:
      - json_path: playground/data/llava_v1_5_mix665k.json
        sampling_strategy: random:10%
      - json_path: playground/data/charts.jsonl
        image_folder: playground/data/charts     # else the run's --image_folder
        sampling_strategy: first:5000

`sampling_strategy` is `all` (or left out), `first:N`, `end:N` or `random:N`; `N%` is that share, rounded up. `random`
draws by a hash of seed, index and id, as manifests do (`llava.data.subset`): the same rows on every platform, and a
larger share holds a smaller one. Rows keep the order of their file, files that of the list.
"""

import logging
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from llava.data.rows import Row, images_of, scan_rows
from llava.data.subset import Subset, rank
from llava.provenance import sha256_file

logger = logging.getLogger(__name__)

SUFFIXES = (".yaml", ".yml")
KEYS = ("json_path", "image_folder", "sampling_strategy")
STRATEGY = re.compile(r"(first|end|random):(\d+)(%?)")


@dataclass(frozen=True, slots=True)
class Origin:
    """The place of a row: its file and its index there."""

    file: Path
    index: int


@dataclass(frozen=True)
class SetRecord:
    """What was taken from one file, for run.json."""

    json_path: str
    sha256: str
    image_folder: str | None
    sampling_strategy: str
    available: int
    chosen: int


@dataclass(frozen=True)
class Chosen:
    """The rows of a run and where each comes from. `sets` is empty for a single file, `bad` counts rows left out."""

    rows: list[Row]
    origins: list[Origin]
    sets: tuple[SetRecord, ...] = ()
    bad: int = 0

    def with_images(self) -> "Chosen":
        """Without the text-only rows. Raises: ValueError when no row is left."""
        kept = [number for number, row in enumerate(self.rows) if images_of(row)]
        if not kept:
            raise ValueError("skip_text_only leaves no row: none of the data has an image")
        return replace(self, rows=[self.rows[n] for n in kept], origins=[self.origins[n] for n in kept])

    def describe_sets(self) -> list[dict[str, Any]]:
        return [asdict(record) for record in self.sets]


def choose_rows(data_path: str | Path, subset_manifest: str | Path | None = None, max_bad_rows: int = 0) -> Chosen:
    """Read and check the rows a run trains on.

    Args:
        data_path: a LLaVA JSON or JSON-lines file, or a list of sets.
        subset_manifest: take these rows of the file only.
        max_bad_rows: so many rows, of all files together, may break the format; they are logged and left out.

    Raises:
        ValueError: broken data (see `llava.data.rows`) or list; a manifest of another file, or of a list.
    """
    path = Path(data_path)
    if path.suffix in SUFFIXES:
        if subset_manifest:
            raise ValueError(
                f"subset_manifest {subset_manifest} names rows of one file, but data_path {path} is a list; give the "
                "file itself, or shares in the list (sampling_strategy)"
            )
        return _from_list(path, max_bad_rows)
    rows, bad = scan_rows(path, max_bad_rows)
    chosen = Subset.load(subset_manifest).apply(rows, path) if subset_manifest else range(len(rows))
    kept = [index for index in chosen if index not in bad]
    return Chosen([rows[index] for index in kept], [Origin(path, index) for index in kept], bad=len(bad))


def _from_list(path: Path, max_bad_rows: int) -> Chosen:
    found = Chosen([], [])
    entries, seed = read_list(path)
    for number, entry in enumerate(entries):
        file = Path(entry["json_path"])
        strategy, folder = entry.get("sampling_strategy", "all"), entry.get("image_folder")
        rows, bad = scan_rows(file, max_bad_rows - found.bad)
        sound = [index for index in range(len(rows)) if index not in bad]
        try:
            kept = sample(sound, rows, strategy, seed)
        except ValueError as error:
            raise ValueError(f"{path} entry {number} ({file}): {error}") from error
        record = SetRecord(str(file), sha256_file(file), folder, strategy, len(rows), len(kept))
        found = Chosen(
            found.rows + [_placed(rows[index], folder) for index in kept],
            found.origins + [Origin(file, index) for index in kept],
            (*found.sets, record),
            found.bad + len(bad),
        )
        logger.info("%s: %d of %d rows (%s)", file, len(kept), len(rows), strategy)
    return found


def read_list(path: Path) -> tuple[list[dict[str, str]], int]:
    """The entries of a list of sets, and its seed. Raises: ValueError naming file, entry and key."""
    if not path.is_file():
        raise ValueError(f"list of data sets {path} does not exist; check --data_path")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    content = content if isinstance(content, dict) else {}
    entries, seed = content.get("datasets"), content.get("seed", 0)
    if not isinstance(entries, list) or not entries or set(content) - {"datasets", "seed"} or type(seed) is not int:
        raise ValueError(f"{path}: expected a list of entries under 'datasets', and at most a number under 'seed'")
    for number, entry in enumerate(entries):
        texts = isinstance(entry, dict) and all(isinstance(value, str) for value in entry.values())
        if not texts or "json_path" not in entry:
            raise ValueError(f"{path} entry {number}: expected text under 'json_path' and the like, got {entry!r}")
        unknown = sorted(set(entry) - set(KEYS))
        if unknown:
            raise ValueError(f"{path} entry {number}: unknown key {unknown[0]!r}; known are {', '.join(KEYS)}")
    return entries, seed


def sample(indices: Sequence[int], rows: Sequence[Row], strategy: str, seed: int) -> list[int]:
    """The indices a sampling strategy keeps, ascending. Raises: ValueError for an unknown strategy, or too few rows."""
    if strategy == "all":
        return list(indices)
    match = STRATEGY.fullmatch(strategy)
    if match is None:
        raise ValueError(f"sampling_strategy {strategy!r}; expected all, first:N, end:N or random:N, with N or N%")
    kind, number, percent = match[1], int(match[2]), bool(match[3])
    count = math.ceil(number * len(indices) / 100) if percent else number
    if not 0 < count <= len(indices):
        raise ValueError(f"sampling_strategy {strategy!r} asks for {count} of {len(indices)} rows")
    if kind == "first":
        return list(indices[:count])
    if kind == "end":
        return list(indices[-count:])
    ranked = sorted(indices, key=lambda index: rank(seed, index, rows[index]))
    return sorted(ranked[:count])


def _placed(row: Row, folder: str | None) -> Row:
    """The row with image paths that hold from anywhere, where its set has a folder of its own."""
    images = images_of(row)
    if folder is None or not images:
        return row
    return row | {"image": [str(Path(folder).absolute() / image) for image in images]}
