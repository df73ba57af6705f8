"""A polite end: on SIGTERM, which schedulers send before they take a machine back, save and leave with an own code.

So does Ctrl-C (SIGINT); a second one ends at once.

exit code 75 (EX_TEMPFAIL)   stopped with a complete checkpoint; the same command goes on from it
"""

import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

logger = logging.getLogger(__name__)

EXIT_CODE = 75


# What a worker of the data loader lives on after SIGTERM, in seconds: the step and its checkpoint need it alive.
GRACE = 300


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether any process says so: what one sees, all must act on together. Every process must call it."""
    return bool(any_of_processes(torch.tensor(flag), device))


def any_of_processes(flags: Tensor, device: torch.device) -> Tensor:
    """`flags` (bool, CPU) with what is true on any process true on all. Every process must call it."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return flags
    said = flags.to(device, torch.uint8)
    torch.distributed.all_reduce(said, op=torch.distributed.ReduceOp.MAX)
    return said.bool().cpu()


def outlive_signal(start: Any, worker: int) -> None:
    """A `worker_init_fn`: a signal to the whole process group must not take the data away before the last step ends.

    The worker still ends with its loader, and by itself GRACE seconds after the signal.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE))
    if start is not None:
        start(worker)


class StopOnSignal(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """Ends a training after the step in which a process of it got SIGTERM or SIGINT, with a checkpoint of that step."""

    def __init__(self) -> None:
        self.asked = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Both signals are noted inside the block and do what they did before outside. Main thread only."""

        def note(number: int, _: object) -> None:
            if self.asked and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.asked = True

        before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """transformers' hook: all processes agree, so that all of them save."""
        self.asked = any_process(self.asked, args.device)
        if self.asked:
            control.should_save = control.should_training_stop = True

    def leave_if_asked(self, state: Any) -> None:
        """After training: exit with EXIT_CODE where it stopped before its last step."""
        if self.asked and state.global_step < state.max_steps:
            logger.warning(
                "as told, stopped after step %d of %d, its checkpoint is complete; the same command goes on from it",
                state.global_step,
                state.max_steps,
            )
            sys.exit(EXIT_CODE)
