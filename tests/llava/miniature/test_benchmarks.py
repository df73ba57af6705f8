"""The written world has LLaVA's own schema, and no scene of one split leaks into another."""

import json
from pathlib import Path

import pytest
from PIL import Image

from llava.eval.judge.benchmarks import BENCHMARKS
from llava.miniature import benchmarks
from llava.miniature.benchmarks import MIX_FILE, mix_row, write_mix, write_world
from llava.miniature.world import SPLITS, split_of


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world")
    assert write_world(out, rows=60, questions=12, workers=1)
    return out


def test_the_mix_has_the_public_schema(world: Path) -> None:
    rows = json.loads((world / MIX_FILE).read_text())
    assert len(rows) == 60 and len({row["id"] for row in rows}) == 60
    for row in rows:
        speakers = [turn["from"] for turn in row["conversations"]]
        assert speakers == ["human", "gpt"] * (len(speakers) // 2) and len(speakers) >= 4
        placeholders = sum(turn["value"].count("<image>") for turn in row["conversations"])
        assert placeholders == ("image" in row)
        if "image" in row:
            assert row["conversations"][0]["value"].startswith("<image>\n")
            with Image.open(world / row["image"]) as picture:
                assert picture.mode == "RGB"
    folders = {row["image"].rsplit("/", 1)[0] for row in rows if "image" in row}
    assert folders <= {"coco/train2017", "gqa/images", "ocr_vqa/images", "textvqa/train_images", "vg/VG_100K"}


def test_the_mix_is_of_the_tune_split(world: Path) -> None:
    """The twins' scenes are all of the test split: eval_sets/test_eval_sets.py."""
    assert {split_of(int(row["id"])) for row in json.loads((world / MIX_FILE).read_text())} == {"tune"}


def test_rows_of_another_split_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"seed 2000000 belongs to split 'test', not to 'tune'"):
        write_mix(tmp_path, "mix.json", SPLITS["test"][:3], "tune", workers=1)


def test_all_twelve_twins_are_named(world: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert write_world(world, rows=60, questions=9, workers=1)
    named = {line.split()[2].rstrip(":") for line in caplog.messages if line.startswith("eval set ")}
    assert named == set(BENCHMARKS) - {"seed_image"} and len(named) == 12
    assert write_world(world, rows=60, questions=12, workers=1)


def test_a_finished_world_is_kept_and_a_torn_one_is_made_again(world: Path) -> None:
    assert not write_world(world, rows=60, questions=12, workers=1)
    asked = world / "eval" / "gqa" / "llava_gqa_testdev_balanced.jsonl"
    whole = asked.read_text()
    (world / "world.json").unlink()
    asked.write_text("torn")
    (world / MIX_FILE).write_text("torn")
    assert write_world(world, rows=60, questions=12, workers=1)
    assert asked.read_text() == whole and len(json.loads((world / MIX_FILE).read_text())) == 60


def test_other_eval_sets_leave_the_mix_alone(world: Path) -> None:
    """Training may be reading it."""
    before = {path: path.stat().st_mtime_ns for path in (world / MIX_FILE, *(world / "coco").rglob("*.jpg"))}
    assert write_world(world, rows=60, questions=10, workers=1)
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert write_world(world, rows=60, questions=12, workers=1)


def test_a_world_whose_eval_sets_are_torn_is_not_complete(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(benchmarks, "write_eval", stop)
        write_world(world, rows=60, questions=11, workers=1)
    assert write_world(world, rows=60, questions=12, workers=1)


def test_every_seed_gives_a_row() -> None:
    """Scenes exist that allow none of a source's questions; their rows must not be empty."""
    assert all(len(mix_row(seed)[0]["conversations"]) >= 2 for seed in range(3000))
