"""A stamp says what made a number and nothing about the machine; hashes name files."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llava import provenance
from llava.provenance import sha256_file, stamp, without_machine_paths


def test_stamp_is_json_and_holds_what_the_report_needs() -> None:
    record = stamp(seed=7, dtype=torch.bfloat16, run=Path("results") / "x.json")
    again = json.loads(json.dumps(record))
    assert again == record
    needed = {"commit", "dirty", "date", "python", "platform", "versions", "device", "dtype", "command", "seed"}
    assert needed <= set(record)
    assert record["seed"] == 7 and record["dtype"] == "bfloat16" and record["run"] == "results/x.json"
    assert record["versions"]["torch"] == torch.__version__
    assert record["date"].endswith("+00:00")


def test_stamp_default_dtype_is_torchs() -> None:
    assert stamp()["dtype"] == str(torch.get_default_dtype()).removeprefix("torch.")


def test_stamp_tells_commit_and_uncommitted_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> str:
        command = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-C", str(tmp_path), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    (tmp_path / "a.txt").write_text("one")
    git("add", "a.txt")
    git("commit", "-q", "-m", "first")
    monkeypatch.setattr(provenance, "_package_root", lambda: tmp_path)
    record = stamp()
    assert (record["commit"], record["dirty"]) == (git("rev-parse", "HEAD"), False)
    (tmp_path / "a.txt").write_text("two")
    assert stamp()["dirty"] is True


def test_stamp_outside_a_checkout_names_the_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "_package_root", lambda: tmp_path)
    record = stamp()
    assert record["commit"].startswith("llava-visionzip ")
    assert record["dirty"] is None


def test_stamp_survives_a_machine_without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert stamp()["commit"].startswith("llava-visionzip ")


def test_a_copy_is_told_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAVA_COMMIT", "0123abc")
    assert stamp()["commit"] == "0123abc"  # although this checkout has a .git
    monkeypatch.delenv("LLAVA_COMMIT")
    monkeypatch.setattr(provenance, "_package_root", lambda: tmp_path)
    assert stamp()["commit"].startswith("llava-visionzip ")
    monkeypatch.setenv("LLAVA_COMMIT", "0123abc")
    assert (stamp()["commit"], stamp()["dirty"]) == ("0123abc", None)


def test_command_is_written_without_places_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = Path(provenance.__file__).resolve().parent / "eval" / "run_llava.py"
    inside, outside = tmp_path / "data" / "q.jsonl", "/home/somebody/private/answers.jsonl"
    monkeypatch.setattr(
        sys, "argv", [str(module), f"--question-file={inside}", "--answers-file", outside, "--query", "a b"]
    )
    assert stamp()["command"] == (
        "python -m llava.eval.run_llava --question-file=data/q.jsonl --answers-file answers.jsonl --query 'a b'"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/me/x/model.bin", "model.bin"),
        ("~/secret/model.bin", "model.bin"),
        ("base=/home/me/x,other=/srv/y/z", "base=x,other=z"),
        ("liuhaotian/llava-v1.5-7b", "liuhaotian/llava-v1.5-7b"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("12 tokens/s / image", "12 tokens/s / image"),
        ("configs/train/a.yaml", "configs/train/a.yaml"),
    ],
)
def test_strings_lose_absolute_paths_only(text: str, expected: str) -> None:
    assert without_machine_paths(text) == expected


def test_paths_below_the_working_directory_become_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    nested = {"files": [tmp_path / "a" / "b.json", f"{tmp_path}/c/d.json"], "n": 1, "none": None, "flags": {"y", "x"}}
    assert without_machine_paths(nested) == {
        "files": ["a/b.json", "c/d.json"],
        "n": 1,
        "none": None,
        "flags": ["x", "y"],
    }
    (tmp_path / "with blank").mkdir()
    assert without_machine_paths(str(tmp_path / "with blank")) == "with blank"


def test_a_value_that_is_no_json_is_named() -> None:
    with pytest.raises(ValueError, match="Tensor"):
        stamp(loss=torch.zeros(1))


def test_sha256_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "a.bin"
    file.write_bytes(b"x" * 3_000_000)
    assert sha256_file(file) == hashlib.sha256(b"x" * 3_000_000).hexdigest()


def test_sha256_of_nothing_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone\.bin"):
        sha256_file(tmp_path / "gone.bin")
