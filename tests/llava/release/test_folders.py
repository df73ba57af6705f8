"""Output folders are whole or not there."""

from pathlib import Path

import pytest

from llava.release.folders import copy_files, new_folder, read_run, write_json


def test_a_folder_appears_when_it_is_whole(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with new_folder(out) as staging:
        (staging / "a").write_text("1")
        assert not out.exists()
    assert (out / "a").read_text() == "1" and list(out.parent.iterdir()) == [out]


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), new_folder(tmp_path / "out") as staging:
        (staging / "a").write_text("1")
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_a_full_folder_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("mine")
    with pytest.raises(ValueError, match="exists and is not empty: name a new folder"), new_folder(tmp_path):
        pass
    assert (tmp_path / "a").read_text() == "mine"


def test_an_empty_folder_is_taken_and_a_file_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with new_folder(tmp_path / "empty") as staging:
        (staging / "a").touch()
    assert (tmp_path / "empty" / "a").exists()
    with pytest.raises(ValueError, match="is a file"), new_folder(tmp_path / "empty" / "a"):
        pass


def test_files_that_are_there_are_copied(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"stage": "lora"})
    assert copy_files(tmp_path, tmp_path / "to", ("run.json", "none.json")) == ["run.json"]
    assert read_run(tmp_path / "to") == {"stage": "lora"} and read_run(tmp_path / "nowhere") == {}
