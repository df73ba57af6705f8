"""Shell scripts: they parse, stop at the first error, explain themselves, and hold no habits that bite later."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted([*(ROOT / "scripts").rglob("*.sh"), ROOT / ".ci" / "run"])
SOURCED = {"scripts/lib.sh"}  # defines functions; has nothing to run and so nothing to ask


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


scripts = pytest.mark.parametrize("script", SCRIPTS, ids=name_of)


def script_faults(text: str) -> list[str]:
    """What is wrong with a script's text, one line each."""
    faults = []
    lines = text.splitlines()
    if not lines or lines[0] != "#!/usr/bin/env bash":
        faults.append("the first line is not #!/usr/bin/env bash")
    code = [line.split(" #")[0] for line in lines if not line.lstrip().startswith("#")]
    strict = re.compile(r"^\s*set -euo pipefail\b|^\s*(source|\.) .*lib\.sh", re.MULTILINE)
    if not strict.search("\n".join(code)):
        faults.append("neither `set -euo pipefail` nor lib.sh, which sets it")
    for number, line in enumerate(lines, start=1):
        bare = re.sub(r'"[^"]*"|\'[^\']*\'', '""', line.split(" #")[0])
        if line.lstrip().startswith("#"):
            continue
        if re.search(r"\$@|\$\*", bare):
            faults.append(f'line {number}: "$@" goes in double quotes')
        if re.search(r"(^|[;&|]\s*|\s)eval\s", bare):
            faults.append(f"line {number}: eval")
        if re.search(r"(^|\s)cd\s+\$", bare):
            faults.append(f"line {number}: an unquoted path after cd")
        if re.search(r"\brm\s+-rf?\s+\S*\$\{?\w+\}?/?\s*$", bare):
            faults.append(f"line {number}: rm of an unquoted variable")
        if "`" in bare:
            faults.append(f"line {number}: backticks, use $(...)")
        if "\t" in line:
            faults.append(f"line {number}: tab")
    return faults


@scripts
def test_parses(script: Path) -> None:
    run = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@scripts
def test_has_no_faults(script: Path) -> None:
    faults = script_faults(script.read_text("utf-8"))
    assert not faults, "\n".join(["", *(f"{name_of(script)}: {fault}" for fault in faults)])


@scripts
def test_explains_itself(script: Path, tmp_path: Path) -> None:
    """--help prints how to call it, at once: without an environment, from any folder, leaving nothing behind."""
    if name_of(script) in SOURCED:
        pytest.skip("sourced by the others")
    environment = {**os.environ, "LLAVA_VENV": str(tmp_path / "venv")}
    run = subprocess.run(
        ["bash", str(script), "--help"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=20
    )
    assert run.returncode == 0, run.stderr
    assert name_of(script) in run.stdout, f"--help does not show how to call {name_of(script)}:\n{run.stdout}"
    assert not list(tmp_path.iterdir())


def test_ci_is_executable() -> None:
    """It is called by its path; the scripts are called by bash."""
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("set -euo pipefail\n", "first line"),
        ("#!/usr/bin/env bash\necho\n", "set -euo"),
        ("#!/usr/bin/env bash\n# set -euo pipefail\necho\n", "set -euo"),
        ("#!/usr/bin/env bash\nset -euo pipefail\npython a.py $@\n", "double quotes"),
        ("#!/usr/bin/env bash\nset -euo pipefail\neval echo\n", "eval"),
        ("#!/usr/bin/env bash\nset -euo pipefail\ncd $HOME\n", "unquoted path"),
        ("#!/usr/bin/env bash\nset -euo pipefail\nrm -rf $OUT\n", "rm of"),
        ("#!/usr/bin/env bash\nset -euo pipefail\nx=`date`\n", "backticks"),
    ],
)
def test_the_fault_finder_catches(text: str, fault: str) -> None:
    assert any(fault in found for found in script_faults(text)), script_faults(text)


