"""Scripts under a stand-in for python: importing is the slow part of a small run, so a script only says what it starts,
and the test runs that in its own process."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYTHON = """#!/usr/bin/env bash
case "$1" in
  -c) case "$*" in *device_count*) echo {gpus} ;; esac ;;
  -) cat >/dev/null && echo hash ;;
  *) printf '%s\\0' "$@" && echo ;;
esac
"""


def started(
    script: str, *given: object, venv: Path, environment: Mapping[str, str] | None = None, gpus: int = 0
) -> list[list[str]]:
    """The python commands a script starts, each as its words after `python`.

    Args:
        venv: an empty folder for the stand-in.
        gpus: what the stand-in's torch counts.
    """
    python = venv / "bin" / "python"
    python.parent.mkdir(parents=True, exist_ok=True)
    python.write_text(PYTHON.format(gpus=gpus))
    python.chmod(0o755)
    (venv / ".llava-lock-hash").write_text("hash\n")
    clean = {key: value for key, value in os.environ.items() if key not in ("NUM_PROCESSES", "CUDA_VISIBLE_DEVICES")}
    done = subprocess.run(
        ["bash", script, *map(str, given)],
        cwd=ROOT,
        env={**clean, **(environment or {}), "LLAVA_VENV": str(venv)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [line.split("\0")[:-1] for line in done.stdout.split("\n") if "\0" in line]
