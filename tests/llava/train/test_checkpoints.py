"""Which checkpoint a run goes on from."""

from pathlib import Path

import pytest

from llava.train.trainer import last_checkpoint, missing_parts

PROJECTOR = ("trainer_state.json", "mm_projector.bin", "optimizer.pt", "rng_state.pth")
SHARDED = ("trainer_state.json", "model-00001-of-00002.safetensors", "latest", "rng_state_1.pth")


def write(folder: Path, names: tuple[str, ...]) -> Path:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).touch()
    return folder


@pytest.mark.parametrize("names", [PROJECTOR, SHARDED])
def test_newest_complete_one(tmp_path: Path, names: tuple[str, ...]) -> None:
    write(tmp_path / "checkpoint-9", names)
    newest = write(tmp_path / "checkpoint-10", names)
    write(tmp_path / "checkpoint-best", names)
    assert last_checkpoint(tmp_path) == newest


@pytest.mark.parametrize("lost", PROJECTOR)
def test_incomplete_one_is_passed_over(tmp_path: Path, lost: str, caplog: pytest.LogCaptureFixture) -> None:
    older = write(tmp_path / "checkpoint-1", PROJECTOR)
    newer = write(tmp_path / "checkpoint-2", tuple(name for name in PROJECTOR if name != lost))
    assert last_checkpoint(tmp_path) == older
    assert str(newer) in caplog.text
    assert len(missing_parts(newer)) == 1


def test_nothing_to_go_on_from(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path / "none") is None
    write(tmp_path / "incomplete" / "checkpoint-3", PROJECTOR)
    assert last_checkpoint(tmp_path) is None