def run_lib(commands: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `commands` after sourcing lib.sh."""
    program = f'source "{ROOT}/scripts/lib.sh"\n{commands}'
    env = {**os.environ, **environment}
    return subprocess.run(["bash", "-c", program], env=env, capture_output=True, text=True, timeout=120)


def test_no_python_is_explained(tmp_path: Path) -> None:
    """An empty PATH but for the basics: the message says what is missing and what to do."""
    for tool in ("bash", "dirname", "sed", "cat"):
        found = subprocess.run(["bash", "-c", f"command -v {tool}"], capture_output=True, text=True).stdout.strip()
        (tmp_path / tool).symlink_to(found)
    run = run_lib("setup_environment", PATH=str(tmp_path), LLAVA_VENV=str(tmp_path / "venv"), LLAVA_PYTHON="")
    assert run.returncode == 1
    assert "no Python >= 3.11 found" in run.stderr
    assert "LLAVA_PYTHON=" in run.stderr


def test_a_wrong_python_is_named(tmp_path: Path) -> None:
    run = run_lib("setup_environment", LLAVA_PYTHON="/bin/false", LLAVA_VENV=str(tmp_path / "venv"))
    assert run.returncode == 1
    assert "LLAVA_PYTHON=/bin/false is not a Python >= 3.11" in run.stderr


def fake_environment(tmp_path: Path, install: str) -> str:
    """Shell lines that stand in for the real installation: a venv without packages, and `install` as the installer."""
    return f'create_venv() {{ python3 -m venv --without-pip "$VENV"; }}\ninstall_locked() {{ {install}; }}\n'


def test_a_finished_setup_is_not_redone_and_a_broken_one_is(tmp_path: Path) -> None:
    setup = fake_environment(tmp_path, f'echo install >> "{tmp_path}/log"') + "setup_environment"
    for _ in range(2):
        run = run_lib(setup, LLAVA_VENV=str(tmp_path / "venv"))
        assert run.returncode == 0, run.stderr
    log = tmp_path / "log"
    assert log.read_text() == "install\n"
    assert "up to date" in run.stderr

    (tmp_path / "venv" / ".llava-lock-hash").write_text("of another lock\n")
    run_lib(setup, LLAVA_VENV=str(tmp_path / "venv"))
    assert log.read_text() == "install\ninstall\n"


def test_a_failed_installation_says_so_and_leaves_no_stamp(tmp_path: Path) -> None:
    run = run_lib(fake_environment(tmp_path, "false") + "setup_environment", LLAVA_VENV=str(tmp_path / "venv"))
    assert run.returncode == 1
    assert "the installation did not finish" in run.stderr
    assert not (tmp_path / "venv" / ".llava-lock-hash").exists()


def test_an_environment_serves_one_checkout(tmp_path: Path) -> None:
    """A second checkout would install itself over the first one, whose programs would then run the second's code."""
    setup = fake_environment(tmp_path, f'echo install >> "{tmp_path}/log"') + "setup_environment"
    venv, first = tmp_path / "venv", tmp_path / "first"
    (first / "scripts").mkdir(parents=True)
    (first / "scripts" / "lib.sh").touch()
    venv.mkdir()
    (venv / ".llava-checkout").write_text(f"{first}\n")
    run = run_lib(setup, LLAVA_VENV=str(venv))
    assert run.returncode == 1 and not (tmp_path / "log").exists()
    assert f"the environment {venv} belongs to the checkout {first}, and this one is {ROOT}" in run.stderr
    assert "unset LLAVA_VENV" in run.stderr and "LLAVA_VENV=/path/to/venv" in run.stderr

    (first / "scripts" / "lib.sh").unlink()
    run = run_lib(setup, LLAVA_VENV=str(venv))
    assert run.returncode == 0, "the first checkout is gone"
    assert (venv / ".llava-checkout").read_text() == f"{ROOT}\n"


def test_an_environment_without_a_checkouts_name_is_taken_and_named(tmp_path: Path) -> None:
    """Also where the installation then fails: it may be half there."""
    run_lib(fake_environment(tmp_path, "false") + "setup_environment", LLAVA_VENV=str(tmp_path / "venv"))
    assert (tmp_path / "venv" / ".llava-checkout").read_text() == f"{ROOT}\n"
    run = run_lib(fake_environment(tmp_path, "true") + "setup_environment", LLAVA_VENV=str(tmp_path / "venv"))
    assert run.returncode == 0, run.stderr


GRIDS = ("grid", "miniature", "reproduce")  # they name their checkpoints themselves
CHECKPOINTED = [path for path in SCRIPTS if path.parent.name == "eval" and not path.stem.startswith(GRIDS)]


@pytest.mark.parametrize("given", [[], [""], ["--dominant", "54"]], ids=["nothing", "empty", "flag"])
@pytest.mark.parametrize("script", CHECKPOINTED, ids=name_of)
def test_a_missing_checkpoint_is_an_error(script: Path, given: list[str]) -> None:
    """An empty "$CKPT" is a variable that was not set, not a question for help."""
    benchmark = ["pope"] if script.stem == "benchmark" else []
    run = subprocess.run(["bash", str(script), *benchmark, *given], capture_output=True, text=True, timeout=20)
    assert run.returncode == 2 and run.stdout == ""
    assert run.stderr.startswith("error: CKPT is missing: ") and run.stderr.count("\n") == 1


@pytest.mark.parametrize("script", ["all", "grid", "miniature", "reproduce_13b_vs_7b"])
def test_ctrl_c_stops_all_of_a_script(tmp_path: Path, script: str) -> None:
    """The program that runs leaves with 130 as ours do; the script must not go on with the next one."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    wait = "import time\ntry: print('started', flush=True); time.sleep(60)\nexcept KeyboardInterrupt: exit(130)"
    python.write_text(
        f"""#!/usr/bin/env bash
case "$1" in
  -c) case "$*" in *device_count*) echo 0 ;; esac ;;
  -) cat >/dev/null && echo hash ;;
  *) exec "{sys.executable}" -c "{wait}" ;;
