"""Killed, told to stop, out of disk: what was computed before is there, and the same command goes on from it."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from llava.train.interrupt import EXIT_CODE, outlive_signal
from llava.train.train import train
from llava.train.trainer import LLaVATrainer, last_checkpoint
from tests.llava.train.test_train import losses, options, output

TRIALS = 8


def projector(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "mm_projector.bin", weights_only=True)


@pytest.mark.slow
def test_killed_at_random_steps_and_resumed_ends_bit_equal(words: list[str], tmp_path: Path) -> None:
    words = options(words, max_steps=12, save_strategy="steps", save_steps=2, save_total_limit=2, output_dir=None)
    command = [sys.executable, str(Path(__file__).with_name("kill_trials.py")), str(TRIALS), "0", str(tmp_path), *words]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    trials = [line for line in done.stdout.splitlines() if line.startswith("killed=")]
    assert len(trials) == TRIALS, done.stderr[-2000:]
    assert all("status=0 same=True" in line for line in trials), trials
    assert sum("killed=1" in line for line in trials) >= TRIALS // 2, trials


@pytest.mark.slow
def test_sigterm_saves_and_leaves_with_its_own_code(words: list[str], tmp_path: Path) -> None:
    words = options(words, max_steps=4000, output_dir=tmp_path / "run", disable_tqdm=True)
    command = [sys.executable, "-u", "-m", "llava.train.train", *words]
    log = (tmp_path / "log").open("w+")
    run = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, text=True)
    while "'loss'" not in (tmp_path / "log").read_text() and run.poll() is None:
        time.sleep(0.1)
    run.send_signal(signal.SIGTERM)
    assert run.wait(timeout=120) == EXIT_CODE == 75, (tmp_path / "log").read_text()[-2000:]
    saved = last_checkpoint(tmp_path / "run")
    assert saved is not None
    assert f"stopped after step {saved.name.removeprefix('checkpoint-')} of 4000" in (tmp_path / "log").read_text()
    assert not (tmp_path / "run" / "run.json").exists()  # which would say that the run is complete


def test_the_handler_is_put_back(words: list[str]) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    train(argv=options(words, max_steps=1))
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_ctrl_c_saves_and_a_second_one_ends_at_once(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    words = options(words, max_steps=5)
    step = LLaVATrainer.training_step

    def interrupted(self: Any, model: Any, inputs: Any, number: Any = None) -> torch.Tensor:
        for _ in range(pressed):
            signal.raise_signal(signal.SIGINT)
        return step(self, model, inputs, number)

    monkeypatch.setattr(LLaVATrainer, "training_step", interrupted)
    pressed = 1
    with pytest.raises(SystemExit) as left:
        train(argv=words)
    assert left.value.code == EXIT_CODE
    saved = last_checkpoint(output(words))
    assert saved is not None and saved.name == "checkpoint-1"
    pressed = 2
    with pytest.raises(KeyboardInterrupt):
        train(argv=words)
    assert last_checkpoint(output(words)) == saved


def test_a_full_disk_names_the_last_good_checkpoint_and_keeps_it(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = options(words, max_steps=6, save_strategy="steps", save_steps=2, output_dir=tmp_path / "run")
    whole = train(argv=options(words, output_dir=tmp_path / "whole"))
    write = LLaVATrainer.save_model

    def full(self: Any, output_dir: str | None = None, _internal_call: bool = False) -> None:
        write(self, output_dir, _internal_call)
        if self.state.global_step == 4:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(LLaVATrainer, "save_model", full)
        with pytest.raises(ValueError, match=r"step 4 cannot be written.*No space.*checkpoint-2"):
            train(argv=words)
    assert last_checkpoint(tmp_path / "run") == tmp_path / "run" / "checkpoint-2"
    resumed = train(argv=words)
    assert losses(resumed)[-1] == losses(whole)[-1]
    for name, value in projector(tmp_path / "whole").items():
        assert torch.equal(value, projector(tmp_path / "run")[name])


def test_weights_that_blew_up_are_not_saved(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = options(words, max_steps=4, save_strategy="steps", save_steps=1, output_dir=tmp_path / "run")
    step = LLaVATrainer.training_step

    def spoil(self: Any, model: Any, inputs: Any, number: Any = None) -> torch.Tensor:
        loss = step(self, model, inputs, number)
        if self.state.global_step == 2:
            next(value for value in model.parameters() if value.requires_grad).data.fill_(float("inf"))
        return loss

    monkeypatch.setattr(LLaVATrainer, "training_step", spoil)
    with pytest.raises(ValueError, match=r"not finite after step 3.*checkpoint-2"):
        train(argv=words)


def test_a_loss_that_is_no_number_names_rows_and_checkpoint(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = options(words, max_steps=4, save_strategy="steps", save_steps=1, output_dir=tmp_path / "run")
    loss = LLaVATrainer.compute_loss

    def spoil(self: Any, *args: Any, **kwargs: Any) -> Any:
        return loss(self, *args, **kwargs) * (float("nan") if self.state.global_step == 2 else 1)

    monkeypatch.setattr(LLaVATrainer, "compute_loss", spoil)
    with pytest.raises(ValueError, match=r"nan at step 3.*checkpoint-2.* row \d+ \(id ") as caught:
        train(argv=words)
    assert str(caught.value).count("(id ") == 4  # the rows of the batch


def test_a_worker_outlives_the_signal_for_a_while() -> None:
    """SIGTERM or SIGINT to the whole group must not take the data away before the step has ended."""

    def worker(said: Any) -> None:
        outlive_signal(said.put, 3)
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        said.put(signal.alarm(0))

    context = multiprocessing.get_context("fork")
    said = context.SimpleQueue()
    process = context.Process(target=worker, args=(said,))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert said.get() == 3
    assert said.get() > 200


@pytest.mark.slow
def test_a_signal_to_the_whole_group_with_workers(words: list[str], tmp_path: Path) -> None:
    words = options(words, max_steps=4000, output_dir=tmp_path / "run", dataloader_num_workers=2)
    log = (tmp_path / "log").open("w+")
    command = [sys.executable, "-u", "-m", "llava.train.train", *words]
    run = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    while "'loss'" not in (tmp_path / "log").read_text() and run.poll() is None:
        time.sleep(0.1)
    os.killpg(run.pid, signal.SIGTERM)
    assert run.wait(timeout=120) == EXIT_CODE, (tmp_path / "log").read_text()[-2000:]
    assert last_checkpoint(tmp_path / "run") is not None


def test_a_finished_run_is_left_alone(words: list[str], tmp_path: Path) -> None:
    words = options(words, max_steps=2, save_strategy="steps", save_steps=2, output_dir=tmp_path / "run")
    train(argv=words)
    before = (tmp_path / "run" / "run.json").read_text()
    train(argv=[*words, "--pack_sequences=True"])
    assert (tmp_path / "run" / "run.json").read_text() == before
    train(argv=options(words, max_steps=4))  # but more steps may be asked of it
    assert (tmp_path / "run" / "run.json").read_text() != before


def test_killed_before_the_final_save_in_mid_epoch_trains_no_further(words: list[str], tmp_path: Path) -> None:
    """24 rows, 4 a step: the last of 4 steps stands in the middle of the epoch of 6."""
    words = options(words, max_steps=4, save_strategy="steps", save_steps=2, output_dir=tmp_path / "run")
    train(argv=words)
    whole = projector(tmp_path / "run")
    for file in (tmp_path / "run").glob("*.*"):
        file.unlink()  # all but the checkpoints
    resumed = train(argv=words)
    assert resumed.state.global_step == 4
    assert json.loads((tmp_path / "run" / "run.json").read_text())["result"]["steps"] == 4
    assert all(torch.equal(value, whole[name]) for name, value in projector(tmp_path / "run").items())
