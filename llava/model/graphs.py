"""A computation over fixed buffers that a GPU replays without Python."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Generic, TypeVar

import torch

from visionzip.core.stages import listening

logger = logging.getLogger(__name__)

T = TypeVar("T")
WARM_UPS = 3  # lazy initialisation, compilation and library heuristics must be over before a capture


class Pool:
    """Memory that graphs share: they never run at the same time, so one may use what another has done with.

    What a graph returns lies in it and holds until another graph of the pool runs.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.handle: Any = torch.cuda.graph_pool_handle()
        # For warm-ups; one, as cuBLAS keeps a workspace for every stream it meets.
        self.side: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


class Program(Generic[T]):
    """`run`, captured as a CUDA graph where a pool is given, called as it is elsewhere.

    `run` takes its inputs from buffers that keep their place, never waits for the device, and may be called any number
    of times before the first real input: it is, to warm up.
    """

    def __init__(self, name: str, run: Callable[[], T], pool: Pool | None) -> None:
        self._run = run
        self._graph: Any = None
        self._result: T | None = None
        if pool is not None:
            with listening(_Deaf()):  # a clock must not put its marks into the graph
                self._capture(pool)
            logger.info("captured %s", name)

    def __call__(self) -> T:
        """Run; a graph's result is the same tensors every time."""
        if self._graph is None:
            return self._run()
        self._graph.replay()
        return self._result  # type: ignore[return-value]

    def _capture(self, pool: Pool) -> None:
        with torch.cuda.device(pool.device):
            side = pool.side
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(WARM_UPS):
                    self._run()
            torch.cuda.current_stream().wait_stream(side)
            self._graph = torch.cuda.CUDAGraph()
            # thread_local: a data loader's thread may pin memory meanwhile.
            with torch.cuda.graph(self._graph, pool=pool.handle, capture_error_mode="thread_local"):
                self._result = self._run()


class _Deaf:
    """A listener that hears no stages."""

    def stage(self, name: str) -> AbstractContextManager[None]:
        return nullcontext()
