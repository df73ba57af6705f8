"""The four ways to step: the same loss, and a record of their speed."""

import json
from pathlib import Path

import pytest

from llava.bench import train_speed
from llava.bench.train_speed import VARIANTS, run
from tests.llava.train.test_train import options


def test_record(words: list[str], tmp_path: Path) -> None:
    words = options(words, max_steps=None, feature_cache=tmp_path / "features", per_device_train_batch_size=2)
    own = ["--rounds", "2", "--micro_batches=3", "--out", str(tmp_path / "speed.json")]
    record = run([*words, *own])
    assert json.loads((tmp_path / "speed.json").read_text()) == record
    assert [row["name"] for row in record["variants"]] == [variant.name for variant in VARIANTS]
    losses = [row["first_loss"] for row in record["variants"]]
    assert losses == pytest.approx([losses[0]] * 4, abs=1e-4)  # the same rows, the same model
    for row in record["variants"]:
        assert len(row["seconds_per_row"]) == 2
        assert row["rows_per_second"] > 0
    assert record["variants"][0]["speedup"] == 1
    assert record["variants"][3]["peak_bytes"] < record["variants"][0]["peak_bytes"]
    assert record["stamp"]["dtype"] == "float32"


def test_it_steps_as_told(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every variant reads what it says: pixels or tokens, packed or not, lean or not."""
    seen = []
    forward = train_speed.Bench.forward

    def spy(self: train_speed.Bench, variant: train_speed.Variant, batch: dict) -> object:  # type: ignore[type-arg]
        seen.append((variant.name, isinstance(batch["images"], dict)))
        return forward(self, variant, batch)

    monkeypatch.setattr(train_speed.Bench, "forward", spy)
    words = options(words, max_steps=None, feature_cache=tmp_path / "features", per_device_train_batch_size=2)
    run([*words, "--rounds=1", "--micro_batches=2"])
    assert set(seen) == {(variant.name, variant.cached) for variant in VARIANTS}


def test_what_is_missing_is_named(words: list[str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--feature_cache FOLDER"):
        run(words)
    with pytest.raises(ValueError, match="--micro_batches 99"):
        run([*words, f"--feature_cache={tmp_path}/f", "--micro_batches", "99"])
