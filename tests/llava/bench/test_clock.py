"""The clock: stages are summed and told apart, rounds alternate, ratios are paired."""

import time

import pytest
import torch

from llava.bench.clock import Clock, alternate, ratios, spread, summarize, timed
from visionzip.core.stages import listening, stage


def _sleeping(**naps: float):
    def run() -> None:
        for name, seconds in naps.items():
            with stage(name):
                time.sleep(seconds)

    return run


def test_a_run_is_timed_by_stage_and_as_a_whole():
    def run():
        _sleeping(vision=0.02)()
        time.sleep(0.02)  # under no stage
        _sleeping(prefill=0.01)()

    took = timed(run, "cpu")
    assert list(took) == ["total", "vision", "prefill"]
    assert took["vision"] == pytest.approx(0.02, abs=0.01)
    assert took["prefill"] == pytest.approx(0.01, abs=0.008)
    assert took["total"] >= 0.049


def test_a_stage_that_comes_back_is_summed():
    clock = Clock("cpu")
    with listening(clock):
        for _ in range(3):
            _sleeping(decode=0.005)()
    assert 0.014 < clock.seconds()["decode"] < 0.1


def test_programs_take_turns_after_their_warm_up():
    seen: list[str] = []
    runs = {name: (lambda name=name: seen.append(name)) for name in "ab"}
    times = alternate(runs, "cpu", rounds=2, warmup=2)
    assert seen == ["a", "a", "b", "b", "a", "b", "a", "b"]
    assert {name: len(rounds) for name, rounds in times.items()} == {"a": 2, "b": 2}


def test_a_program_that_fails_is_not_swallowed():
    with pytest.raises(ZeroDivisionError):
        alternate({"a": lambda: 1 / 0}, "cpu", rounds=1)


@pytest.mark.parametrize(("rounds", "warmup"), [(0, 1), (1, -1)])
def test_impossible_counts_are_refused(rounds, warmup):
    with pytest.raises(ValueError, match="rounds >= 1"):
        alternate({}, "cpu", rounds=rounds, warmup=warmup)


def test_ratios_are_paired_by_round():
    """A slow second round slows both: the paired ratio stays 2, that of the two medians would not."""
    dense = [{"total": 2.0}, {"total": 20.0}, {"total": 3.0}]
    zipped = [{"total": 1.0}, {"total": 10.0}, {"total": 1.5}]
    assert ratios(dense, zipped) == {"median": 2.0, "p10": 2.0, "p90": 2.0, "n": 3}
    with pytest.raises(ValueError, match="equally many rounds, got 3 and 2"):
        ratios(dense, zipped[:2])


def test_spread_of_one_value_and_of_none():
    assert spread([0.25]) == {"median": 0.25, "p10": 0.25, "p90": 0.25, "n": 1}
    with pytest.raises(ValueError, match="no value"):
        spread([])


def test_a_stage_missing_in_one_run_counts_as_nothing_there():
    summary = summarize([{"total": 3.0, "score": 1.0}, {"total": 1.0}])
    assert summary["score"]["median"] == 0.5
    assert summary["total"]["median"] == 2.0


@pytest.mark.gpu
def test_device_events_see_the_work_and_not_the_launch():
    """A matrix product of several milliseconds returns to Python at once; the stage must hold all of it."""
    matrix = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)

    def run():
        with stage("product"):
            for _ in range(10):
                matrix @ matrix

    run()
    took = timed(run, "cuda")
    assert took["product"] > 0.8 * took["total"] > 0.008
