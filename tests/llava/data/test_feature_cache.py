"""The cache folder: what is written is read, what does not belong is refused, what changed is computed again."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llava.data import feature_cache
from llava.data.feature_cache import CacheWriter, FeatureCache

KEY = {"tower_sha256": "ab", "compressor": {"method": "visionzip", "dominant": 3, "contextual": 1}, "has_cls": True}


def tokens(tiles: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tiles, 4, 6, generator=generator).bfloat16(), torch.full((tiles, 4), seed)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{name}.png" for name in "abc"]
    for path in paths:
        path.write_text(f"picture {path.name}")
    return paths


def fill(folder: Path, files: list[Path]) -> None:
    with CacheWriter(folder, KEY) as cache:
        for number, file in enumerate(files, start=1):
            cache.add(file, *tokens(number, number), (10 * number, 20))


def test_every_image_reads_back_as_it_was_written(tmp_path: Path, files: list[Path]) -> None:
    fill(tmp_path / "cache", files)
    cache = FeatureCache(tmp_path / "cache", KEY)
    assert len(cache) == 3
    assert cache.missing([*files, files[0]]) == []
    for number, file in enumerate(files, start=1):
        image, size = cache.read(file)
        features, positions = tokens(number, number)
        assert torch.equal(image["features"], features)
        assert image["features"].dtype == torch.bfloat16
        assert torch.equal(image["positions"], positions)
        assert image["tiles"].tolist() == [number]
        assert image["has_cls"] is True
        assert size == (10 * number, 20)
    blank = cache.blank()
    assert blank["features"].shape == (1, 4, 6)
    assert not blank["features"].any()


def test_shards_split_by_size(tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_cache, "SHARD_BYTES", 1)
    fill(tmp_path / "cache", files)
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 3
    assert len(FeatureCache(tmp_path / "cache", KEY)) == 3


def test_two_programs_may_fill_one_cache(tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """One writes its shard between another's shard and index: neither takes the other's features for its own."""
    one, other = (CacheWriter(tmp_path / "cache", KEY) for _ in range(2))
    one.add(files[0], *tokens(1, 1), (10, 20))
    other.add(files[1], *tokens(2, 2), (10, 20))
    write = feature_cache.write_json

    def interleaved(*args: object, **kwargs: object) -> None:
        monkeypatch.setattr(feature_cache, "write_json", write)
        other.flush()
        write(*args, **kwargs)

    monkeypatch.setattr(feature_cache, "write_json", interleaved)
    one.flush()
    cache = FeatureCache(tmp_path / "cache", KEY)
    for number, file in enumerate(files[:2], start=1):
        assert torch.equal(cache.read(file)[0]["features"], tokens(number, number)[0])


def test_a_killed_start_is_no_foreign_folder(tmp_path: Path) -> None:
    (tmp_path / "cache.json.abc.partial").write_text("{")
    assert len(FeatureCache(tmp_path, KEY)) == 0


def test_what_was_computed_before_an_error_is_kept(tmp_path: Path, files: list[Path]) -> None:
    with pytest.raises(RuntimeError), CacheWriter(tmp_path / "cache", KEY) as cache:
        cache.add(files[0], *tokens(1, 1), (1, 1))
        raise RuntimeError("killed")
    assert FeatureCache(tmp_path / "cache", KEY).missing(files) == files[1:]


def test_a_shard_without_its_index_does_not_count(tmp_path: Path, files: list[Path]) -> None:
    fill(tmp_path / "cache", files)
    next((tmp_path / "cache").glob("shard-*.json")).unlink()
    assert FeatureCache(tmp_path / "cache", KEY).missing(files) == files


def test_a_changed_image_is_missing_and_a_touched_one_is_not(tmp_path: Path, files: list[Path]) -> None:
    fill(tmp_path / "cache", files)
    files[0].write_text("picture A.png")  # same size, other content
    os.utime(files[0], ns=(1, 1))
    os.utime(files[1], ns=(1, 1))
    assert FeatureCache(tmp_path / "cache", KEY).missing(files) == [files[0]]
    fill(tmp_path / "cache", files[:1])
    assert FeatureCache(tmp_path / "cache", KEY).missing(files) == []


def test_a_copied_image_is_hashed_once(tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "cache", files)
    for file in files:
        os.utime(file, ns=(1, 1))
    assert FeatureCache(tmp_path / "cache", KEY).missing(files) == []
    monkeypatch.setattr(feature_cache, "sha256_file", lambda file: pytest.fail(f"{file} is hashed again"))
    cache = FeatureCache(tmp_path / "cache", KEY)
    assert cache.missing(files) == []
    assert torch.equal(cache.read(files[1])[0]["features"], tokens(2, 2)[0])
    assert not list((tmp_path / "cache").glob("*.partial"))


def test_a_copied_image_over_a_cache_that_cannot_be_written_is_read(
    tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path / "cache", files)
    os.utime(files[0], ns=(1, 1))

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(feature_cache, "write_json", refuse)
    assert FeatureCache(tmp_path / "cache", KEY).missing(files) == []
    assert "1 images are hashed at every start" in caplog.text


def test_a_cache_of_another_run_is_refused(tmp_path: Path, files: list[Path]) -> None:
    fill(tmp_path / "cache", files)
    with pytest.raises(ValueError, match=r"tower_sha256: 'ab' there, 'cd' here.*another folder"):
        FeatureCache(tmp_path / "cache", KEY | {"tower_sha256": "cd"})
    with pytest.raises(ValueError, match="compressor"):
        FeatureCache(tmp_path / "cache", KEY | {"compressor": None})


def test_a_folder_of_something_else_is_refused(tmp_path: Path, files: list[Path]) -> None:
    with pytest.raises(ValueError, match="no cache"):
        FeatureCache(tmp_path, KEY)
    assert len(FeatureCache(tmp_path / "new", KEY)) == 0


def test_what_is_not_there_is_named(tmp_path: Path, files: list[Path]) -> None:
    fill(tmp_path / "cache", files[:1])
    cache = FeatureCache(tmp_path / "cache", KEY)
    with pytest.raises(ValueError, match=r"b\.png is not in the feature cache"):
        cache.read(files[1])
    assert cache.missing([tmp_path / "nowhere.png"]) == [tmp_path / "nowhere.png"]
    assert files[0] in cache
    assert files[1] not in cache
    with pytest.raises(ValueError, match="empty"):
        FeatureCache(tmp_path / "new", KEY).blank()


def test_a_damaged_shard_is_named(tmp_path: Path, files: list[Path]) -> None:
    fill(tmp_path / "cache", files)
    shard = next((tmp_path / "cache").glob("*.safetensors"))
    assert set(load_file(shard)) == {"features", "positions"}
    shard.write_bytes(shard.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"shard-.*\.safetensors is damaged"):
        FeatureCache(tmp_path / "cache", KEY).read(files[0])
    shard.unlink()
    with pytest.raises(ValueError, match=r"has no shard-.*\.safetensors"):
        FeatureCache(tmp_path / "cache", KEY)
