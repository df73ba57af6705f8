"""Where one pass through the model stands: names for its stages, heard only by who asks.

    with listening(clock):          # a benchmark; nothing listens otherwise
        tokens = tower.encode(tiles)

`stage` marks a stage in the code that does the work, so that a measurement times the very path that answers questions.
Without a listener it costs a lookup. In a graph that torch.compile traces there are no stages.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Protocol

import torch


class Listener(Protocol):
    """Hears stages begin and end."""

    def stage(self, name: str) -> AbstractContextManager[None]:
        """A context that lasts as long as the stage does."""
        ...


_listener: ContextVar[Listener | None] = ContextVar("visionzip_stage_listener", default=None)


def stage(name: str) -> AbstractContextManager[None]:
    """Mark a stage: `with stage("score"): ...`. Stages do not nest."""
    if torch.compiler.is_compiling():
        return nullcontext()
    listener = _listener.get()
    return nullcontext() if listener is None else listener.stage(name)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Inside, this thread's stages are told to `listener`."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
