"""The answers behind the shipped table are what this code gives: the world drawn anew, tracked weights asked again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "results" / "miniature" / "items"
CONFIG = ROOT / "configs" / "eval" / "miniature.yaml"
CELL = "visionzip-16"
QUESTIONS = 20


@pytest.fixture(scope="module")
def asked_again(tmp_path_factory):
    """Folder of the records of the first questions of every benchmark."""
    home = tmp_path_factory.mktemp("shipped")
    config = yaml.safe_load(CONFIG.read_text("utf-8"))
    config |= {"data": str(home / "data" / "eval"), "work": str(home / "work")}
    del config["lmms"]
    (home / "grid.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    words = ["--config", str(home / "grid.yaml"), "--out", str(home / "out"), "--limit", str(QUESTIONS)]
    words += ["--method", "visionzip", "--budget", "16", "--device", "cpu"]
    for program in (
        ["llava.miniature.benchmarks", "--rows", "50", "--out", str(home / "data")],
        ["llava.eval.grid", *words],
    ):
        done = subprocess.run(
            [sys.executable, "-m", *program],
            cwd=ROOT,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            timeout=1200,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return home / "out" / "items"


def answers(folder: Path, task: str) -> dict[str, str]:
    items = json.loads((folder / CELL / f"{task}.json").read_text("utf-8"))
    return dict(zip(items["ids"], items["said"], strict=True))


def test_the_shipped_answers_are_given_again(asked_again):
    """All but a few: another processor's products differ in the last bits, which now and then tips a word."""
    tasks = yaml.safe_load(CONFIG.read_text("utf-8"))["tasks"]
    differ, count = [], 0
    for task in tasks:
        now, shipped = answers(asked_again, task), answers(SHIPPED, task)
        assert len(now) >= QUESTIONS / 2 and now.keys() <= shipped.keys(), task
        count += len(now)
        differ += [f"{task} {key}: {shipped[key]!r}, now {said!r}" for key, said in now.items() if said != shipped[key]]
    assert len(differ) <= 0.02 * count, "\n".join(differ)