esac
"""
    )
    python.chmod(0o755)
    (tmp_path / ".llava-lock-hash").write_text("hash\n")
    with subprocess.Popen(
        ["bash", str(ROOT / "scripts" / "eval" / f"{script}.sh"), *(["ckpt"] if script == "all" else [])],
        env={**os.environ, "LLAVA_VENV": str(tmp_path), "NUM_PROCESSES": "1", "OUT": str(tmp_path / "out")},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # where the tests ignore it
    ) as run:
        assert run.stdout is not None and run.stdout.readline() == "started\n"
        os.killpg(run.pid, signal.SIGINT)
        said, _ = run.communicate(timeout=20)
    assert (run.returncode, said) == (130, "")


def test_all_ends_with_the_figures_of_all(tmp_path: Path) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(
        """#!/usr/bin/env bash
case "$1" in
  -c) case "$*" in *device_count*) echo 0 ;; esac ;;
  -) cat >/dev/null && echo hash ;;
  *)
    echo "$3: 50.00 (what it is; 32 of 40 questions, 16.0 visual tokens an image)"
    echo "  own 1.00"
    echo "record: $3.json"
    echo "table: make it"
    [[ "$3" != gqa ]] ;;
esac
"""
    )
    python.chmod(0o755)
    (tmp_path / ".llava-lock-hash").write_text("hash\n")
    environment = {**os.environ, "LLAVA_VENV": str(tmp_path), "NUM_PROCESSES": "1", "BENCHMARKS": "pope gqa"}
    command = ["bash", "scripts/eval/all.sh", "ckpt"]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    line = "{}: 50.00 (what it is; 32 of 40 questions, 16.0 visual tokens an image)"
    assert run.stdout.splitlines()[-3:] == [line.format("pope"), line.format("gqa"), "table: make it"]
    assert run.returncode == 1 and "failed: gqa" in run.stderr


def launch(tmp_path: Path, environment: dict[str, str], gpus: int = 4) -> subprocess.CompletedProcess[str]:
    """launch.sh, under a stand-in for python that sees so many GPUs and repeats what it is asked to start."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(
        f"""#!/usr/bin/env bash
case "$*" in
  *device_count*) echo {gpus} ;;
  *"import llava"*) ;;
  *) echo "${{@:3}} cards=${{CUDA_VISIBLE_DEVICES-all}}" ;;
esac
"""
    )
    python.chmod(0o755)
    clean = {k: v for k, v in os.environ.items() if k not in {"CUDA_VISIBLE_DEVICES", "NUM_PROCESSES"}}
    return subprocess.run(
        ["bash", "scripts/train/launch.sh", "configs/train/zip_tune_miniature.yaml"],
        cwd=ROOT,
        env={**clean, **environment, "LLAVA_VENV": str(tmp_path)},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "--num_gpus 4 cards=all"),
        ({"NUM_PROCESSES": "2"}, "--num_gpus 2 cards=all"),
        ({"CUDA_VISIBLE_DEVICES": "3,1,0,2"}, "cards=3,1,0,2"),
        ({"CUDA_VISIBLE_DEVICES": "3,1,0,2", "NUM_PROCESSES": "2"}, "cards=3,1"),
        ({"DEEPSPEED_FLAGS": "--hostfile hosts"}, "--num_gpus 4 --hostfile hosts cards=all"),
    ],
)
def test_the_launcher_uses_the_cards_it_is_given(tmp_path: Path, environment: dict[str, str], expected: str) -> None:
    """DeepSpeed ignores CUDA_VISIBLE_DEVICES as soon as --num_gpus is there."""
    run = launch(tmp_path, environment)
    assert run.returncode == 0, run.stderr
    words = re.sub(r"--master_port \d+ |--module .*yaml ?", "", run.stdout.strip())
    assert words == expected


def test_the_second_engine_is_accelerate_without_deepspeed(tmp_path: Path) -> None:
    environment = {"ENGINE": "fsdp", "NUM_PROCESSES": "3", "ACCELERATE_FLAGS": "--num_machines 2"}
    run = launch(tmp_path, environment)
    assert run.returncode == 0, run.stderr
    assert "--config_file configs/accelerate/fsdp.yaml --num_processes 3" in run.stdout
    assert "--num_machines 2 --module llava.train.train --config" in run.stdout
    assert run.stdout.index("--deepspeed") > run.stdout.index(
        "zip_tune_miniature.yaml"
    )  # an empty flag behind the file


def test_the_second_engine_is_for_gpus(tmp_path: Path) -> None:
    run = launch(tmp_path, {"ENGINE": "fsdp"}, gpus=0)
    assert run.returncode == 1
    assert "ENGINE=fsdp needs GPUs" in run.stderr


def test_slurm_without_a_job_says_how_to_submit() -> None:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("SLURM")}
    command = ["bash", "scripts/train/slurm.sh", "configs/train/finetune_miniature.yaml"]
    run = subprocess.run(command, cwd=ROOT, env=clean, capture_output=True, text=True)
    assert run.returncode == 1
    assert "submit it: sbatch --nodes 2" in run.stderr
