"""scripts/release/publish.sh calls the commands in order and passes settings on; a stand-in for python notes them."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SETTINGS = ("LICENSE", "BASE_MODEL", "RESULTS", "TOWER", "SHARD_GB", "DTYPE", "DEVICE")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The script with an environment that is set up."""
    (tmp_path / "scripts" / "release").mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "release" / "publish.sh", tmp_path / "scripts" / "release")
    library = (ROOT / "scripts" / "lib.sh").read_text() + "\nsetup_environment() { :; }\n"
    (tmp_path / "scripts" / "lib.sh").write_text(library)
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text('#!/usr/bin/env bash\necho "$*" >>calls\n[[ "$3" != "${FAIL_AT:-}" ]]\n')
    python.chmod(0o755)
    return tmp_path


def run(checkout: Path, *arguments: str, **settings: str) -> tuple[int, list[str]]:
    """(exit code, what python was asked)"""
    clean = {key: value for key, value in os.environ.items() if key not in SETTINGS}
    environment = {**clean, **settings, "PATH": f"{checkout / 'bin'}:{os.environ['PATH']}"}
    command = ["bash", "scripts/release/publish.sh", *arguments]
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
    calls = checkout / "calls"
    return done.returncode, calls.read_text().splitlines() if calls.exists() else []


def test_all_steps_in_order(checkout: Path) -> None:
    code, calls = run(checkout, "tuned", "base", "out", "me/mini")
    assert code == 0 and calls == [
        "-m llava.release merge tuned --base base --out out --shard-gb 4",
        "-m llava.release card out --repo me/mini",
        "-m llava.release manifest out --dtype float32 --device cpu",
        "-m llava.release verify out --device cpu",
        "-m llava.release publish out --repo me/mini --device cpu",
    ]


def test_settings_reach_the_commands(checkout: Path) -> None:
    settings = {"LICENSE": "llama2", "BASE_MODEL": "org/base", "RESULTS": "r", "TOWER": "org/clip", "DTYPE": "bfloat16"}
    code, calls = run(checkout, "tuned", "base", "out", "me/mini", "--upload", DEVICE="cuda", SHARD_GB="2", **settings)
    assert code == 0 and calls[0].endswith("--shard-gb 2 --tower org/clip")
    assert calls[1].endswith("--license llama2 --base-model org/base --results r")
    assert calls[2].endswith("--dtype bfloat16 --device cuda --base-model org/base --results r")
    assert calls[4].endswith("--device cuda --upload")


def test_a_failed_check_ends_it(checkout: Path) -> None:
    code, calls = run(checkout, "tuned", "base", "out", "me/mini", FAIL_AT="verify")
    assert code != 0 and calls[-1].startswith("-m llava.release verify")


def test_too_few_arguments(checkout: Path) -> None:
    assert run(checkout, "tuned", "base") == (1, [])
