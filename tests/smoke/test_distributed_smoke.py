"""Two "nodes" over loopback, and signals on their way through the launchers."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from torch.distributed.run import config_from_args, parse_args

from tests.smoke.trainings import MARKS, ROOT, STEPS, curve, free_port, launch, prepare, record, settings

pytestmark = MARKS


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("nodes"))


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
    assert record(place / "slurm")["stamp"]["processes"] == 2
    assert curve(place / "slurm") == pytest.approx(curve(place / "one")[:STEPS], abs=1e-4)


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
    assert record(place / "hosts-run")["stamp"]["processes"] == 2
    assert curve(place / "hosts-run") == pytest.approx(curve(place / "one")[:STEPS], abs=1e-4)


def test_slurm_leaves_time_for_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SLURM's signal comes as long before the end as torchrun then waits, which by itself are 30 s."""
    path = stand_ins(tmp_path / "bin")
    (tmp_path / "bin/srun").write_text(
        '#!/usr/bin/env bash\nshift 5\necho "$TORCH_ELASTIC_SHUTDOWN_TIMEOUT"; printf "%s\\n" "$@"\n'
    )
    job = {"SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "7"}
    script = ROOT / "scripts/train/slurm.sh"
    done = subprocess.run(
        ["bash", str(script), "configs/train/finetune_miniature.yaml"],
        env=settings(**job, SLURM_SUBMIT_DIR=str(ROOT), PATH=path),
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, *words = done.stdout.splitlines()
    monkeypatch.setenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", seconds)
    assert config_from_args(parse_args(words))[0].shutdown_timeout == 600
    assert "\n#SBATCH --signal=TERM@600\n" in script.read_text("utf-8")


TRAINING = """
import os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[sys.argv.index("--output_dir") + 1])
name = os.environ["RANK"]
def save(*_):
    time.sleep(1)
    (folder / f"{name}.saved").touch()
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
signal.signal(signal.SIGINT, lambda *_: (folder / f"{name}.interrupted").touch())
(folder / f"{name}.pid").write_text(str(os.getpid()))
time.sleep(600)
"""


def test_ctrl_c_lets_every_process_save_and_comes_back_as_75(tmp_path: Path) -> None:
    """The real launcher around a stand-in for the training; Ctrl-C goes to the whole process group of the script."""
    package = tmp_path / "llava" / "train"
    package.mkdir(parents=True)
    for file in (package.parent / "__init__.py", package / "__init__.py"):
        file.touch()
    (package / "train.py").write_text(TRAINING)
    words = ["bash", str(ROOT / "scripts/train/launch.sh"), "configs/train/finetune_miniature.yaml"]
    environment = settings(PYTHONPATH=str(tmp_path), PYTHONSAFEPATH="1", LLAVA_VENV=sys.prefix)
    with (tmp_path / "log").open("w") as log:
        run = subprocess.Popen(
            [*words, "--output_dir", str(tmp_path)],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # A shell starts what runs in its background deaf to Ctrl-C, and children inherit it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
    while len(list(tmp_path.glob("*.pid"))) < 2 and run.poll() is None:
        time.sleep(0.1)
    os.killpg(run.pid, signal.SIGINT)
    assert run.wait(timeout=120) == 75, (tmp_path / "log").read_text()[-3000:]
    assert {file.name for file in tmp_path.glob("?.*") if file.suffix != ".pid"} == {"0.saved", "1.saved"}
    for file in tmp_path.glob("*.pid"):
        with pytest.raises(ProcessLookupError):
            os.kill(int(file.read_text()), 0)
