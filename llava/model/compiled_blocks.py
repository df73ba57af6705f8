"""torch.compile block by block: norms, rotations and activations fused, and one compilation serves all equal blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from llava.model.static_cache import StaticCache

RECOMPILATIONS = 256  # shapes of one block: lengths, batch sizes, numbers of tiles


class CompiledBlocks:
    """The decoder's layers, and the tower's blocks before the selected one; in use inside `in_use` only.

    The selected block stays as it is: a compressor reads its queries and keys by hooks, which compiled code passes
    over. Only passes with a `StaticCache` go through compiled layers.
    """

    def __init__(self, model: Any) -> None:
        tower = model.get_vision_tower()
        blocks = [] if tower is None else tower.vision_tower.vision_model.encoder.layers[: max(0, tower.depth - 1)]
        self._calls: list[tuple[Any, Callable[..., Any]]] = [(block, _compiled(block)) for block in blocks]
        self._calls += [(layer, _layer_call(layer, index)) for index, layer in enumerate(model.get_model().layers)]

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Inside, each block's own slot for a compiled call (the one `nn.Module.compile` fills) holds ours, and a block
        is compiled for every shape it meets; by default torch.compile gives up after eight."""
        before = [block._compiled_call_impl for block, _ in self._calls]
        try:
            for block, call in self._calls:
                block._compiled_call_impl = call
            with torch._dynamo.config.patch(recompile_limit=RECOMPILATIONS):
                yield
        finally:
            for (block, _), call in zip(self._calls, before, strict=True):
                block._compiled_call_impl = call


def _compiled(block: Any) -> Callable[..., Any]:
    call: Callable[..., Any] = torch.compile(block._call_impl, dynamic=False)
    return call


def _layer_call(layer: Any, index: int) -> Callable[..., Any]:
    """A layer's call that hands it its own part of the cache. Given the whole cache it would pick that part by its
    index, and each layer would be compiled anew for the sake of that number."""
    compiled = _compiled(layer)

    def call(*args: Any, past_key_values: Any = None, **kwargs: Any) -> Any:
        if isinstance(past_key_values, StaticCache):
            return compiled(*args, past_key_values=past_key_values.layers[index], **kwargs)
        return layer._call_impl(*args, past_key_values=past_key_values, **kwargs)

    return call
