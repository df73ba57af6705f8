"""Trainings of two DeepSpeed processes on the CPU, started by the scripts: what the smoke tests of training share."""

import json
import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from llava.train.train import train
from tests.tiny_checkpoints import tiny_vicuna_llava, write_v15
from tests.tiny_data import write_data

ROOT = Path(__file__).parents[2]
STEPS = 4  # of a run, unless a test says otherwise
MARKS = [
    pytest.mark.slow,
    pytest.mark.timeout(2400),  # starting and compiling takes a minute on an idle machine, many on a busy one
    pytest.mark.skipif(torch.cuda.is_available(), reason="the script would take the GPUs"),
    pytest.mark.skipif(shutil.which(os.environ.get("CXX", "c++")) is None, reason="DeepSpeed compiles on the CPU"),
]


def prepare(folder: Path) -> Path:
    """A checkpoint, data with three broken images and a config, and 24 steps of one plain process in float32."""
    write_v15(tiny_vicuna_llava(folder), folder / "llava-tiny", dtype=torch.float32)
    data = write_data(folder / "data")
    for number in (1, 6, 11):
        (data.parent / f"coco/{number}.png").write_bytes(b"no picture")
    config = {
        "model_name_or_path": folder / "llava-tiny",
        "data_path": data,
        "image_folder": data.parent,
        "max_bad_rows": 3,
        "tune_mm_mlp_adapter": True,
        "zip_dominant": 5,
        "zip_contextual": 2,
        "group_by_modality_length": True,
        "global_batch_size": 4,
        "per_device_train_batch_size": 2,
        "learning_rate": 5e-3,
        "lr_scheduler_type": "constant",
        "max_steps": STEPS,
        "logging_steps": 1,
        "save_steps": 2,
        "use_cpu": True,
    }
    (folder / "config.yaml").write_text("".join(f"{key}: {value}\n" for key, value in config.items()))
    words = ["--config", str(folder / "config.yaml"), "--output_dir", str(folder / "one"), "--disable_tqdm", "True"]
    train(argv=[*words, "--max_steps", "24", "--save_steps", str(STEPS)])
    return folder


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def settings(**changes: str) -> dict[str, str]:
    """The environment of a script that starts two processes."""
    return {**os.environ, "NUM_PROCESSES": "2", "MASTER_PORT": free_port(), "OMP_NUM_THREADS": "1", **changes}


def command(place: Path, output: str, *flags: str, script: str = "zip_tune") -> list[str]:
    words = ["bash", str(ROOT / f"scripts/train/{script}.sh"), str(place / "config.yaml")]
    return [*words, "--output_dir", str(place / output), *flags]


def launch(place: Path, output: str, *flags: str, script: str = "zip_tune", **environment: str) -> None:
    done = subprocess.run(
        command(place, output, *flags, script=script),
        env=settings(**environment),
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]


def curve(folder: Path) -> list[float]:
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


def projector(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "mm_projector.bin", weights_only=True)


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text())
