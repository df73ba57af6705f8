"""Fill a feature cache: run the frozen tower once over the images of a training set.

    python -m llava.train.cache_features --config configs/train/zip_tune_miniature.yaml --feature_cache runs/features

Options are those of the training the cache is for. A training with --feature_cache fills what is missing by itself
before its first step, every process its share, so this command is for filling ahead, on another machine, or for looking
at the size. On several nodes the folder must be one that all of them see.
"""

import json
import logging
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import set_seed
from transformers.integrations import is_deepspeed_zero3_enabled

from llava.anyres import is_tiled, most_tiles
from llava.data.dataset import LazySupervisedDataset
from llava.data.feature_cache import CacheWriter, FeatureCache
from llava.mm_utils import load_image, process_images
from llava.model.weight_files import digest
from llava.train.arguments import DataArguments, ModelArguments, TrainingArguments
from llava.train.options import parse_args
from llava.train.setup import load_model, make_dataset
from llava.train.stages import TOWER, Stage, choose_stage

logger = logging.getLogger(__name__)

FORMAT = 1
BATCH = 16  # images per call of the tower


def cache_key(tower: Any, config: Any) -> dict[str, Any]:
    """What the features of a tower depend on, as JSON values: its weights, what it selects, how it sees pictures."""
    processor = json.loads(tower.image_processor.to_json_string())
    return {
        "format": FORMAT,
        "tower_sha256": digest(tower.vision_tower.state_dict()),
        "select_layer": tower.select_layer,
        "select_feature": tower.select_feature,
        "compressor": getattr(config, "mm_compressor", None),
        "has_cls": bool(tower.encode(_blank(tower)).has_cls),
        "image_aspect_ratio": getattr(config, "image_aspect_ratio", None),
        "image_grid_pinpoints": getattr(config, "image_grid_pinpoints", None),
        "image_processor": {name: value for name, value in processor.items() if not name.startswith("_")},
        "dtype": str(tower.dtype).removeprefix("torch."),
    }


def _blank(tower: Any) -> torch.Tensor:
    return torch.zeros(1, 3, tower.image_size, tower.image_size, device=tower.device, dtype=tower.dtype)


def require_frozen_tower(stage: Stage) -> None:
    """Raises: ValueError where features would change while training, or cannot be computed before it."""
    if TOWER in stage.parts:
        raise ValueError("--feature_cache needs a frozen vision tower, but this run trains it; leave the flag out")
    if is_deepspeed_zero3_enabled():
        raise ValueError(
            "--feature_cache cannot be filled under ZeRO-3, which shards the tower; take configs/deepspeed/zero2.json"
        )


def fill_cache(
    folder: str | Path, dataset: LazySupervisedDataset, model: Any, device: torch.device, workers: int = 0
) -> FeatureCache:
    """Compute what the cache lacks of a dataset's images, and open it. Called on every process.

    Raises:
        ValueError: a cache of something else, no image, more broken ones than --max_bad_rows, or too little room on
            the disk.
    """
    state = PartialState()
    tower = model.get_vision_tower()
    if tower is None or not any(dataset.has_image):
        raise ValueError("--feature_cache is for rows with images, and this run has none; leave the flag out")
    tower = tower.to(device)
    key = cache_key(tower, model.config)
    cache = FeatureCache(folder, key)
    missing = cache.missing(dataset.image_files())
    if missing:
        _say_size(Path(folder), len(missing), tower, model.config)
    state.wait_for_everyone()  # nobody writes while another still looks
    mine = missing[state.process_index :: state.num_processes]
    broken: list[Path] = []
    with CacheWriter(folder, key) as writer:
        for batch in tqdm(_batches(mine, tower, model.config, workers), "features", disable=not state.is_main_process):
            _note_broken(batch, broken, dataset.masked.allowed)
            _encode([item for item in batch if not isinstance(item[1], ValueError)], tower, writer)
    unread = sorted({str(file) for file in gather_object(broken)})
    if len(unread) > dataset.masked.allowed:
        raise ValueError(
            f"{len(unread)} images cannot be read over all processes, max_bad_rows allows {dataset.masked.allowed}: "
            f"{', '.join(unread[:3])}, ..."
        )
    cache = FeatureCache(folder, key)
    if not len(cache):
        raise ValueError(f"--feature_cache {folder}: no image of the data can be read, the first is {unread[0]}")
    lost = [file for file in mine if file not in cache and file not in broken]
    if lost:
        raise ValueError(
            f"--feature_cache {folder}: {len(lost)} images were written and are not there, first {lost[0]}; is it a "
            "folder of this machine alone, or was it changed meanwhile? All processes must see one folder"
        )
    return cache


