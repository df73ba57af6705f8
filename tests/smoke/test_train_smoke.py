"""The real thing, small: scripts/train starts two DeepSpeed processes on the CPU."""

import json
import os
import shutil
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from llava.model.builder import load_pretrained_model
from llava.train.train import train
from llava.train.trainer import last_checkpoint
from tests.tiny_checkpoints import tiny_vicuna_llava, write_v15
from tests.tiny_data import write_data
from visionzip import VisionZip

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2400),  # starting and compiling takes a minute on an idle machine, many on a busy one
    pytest.mark.skipif(torch.cuda.is_available(), reason="the script would take the GPUs"),
    pytest.mark.skipif(shutil.which(os.environ.get("CXX", "c++")) is None, reason="DeepSpeed compiles on the CPU"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, data and a config, and the loss curve of one plain process in float32."""
    folder = tmp_path_factory.mktemp("train")
    write_v15(tiny_vicuna_llava(folder), folder / "llava-tiny", dtype=torch.float32)
    data = write_data(folder / "data")
    config = {
        "model_name_or_path": folder / "llava-tiny",
        "data_path": data,
        "image_folder": data.parent,
        "tune_mm_mlp_adapter": True,
        "zip_dominant": 5,
        "zip_contextual": 2,
        "group_by_modality_length": True,
        "global_batch_size": 4,
        "per_device_train_batch_size": 2,
        "learning_rate": 5e-3,
        "max_steps": 4,
        "logging_steps": 1,
        "save_steps": 2,
        "use_cpu": True,
    }
    (folder / "config.yaml").write_text("".join(f"{key}: {value}\n" for key, value in config.items()))
    train(argv=["--config", str(folder / "config.yaml"), "--output_dir", str(folder / "one")])
    return folder


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def launch(place: Path, output: str, *flags: str, script: str = "zip_tune", **environment: str) -> None:
    command = ["bash", str(ROOT / f"scripts/train/{script}.sh"), str(place / "config.yaml")]
    settings = {"NUM_PROCESSES": "2", "MASTER_PORT": free_port(), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--output_dir", str(place / output), *flags],
        env=os.environ | settings | environment,
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


@pytest.mark.parametrize("stage", [2, 3])
def test_two_processes_learn_what_one_learns(place: Path, stage: int) -> None:
    output = f"zero{stage}"
    launch(place, output, "--deepspeed", f"configs/deepspeed/zero{stage}.json")
    assert json.loads((place / output / "run.json").read_text())["stamp"]["processes"] == 2
    assert curve(place / output) == pytest.approx(curve(place / "one"), abs=1e-4)
    one, two = projector(place / "one"), projector(place / output)
    for name, value in one.items():
        assert torch.allclose(value, two[name], atol=1e-4), name
    names = {file.name for file in (place / output / "checkpoint-4").iterdir()}
    assert {"mm_projector.bin", "config.json", "latest", "rng_state_0.pth", "rng_state_1.pth"} <= names


@pytest.mark.slow
def test_sigterm_to_the_script_reaches_every_process_and_comes_back_as_75(place: Path) -> None:
    command = ["bash", str(ROOT / "scripts/train/zip_tune.sh"), str(place / "config.yaml")]
    settings = {"NUM_PROCESSES": "2", "MASTER_PORT": free_port(), "OMP_NUM_THREADS": "1"}
    words = ["--output_dir", str(place / "stopped"), "--max_steps", "5000", "--logging_steps", "1"]
    log = place / "stopped.log"
    with log.open("w") as stream:
        run = subprocess.Popen([*command, *words], env=os.environ | settings, stdout=stream, stderr=subprocess.STDOUT)
    while "'loss'" not in log.read_text(errors="replace") and run.poll() is None:
        time.sleep(0.2)
    run.terminate()
    assert run.wait(timeout=120) == 75, log.read_text(errors="replace")[-3000:]
    assert last_checkpoint(place / "stopped") is not None


def test_bfloat16_run_resumes_and_reloads(place: Path) -> None:
    flags = ["--deepspeed", "configs/deepspeed/zero2.json", "--bf16", "True"]
    launch(place, "bf16", *flags, "--max_steps", "2")
    assert curve(place / "bf16") == pytest.approx(curve(place / "one")[:2], rel=0.02)
    launch(place, "bf16", *flags)
    assert curve(place / "bf16") == pytest.approx(curve(place / "one"), rel=0.02)
    model = load_pretrained_model(place / "bf16", place / "llava-tiny", None, device="cpu")[1]
    assert model.get_vision_tower().compressor == VisionZip(5, 2)
    for name, value in projector(place / "bf16").items():
        assert torch.equal(model.state_dict()[name], value.float())


def stand_ins(folder: Path) -> str:
    """A PATH on which SLURM has two nodes, both of them this machine."""
    programs = {
        "scontrol": "echo 127.0.0.1; echo 127.0.0.2",
        "srun": 'shift 2; "$@" & first=$!; "$@" & second=$!; wait $first && wait $second',
    }
    folder.mkdir()
    for name, body in programs.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (folder / name).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def test_two_nodes_of_a_slurm_job_learn_what_one_process_learns(place: Path) -> None:
    job = {"SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "7"}
    job |= {"SLURM_SUBMIT_DIR": str(ROOT), "NUM_PROCESSES": "1", "PATH": stand_ins(place / "bin")}
    launch(place, "slurm", "--deepspeed", "configs/deepspeed/zero2.json", script="slurm", **job)
    assert json.loads((place / "slurm" / "run.json").read_text())["stamp"]["processes"] == 2
    assert curve(place / "slurm") == pytest.approx(curve(place / "one"), abs=1e-4)


def test_two_nodes_of_a_hostfile_learn_what_one_process_learns(place: Path) -> None:
    """Two launchers over loopback, each told its rank; with ssh the first would start the second."""
    (place / "hosts").write_text("127.0.0.1 slots=1\nlocalhost slots=1\n")
    meeting = {"NUM_PROCESSES": "1", "MASTER_PORT": free_port()}
    flags = ("--deepspeed", "configs/deepspeed/zero2.json")

    def node(rank: int) -> None:
        asked = f"--hostfile {place / 'hosts'} --no_ssh --node_rank {rank} --master_addr 127.0.0.1"
        launch(place, "hosts-run", *flags, DEEPSPEED_FLAGS=asked, **meeting)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(node, (0, 1)))
    assert json.loads((place / "hosts-run" / "run.json").read_text())["stamp"]["processes"] == 2
    assert curve(place / "hosts-run") == pytest.approx(curve(place / "one"), abs=1e-4)
