"""Time of device work, by stage and as a whole, without disturbing what is timed.

On a GPU every mark is an event in the device's own queue, read after one wait at the end: nothing synchronises between
two marks, and a stage lasts from the moment the device reaches its begin to the moment it has done its work. On a CPU
marks are `time.perf_counter`. A stage that occurs several times in a run (decoding steps, tiles) is summed.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from visionzip.core.stages import listening


class Clock:
    """A listener of `visionzip.core.stages` for one device; `seconds` after the run."""

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self._spans: list[tuple[str, Any, Any]] = []

    def _mark(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count what happens inside towards `name`."""
        begin = self._mark()
        yield
        self._spans.append((name, begin, self._mark()))

    def seconds(self) -> dict[str, float]:
        """Seconds by stage, in order of first occurrence. Waits for the device."""
        synchronize(self.device)
        total: dict[str, float] = {}
        for name, begin, end in self._spans:
            took = begin.elapsed_time(end) / 1e3 if self.device.type == "cuda" else end - begin
            total[name] = total.get(name, 0.0) + took
        return total


def synchronize(device: torch.device | str) -> None:
    """Wait until the device has done all it was given; nothing to do for a CPU."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def timed(run: Callable[[], Any], device: torch.device | str) -> dict[str, float]:
    """One run: {"total": seconds from call to finished device work, stage: seconds, ...}.

    `total` is wall time between two waits for the device, so it holds launch gaps and Python as a user feels them.
    """
    clock = Clock(device)
    synchronize(device)
    begin = time.perf_counter()
    with listening(clock):
        run()
    synchronize(device)
    total = time.perf_counter() - begin
    return {"total": total, **clock.seconds()}


Runs = Mapping[str, Callable[[], Any]]


def alternate(
    runs: Runs,
    device: torch.device | str,
    *,
    rounds: int,
    warmup: int = 1,
    report: Callable[[str], None] = lambda _: None,
) -> dict[str, list[dict[str, float]]]:
    """Time several programs in turn: A B C A B C ..., so that what slows the machine for a while slows them all.

    warmup: untimed runs of each in front (first calls compile, load and choose kernels). report: told of progress.

    Raises: ValueError for fewer than one round.
    """
    if rounds < 1 or warmup < 0:
        raise ValueError(f"expected rounds >= 1 and warmup >= 0, got {rounds} and {warmup}")
    for name, run in runs.items():
        for _ in range(warmup):
            run()
        synchronize(device)
        report(f"{name}: warm")
    times: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
    for number in range(rounds):
        for name, run in runs.items():
            times[name].append(timed(run, device))
        report(f"round {number + 1} of {rounds}")
    return times


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, 10th and 90th percentile (linear between neighbours), and how many values.

    >>> spread([1.0, 2.0, 3.0, 4.0, 5.0])
    {'median': 3.0, 'p10': 1.4, 'p90': 4.6, 'n': 5}
    """
    if not values:
        raise ValueError("no value to summarise")
    cuts = statistics.quantiles(values, n=10, method="inclusive") if len(values) > 1 else [values[0]] * 9
    numbers = {"median": statistics.median(values), "p10": cuts[0], "p90": cuts[8]}
    return {**{name: float(f"{value:.6g}") for name, value in numbers.items()}, "n": len(values)}


def summarize(times: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Spread of the total and of every stage over the runs; a stage that a run did not have counts as 0 there."""
    names = dict.fromkeys(name for run in times for name in run)
    return {name: spread([run.get(name, 0.0) for run in times]) for name in names}


def ratios(
    base: Sequence[Mapping[str, float]], other: Sequence[Mapping[str, float]], key: str = "total"
) -> dict[str, float]:
    """How many times faster `other` is than `base`, paired round by round. -> spread of base / other

    Raises: ValueError when the two have not the same number of rounds.
    """
    if len(base) != len(other):
        raise ValueError(f"paired ratios need equally many rounds, got {len(base)} and {len(other)}")
    return spread([first[key] / second[key] for first, second in zip(base, other, strict=True)])
