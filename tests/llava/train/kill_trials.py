"""Run by test_interrupt.py: a training that is killed again and again, beside one that is left alone.

Children are forked from a process that has imported everything once, so that a trial costs a second and not ten.
Usage: kill_trials.py TRIALS SEED WORK option... ; prints one line per trial, the step it was killed after.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from llava.train.train import train


def child(words: list[str], folder: Path) -> int:
    """Fork a training; it writes the number of its steps to a file, so that the parent knows when to kill it."""
    process = os.fork()
    if process:
        return process
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        train(argv=[*words, f"--output_dir={folder / 'run'}"])
        os._exit(0)
    except BaseException as error:  # noqa: BLE001  # a forked child must not run its parent's handlers
        os.write(2, repr(error).encode())
        os._exit(1)


def steps_seen(folder: Path) -> int:
    log = folder / "log"
    return log.read_text(errors="replace").count("'loss'") if log.exists() else 0


def equal(first: Path, second: Path) -> bool:
    """Bit-equal weights; the files differ in the name of the archive inside."""
    one, other = (torch.load(path, weights_only=True) for path in (first, second))
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def main() -> None:
    trials, seed, work, words = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:]
    torch.set_num_threads(1)
    draw = random.Random(seed)
    whole = work / "whole"
    whole.mkdir()
    assert os.waitpid(child(words, whole), 0)[1] == 0, (whole / "log").read_text()
    total = steps_seen(whole)
    for trial in range(trials):
        folder = work / f"trial-{trial}"
        folder.mkdir()
        target, kills = draw.randint(1, total - 1), 0
        process = child(words, folder)
        while steps_seen(folder) < target and os.waitpid(process, os.WNOHANG) == (0, 0):
            time.sleep(0.002)
        time.sleep(draw.random() * 0.1)  # into a step, or into a save
        try:
            os.kill(process, signal.SIGKILL)
            kills = 1
        except ProcessLookupError:
            pass
        try:
            os.waitpid(process, 0)
        except ChildProcessError:
            pass
        status = os.waitpid(child(words, folder), 0)[1]
        same = equal(folder / "run" / "mm_projector.bin", whole / "run" / "mm_projector.bin")
        sys.stdout.write(f"killed={kills} after={target} status={status} same={same}\n")


if __name__ == "__main__":
    main()
