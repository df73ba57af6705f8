"""The tower's output for every image of a training set, on disk.

A frozen tower gives the same features for an image in every epoch and every run, and VisionZip does not look at the
text: they are computed once (`python -m llava.train.cache_features`) and read instead of the image ever after.

A cache is a folder:

    cache.json           the key: tower, compressor, preprocessing and dtype the features belong to
    shard-*.safetensors    "features" [sum T, K, C] and "positions" [sum T, K] of some images, tile after tile
    shard-*.json           which images: path -> first tile, tiles, (width, height), file size, mtime, sha256

Names of shards begin with the time and end in a random part, so any number of programs may fill one cache.

A shard counts once its .json is there, which is written last; so filling may be interrupted, and goes on. A cache of
another key is refused. An image whose file changed (size or time, then its hash) is computed again; where only the time
did, as after a copy, the new time is noted, so that the hash is made once.
"""

import json
import logging
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from llava.encoded import EncodedImages
from llava.provenance import sha256_file
from llava.utils import give_usual_mode, write_json

logger = logging.getLogger(__name__)

KEY_FILE = "cache.json"
SHARD_BYTES = 64 * 2**20


@dataclass(frozen=True)
class CachedImage:
    """Where an image's tiles lie in its shard, and the file they were made from. `mtime_ns`: its modification time."""

    first: int
    tiles: int
    width: int
    height: int
    bytes: int
    mtime_ns: int
    sha256: str


class FeatureCache:
    """Reads a cache folder. Images are known by their path as the run writes it (`image_folder` / path of the row).

    Args:
        folder: of the cache; an empty or missing one is an empty cache.
        key: what the features must belong to, JSON values only.

    Raises:
        ValueError: the folder holds features of another key (the differences are named), or is damaged.
    """

    def __init__(self, folder: str | Path, key: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self.has_cls = bool(key["has_cls"])
        self._images: dict[str, tuple[Path, CachedImage]] = {}
        self._open: dict[Path, Any] = {}
        if not (self.folder / KEY_FILE).is_file():
            if self.folder.is_dir() and any(file.suffix != ".partial" for file in self.folder.iterdir()):
                raise ValueError(
                    f"--feature_cache {folder} holds files but no {KEY_FILE}: it is no cache; name another"
                )
            return
        _require_same(json.loads((self.folder / KEY_FILE).read_text(encoding="utf-8")), dict(key), self.folder)
        for index in sorted(self.folder.glob("shard-*.json")):  # of two entries of an image the later holds
            shard = index.with_suffix(".safetensors")
            if not shard.is_file():
                raise ValueError(
                    f"{index} has no {shard.name} beside it; remove the index, the rest of the cache holds"
                )
            for path, entry in json.loads(index.read_text(encoding="utf-8")).items():
                self._images[path] = (shard, CachedImage(**entry))

    def __len__(self) -> int:
        return len(self._images)

    def __contains__(self, file: Path) -> bool:
        return str(file) in self._images

    def missing(self, files: Iterable[Path]) -> list[Path]:
        """The files whose features are not here, or were made from another content; each once, in order."""
        touched: dict[Path, dict[str, int]] = {}
        missing = [file for file in dict.fromkeys(files) if not self._has(file, touched)]
        for shard, times in touched.items():
            self._note_times(shard, times)
        return missing

    def _has(self, file: Path, touched: dict[Path, dict[str, int]]) -> bool:
        """Whether the file is the one its features were made from; a new time of such a one goes into `touched`."""
        if str(file) not in self._images or not file.is_file():
            return False
        shard, image = self._images[str(file)]
        stat = file.stat()
        if (stat.st_size, stat.st_mtime_ns) == (image.bytes, image.mtime_ns):
            return True
        if stat.st_size != image.bytes or sha256_file(file) != image.sha256:
            return False
        touched.setdefault(shard, {})[str(file)] = stat.st_mtime_ns
        return True

    def _note_times(self, shard: Path, times: Mapping[str, int]) -> None:
        """Write new modification times into the index of a shard; a cache that cannot be written stays as it is."""
        index = shard.with_suffix(".json")
        entries = json.loads(index.read_text(encoding="utf-8"))
        for path, mtime in times.items():
            entries[path]["mtime_ns"] = mtime
        try:
            write_json(index, entries, indent=1)
        except OSError as error:
            logger.warning("%d images are hashed at every start: %s cannot be written (%s)", len(times), index, error)

    def read(self, file: Path) -> tuple[EncodedImages, tuple[int, int]]:
        """One image's features and (width, height). Raises: ValueError when it is not here or its shard is broken."""
        if str(file) not in self._images:
            raise ValueError(f"image {file} is not in the feature cache {self.folder}; fill it again (same command)")
        shard, image = self._images[str(file)]
        rows = slice(image.first, image.first + image.tiles)
        try:
            features, positions = self._tensor(shard, "features", rows), self._tensor(shard, "positions", rows)
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"{shard} is damaged ({error}); remove it with its .json and fill the cache again"
            ) from error
        return self._encoded(features, positions), (image.width, image.height)

    def blank(self) -> EncodedImages:
        """One tile of zeros, which a text-only row owns without using it. Raises: ValueError for an empty cache."""
        if not self._images:
            raise ValueError(f"the feature cache {self.folder} is empty")
        shard, _ = next(iter(self._images.values()))
        features, positions = (self._tensor(shard, name, slice(0, 1)) for name in ("features", "positions"))
        return self._encoded(torch.zeros_like(features), positions)

    def _encoded(self, features: Tensor, positions: Tensor) -> EncodedImages:
        tiles = torch.tensor([len(features)])
        return {"features": features, "positions": positions, "tiles": tiles, "has_cls": self.has_cls}

    def _tensor(self, shard: Path, name: str, rows: slice) -> Tensor:
        if shard not in self._open:
            self._open[shard] = safe_open(shard, framework="pt")
        tensor: Tensor = self._open[shard].get_slice(name)[rows]
        return tensor


