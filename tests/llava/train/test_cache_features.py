"""Training on cached features, and on packed rows, is training as it was."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from llava.train import cache_features
from llava.train.cache_features import run
from llava.train.options import parse_args
from llava.train.train import train
from tests.llava.train.test_train import losses, options
from tests.tiny import tiny_anyres_llava
from tests.tiny_checkpoints import TOKENS, write_v16
from tests.tiny_data import write_data
from visionzip import VisionZip


def projector(trainer: Any) -> dict[str, torch.Tensor]:
    return {name: value for name, value in trainer.model.state_dict().items() if "mm_projector" in name}


def assert_same_run(first: Any, second: Any) -> None:
    torch.testing.assert_close(losses(first), losses(second), atol=2e-4, rtol=0)  # the log rounds to four digits
    torch.testing.assert_close(projector(first), projector(second), atol=1e-5, rtol=1e-5)


def test_cached_and_packed_runs_equal_the_plain_one(words: list[str], tmp_path: Path) -> None:
    words = options(words, max_steps=4)
    plain = train(argv=options(words, output_dir=tmp_path / "plain"))
    cached = train(argv=options(words, output_dir=tmp_path / "cached", feature_cache=tmp_path / "features"))
    assert cached.train_dataset.features is not None
    assert isinstance(cached.train_dataset[0]["images"][0], dict)
    packed = train(argv=options(words, output_dir=tmp_path / "packed", pack_sequences=True))
    both = train(
        argv=options(words, output_dir=tmp_path / "both", feature_cache=tmp_path / "features", pack_sequences=True)
    )
    for other in (cached, packed, both):
        assert_same_run(plain, other)
    entry = next(entry for entry in cached.state.log_history if "loss" in entry)
    assert entry["visual_tokens_per_sample"] == next(
        entry["visual_tokens_per_sample"] for entry in plain.state.log_history if "loss" in entry
    )


def test_the_tower_does_not_run_once_the_cache_is_full(words: list[str], tmp_path: Path, data: Path) -> None:
    folder = tmp_path / "images"
    shutil.copytree(data.parent, folder)
    words = options(words, max_steps=2, image_folder=folder, feature_cache=tmp_path / "features")
    cache = run(*parse_args(words))
    assert len(cache) > 0
    for image in folder.rglob("*"):
        if image.suffix in (".png", ".jpg"):
            stat = image.stat()
            image.write_bytes(bytes(stat.st_size))  # no picture any more, but seemingly the same file
            os.utime(image, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert len(losses(train(argv=words))) == 2


def test_a_replaced_image_is_computed_again(words: list[str], tmp_path: Path, data: Path) -> None:
    folder = tmp_path / "images"
    shutil.copytree(data.parent, folder)
    words = options(words, image_folder=folder, feature_cache=tmp_path / "features")
    cache = run(*parse_args(words))
    file = next(path for path in folder.rglob("*.png"))
    before = cache.read(file)[0]["features"]
    Image.new("RGB", (40, 60), "red").save(file)
    after, size = run(*parse_args(words)).read(file)
    assert size == (40, 60)
    assert not torch.equal(before, after["features"])


def test_broken_images_up_to_the_cap_are_left_out(words: list[str], tmp_path: Path, data: Path) -> None:
    folder = tmp_path / "images"
    shutil.copytree(data.parent, folder)
    next(path for path in folder.rglob("*.png")).write_bytes(b"no picture")
    words = options(words, image_folder=folder, feature_cache=tmp_path / "features", max_steps=None, num_train_epochs=1)
    with pytest.raises(ValueError, match="cannot be read"):
        run(*parse_args(words))
    many = options(words, max_bad_rows=9)
    whole = len(run(*parse_args(many)))
    trainer = train(argv=many)
    assert len(trainer.train_dataset.masked.positions()) >= 1
    assert whole == len({*trainer.train_dataset.image_files()}) - 1


def test_a_cache_for_data_without_a_readable_image_is_refused(words: list[str], tmp_path: Path, data: Path) -> None:
    content = [row for row in json.loads(data.read_text()) if "image" not in row]
    (tmp_path / "text.json").write_text(json.dumps(content))
    words = options(words, feature_cache=tmp_path / "features")
    with pytest.raises(ValueError, match="--feature_cache is for rows with images, and this run has none"):
        train(argv=options(words, data_path=tmp_path / "text.json"))
    broken = write_data(tmp_path / "broken", rows=4, text_rows=2)
    for image in broken.parent.rglob("*.png"):
        image.write_bytes(b"no picture")
    with pytest.raises(ValueError, match="no image of the data can be read"):
        train(argv=options(words, data_path=broken, image_folder=broken.parent, max_bad_rows=9))


def test_filling_goes_on_where_it_stopped(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = options(words, feature_cache=tmp_path / "features")
    calls: list[int] = []
    encode = cache_features._encode

    def failing(batch: Any, tower: Any, writer: Any) -> None:
        calls.append(len(batch))
        if len(calls) == 2:
            raise KeyboardInterrupt
        encode(batch, tower, writer)

    monkeypatch.setattr(cache_features, "BATCH", 3)
    monkeypatch.setattr(cache_features, "_encode", failing)
    with pytest.raises(KeyboardInterrupt):
        run(*parse_args(words))
    done = calls[0]
    calls[:] = [0, 0]
    cache = run(*parse_args(words))
    assert sum(calls[2:]) == len(cache) - done


def test_another_budget_is_refused(words: list[str], tmp_path: Path) -> None:
    words = options(words, feature_cache=tmp_path / "features")
    run(*parse_args(words))
    with pytest.raises(ValueError, match=r"compressor.*another folder"):
        run(*parse_args(options(words, zip_dominant=6)))


def test_a_training_tower_and_a_full_disk_are_refused(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = options(words, feature_cache=tmp_path / "features")
    with pytest.raises(ValueError, match="frozen vision tower"):
        train(argv=options(words, tune_mm_mlp_adapter=False, unfreeze_mm_vision_tower=True))
    monkeypatch.setattr(cache_features.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(ValueError, match=r"0\.00 GB are free"):
        train(argv=words)


def test_anyres_features(tmp_path: Path, data: Path, words: list[str]) -> None:
    model = tiny_anyres_llava(tmp_path, vocab_size=TOKENS)
    checkpoint = write_v16(model, tmp_path / "llava-v1.6-tiny", dtype=torch.float32)
    words = options(words, model_name_or_path=checkpoint, max_steps=2)
    plain = train(argv=options(words, output_dir=tmp_path / "plain"))
    assert plain.model.get_vision_tower().compressor == VisionZip(5, 2)
    cached = train(
        argv=options(words, output_dir=tmp_path / "c", feature_cache=tmp_path / "features", pack_sequences=True)
    )
    assert_same_run(plain, cached)
    assert max(cached.train_dataset.features.read(f)[0]["tiles"].item() for f in cached.train_dataset.image_files()) > 1


def test_help() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "llava.train.cache_features", "--help"], capture_output=True, text=True, check=True
    )
    assert "--feature_cache" in done.stdout