def _note_broken(batch: Sequence[Any], broken: list[Path], allowed: int) -> None:
    """Log images that cannot be read. Raises: the error of the first one that --max_bad_rows does not allow."""
    for file, error, _ in batch:
        if isinstance(error, ValueError):
            broken.append(file)
            if len(broken) > allowed:
                raise error
            logger.warning("left out (%d of at most %d): %s", len(broken), allowed, error)


def _say_size(folder: Path, count: int, tower: Any, config: Any) -> None:
    """Log what the cache will take; every process checks the disk before the first image."""
    features = tower.encode(_blank(tower)).features
    tiles = 1
    if is_tiled(getattr(config, "image_aspect_ratio", None)):
        tiles = most_tiles(config.image_grid_pinpoints, tower.image_size)
    need = count * tiles * features.nbytes
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    tokens, width = features.shape[1:]
    most = "at most " if tiles > 1 else ""
    logger.info(
        "features of %d images, %s%d x %d x %d x %d B, go to %s: %s%.3f GB, %.2f GB are free",
        *(count, most, tiles, tokens, width, features.element_size(), folder, most, need / 1e9, free / 1e9),
    )
    if need > free and tiles > 1:
        logger.warning("that may be more than %s has room for", folder)
    elif need > free:
        raise ValueError(
            f"--feature_cache {folder}: the features of {count} images take {need / 1e9:.2f} GB, but only "
            f"{free / 1e9:.2f} GB are free there; name a folder on another disk, or leave the flag out"
        )


def _batches(files: Sequence[Path], tower: Any, config: Any, workers: int) -> Iterator[list[Any]]:
    """Batches of (file, pixels [T, 3, S, S], (width, height)); what is wrong with a file in place of its pixels."""

    def load(file: Path) -> tuple[Path, torch.Tensor | ValueError, tuple[int, int]]:
        try:
            picture = load_image(file)
        except ValueError as error:
            return file, error, (0, 0)
        pixels = process_images([picture], tower.image_processor, config)[0]
        return file, pixels if pixels.dim() == 4 else pixels[None], picture.size

    loaded = DataLoader(_Mapped(files, load), batch_size=BATCH, num_workers=workers, collate_fn=list)
    return iter(loaded)


class _Mapped(torch.utils.data.Dataset[Any]):
    """`load` applied to an item when it is asked for."""

    def __init__(self, items: Sequence[Any], load: Any) -> None:
        self.items, self.load = items, load

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> Any:
        return self.load(self.items[number])


@torch.no_grad()
def _encode(batch: Sequence[Any], tower: Any, writer: CacheWriter) -> None:
    if not batch:
        return
    counts = [len(pixels) for _, pixels, _ in batch]
    tokens = tower.encode(torch.cat([pixels for _, pixels, _ in batch]).to(tower.device, tower.dtype))
    parts = zip(batch, tokens.features.split(counts), tokens.positions.split(counts), strict=True)
    for (file, _, size), features, positions in parts:
        writer.add(file, features, positions, size)


def run(model_args: ModelArguments, data_args: DataArguments, training_args: TrainingArguments) -> FeatureCache:
    """The command, on parsed arguments."""
    if not (data_args.feature_cache and data_args.data_path):
        raise ValueError("--feature_cache FOLDER and --data_path FILE are needed")
    set_seed(training_args.seed)
    stage = choose_stage(model_args, training_args)
    require_frozen_tower(stage)
    model, tokenizer = load_model(model_args, data_args, training_args, stage)
    dataset = make_dataset(model, tokenizer, model_args, data_args)
    return fill_cache(
        data_args.feature_cache, dataset, model, training_args.device, training_args.dataloader_num_workers
    )


def main() -> None:
    if {"-h", "--help"} & set(sys.argv[1:]):
        sys.stdout.write(str(__doc__) + "\nEvery option of python -m llava.train.train may be given.\n")
        return
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    cache = run(*parse_args(sys.argv[1:]))
    logger.info("%s holds the features of %d images", cache.folder, len(cache))


if __name__ == "__main__":
    main()