class CacheWriter:
    """Adds images to a cache folder, a shard at a time; used in a `with`, whose end writes the last shard.

    Args:
        folder: of the cache.
        key: see `FeatureCache`.
    """

    def __init__(self, folder: str | Path, key: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / KEY_FILE).exists():
            write_json(self.folder / KEY_FILE, dict(key), indent=1)
        self._clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()  # also after an error: what was computed is kept

    def _clear(self) -> None:
        self._features: list[Tensor] = []
        self._positions: list[Tensor] = []
        self._entries: dict[str, Any] = {}
        self._tiles = self._bytes = 0

    def add(self, file: Path, features: Tensor, positions: Tensor, size: tuple[int, int]) -> None:
        """Keep an image's features [T, K, C] and positions [T, K], and write the shard when it is full."""
        stat = file.stat()
        image = CachedImage(self._tiles, len(features), *size, stat.st_size, stat.st_mtime_ns, sha256_file(file))
        self._entries[str(file)] = asdict(image)
        self._features.append(features.cpu())
        self._positions.append(positions.cpu())
        self._tiles += len(features)
        self._bytes += features.nbytes
        if self._bytes >= SHARD_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what was added since the last shard as a shard of its own."""
        if not self._entries:
            return
        shard = self.folder / f"shard-{time.time_ns():020d}-{uuid4().hex[:8]}.safetensors"
        partial = shard.with_suffix(".partial")
        save_file({"features": torch.cat(self._features), "positions": torch.cat(self._positions)}, partial)
        give_usual_mode(partial)
        os.replace(partial, shard)
        write_json(shard.with_suffix(".json"), self._entries, indent=1)
        self._clear()


def _require_same(found: Mapping[str, Any], wanted: Mapping[str, Any], folder: Path) -> None:
    wanted = json.loads(json.dumps(wanted))  # tuples as JSON has them
    differing = [name for name in sorted(found.keys() | wanted.keys()) if found.get(name) != wanted.get(name)]
    if differing:
        shown = "; ".join(f"{name}: {found.get(name)!r} there, {wanted.get(name)!r} here" for name in differing)
        raise ValueError(
            f"--feature_cache {folder} was made for another run and cannot be used ({shown}). Name another folder"
        )
