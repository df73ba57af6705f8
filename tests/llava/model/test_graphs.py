"""A Program's order of doing things, with a stand-in for torch's graphs; the real ones are tried in test_fast.py."""

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest

from llava.model import graphs
from llava.model.graphs import WARM_UPS, Program
from visionzip.core.stages import listening, stage


class Cuda:
    """Notes what happens on it; inside `graph` a run is recorded."""

    def __init__(self):
        self.done, self.side = [], SimpleNamespace(wait_stream=lambda other: self.done.append("side waits"))

    def current_stream(self):
        return SimpleNamespace(wait_stream=lambda other: self.done.append("main waits"))

    def device(self, device):
        return nullcontext()

    stream = device

    def CUDAGraph(self):
        return SimpleNamespace(replay=lambda: self.done.append("replay"))

    @contextmanager
    def graph(self, graph, pool, capture_error_mode):
        assert (pool, capture_error_mode) == ("handle", "thread_local")
        self.done.append("capture")
        yield
        self.done.append("captured")


@pytest.fixture
def cuda(monkeypatch):
    cuda = Cuda()
    monkeypatch.setattr(graphs, "torch", SimpleNamespace(cuda=cuda))
    return cuda


def test_warmed_up_beside_then_captured_then_replayed(cuda):
    results = iter("abcde")

    def run():
        cuda.done.append("run")
        return next(results)

    program = Program("x", run, SimpleNamespace(device=0, handle="handle", side=cuda.side))
    assert cuda.done == ["side waits", *["run"] * WARM_UPS, "main waits", "capture", "run", "captured"]
    assert [program(), program()] == ["d", "d"], "the captured run's result"
    assert cuda.done[-2:] == ["replay", "replay"]


def test_without_a_pool_it_is_the_function(cuda):
    results = iter("ab")
    program = Program("x", lambda: next(results), None)
    assert [program(), program()] == ["a", "b"]
    assert not cuda.done


def test_a_listener_hears_nothing_of_a_capture(cuda):
    heard = SimpleNamespace(stage=lambda name: pytest.fail(f"heard {name}"))

    def run():
        with stage("vision"):
            return 1

    with listening(heard):
        assert Program("x", run, SimpleNamespace(device=0, handle="handle", side=cuda.side))() == 1
