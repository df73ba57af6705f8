"""The quick start's order, idempotence and messages, with a stand-in for python that only writes down what it is asked.

The programs it calls are tested elsewhere; the whole of it is run by hand (CONTRIBUTING.md, tracked results).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

STAND_IN = """#!/usr/bin/env bash
case "$1 ${{2:-}}" in
  -c*torch*) echo 0 ;;
  -c*llava*) ;;
  -m*)
    shift
    echo "$*" >>calls
    if [[ -f "fail_at_$(wc -l <calls)" ]]; then echo "the reason" >&2; exit 3; fi
    [[ "$*" != *--output_dir* ]] || {{ mkdir -p "${{@: -1}}" && echo "{{}}" >"${{@: -1}}/run.json"; }} ;;
  *) exec {python} "$@" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the scripts with an environment that counts as installed."""
    for name in ("scripts", "requirements", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(STAND_IN.format(python=sys.executable))
    python.chmod(0o755)
    command = 'source scripts/lib.sh && lock_hash "$1" >"$STAMP"'
    subprocess.run(["bash", "-c", command, "bash", sys.executable], cwd=tmp_path, env=environment(), check=True)
    return tmp_path


def environment() -> dict[str, str]:
    ours = ("LLAVA_VENV", "LLAVA_PYTHON", "NUM_PROCESSES", "OUT")
    return {name: value for name, value in os.environ.items() if name not in ours}


def start(checkout: Path) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(checkout / "scripts" / "quickstart.sh")]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60)


def calls(checkout: Path) -> list[str]:
    """What python was asked to run since the last time."""
    file = checkout / "calls"
    lines = file.read_text().splitlines() if file.exists() else []
    file.unlink(missing_ok=True)
    return lines


def test_steps_come_in_order(checkout: Path) -> None:
    run = start(checkout)
    assert run.returncode == 0, run.stderr
    made = calls(checkout)
    assert [line.split()[0] for line in made] == [
        "llava.miniature.benchmarks",
        "llava.data.subset",
        *["llava.train.train"] * 3,
        "llava.miniature.lmms_sets",
        "llava.eval.grid",
        "llava.eval.lmms_grid",
        "llava.eval.report",
    ]
    tuned = [line.split("--zip_dominant ")[1] for line in made if line.startswith("llava.train.train")]
    assert tuned == [
        "40 --zip_contextual 8 --output_dir checkpoints/miniature/zip_tune_48",
        "27 --zip_contextual 5 --output_dir checkpoints/miniature/zip_tune_32",
        "14 --zip_contextual 2 --output_dir checkpoints/miniature/zip_tune_16",
    ]
    assert "[1/6]" in run.stderr and "[6/6] done in" in run.stderr
    assert "runs/miniature/report.md" in run.stdout and "bash scripts/test.sh" in run.stdout


def test_it_writes_where_git_does_not_look(checkout: Path) -> None:
    """Outputs named in its commands are ignored by git, so a quick start leaves a clean checkout."""
    start(checkout)
    words = " ".join(calls(checkout)).split()
    flags = ("--out", "--output_dir")
    places = {words[i + 1] for i, word in enumerate(words) if word in flags}
    assert len(places) == 6, places
    for place in places:
        ignored = subprocess.run(["git", "check-ignore", "-q", f"{place}/x" if "." not in place else place], cwd=ROOT)
        assert ignored.returncode in (0, 128), f"{place} is not ignored by git"


def test_a_failed_step_is_named_and_finished_ones_are_kept(checkout: Path) -> None:
    (checkout / "fail_at_4").touch()
    run = start(checkout)
    assert run.returncode == 1
    assert "the reason" in run.stderr
    assert "step 4 (tune the projector under VisionZip, 32 of 144 tokens) did not finish" in run.stderr
    assert len(calls(checkout)) == 4

    (checkout / "fail_at_4").unlink()
    run = start(checkout)
    assert run.returncode == 0, run.stderr
    again = [line for line in calls(checkout) if line.startswith("llava.train.train")]
    assert [line.rsplit("_", 1)[1] for line in again] == ["32", "16"], "the run at 48 tokens was finished"
    assert "kept: checkpoints/miniature/zip_tune_48" in run.stderr
