"""The command `visionzip plan`."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from llava.cli import app

ARGUMENTS = ["plan", "--model", "liuhaotian/llava-v1.5-7b", "--gpu", "24"]


def plan(*more: str) -> str:
    result = CliRunner().invoke(app, [*ARGUMENTS, *more], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def test_a_7b_tune_on_24_gb() -> None:
    shown = plan()
    for part in ("weights", "optimizer and gradients", "activations", "block or logits", "peak", "card"):
        assert part in shown
    assert "314 (64 visual, 250 text)" in shown
    assert "--per_device_train_batch_size 32 --gradient_accumulation_steps 4" in shown
    assert "66,530 rows are 520 steps" in shown
    assert "not known" in shown


def test_time_from_a_throughput() -> None:
    assert "520 steps, 35 min at 10,000 tokens/s" in plan("--tokens-per-second", "10000")
    assert "4 min" in plan("--tokens-per-second", "10000", "--gpus", "8")


def test_the_batch_holds_over_gpus() -> None:
    assert "--per_device_train_batch_size 16 --gradient_accumulation_steps 1" in plan("--gpus", "8")


def test_a_card_that_needs_no_checkpointing_is_told() -> None:
    assert "without gradient checkpointing" not in plan()
    result = CliRunner().invoke(app, ["plan", "--model", "llava-v1.5-7b", "--gpu", "80", "--gpus", "8"])
    assert "fits without gradient checkpointing" in " ".join(result.output.split())


def test_dense_and_tiles() -> None:
    assert "826 (576 visual" in plan("--dominant", "0", "--contextual", "0")
    shown = CliRunner().invoke(app, ["plan", "--model", "llava-v1.6-vicuna-7b", "--gpu", "80"]).output
    assert "320 visual" in " ".join(shown.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "llava-v1.5-13b"], "try --bits 4"),
        (["--gpus", "6"], "cannot be shared equally"),
        (["--dominant", "600"], "do not fit a tile of 576 patches"),
        (["--dominant", "0"], "do not fit"),
        (["--model", "nowhere"], "no checkpoint folder"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(words: list[str], message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "llava.cli", *ARGUMENTS, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
