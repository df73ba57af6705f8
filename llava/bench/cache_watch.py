"""The keys and values that are there when memory is at its peak: not those of the end, which a peak may be long before.

The peak is read and begun anew between any two decoder layers, and each stretch gets the keys and values at its end. A
prompt's first layers run while most of the cache is not there yet, and an encoder's peak has none beside it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from torch import Tensor, nn


class Meter(Protocol):
    """Reads memory. `LivePeak` is one."""

    @property
    def now(self) -> int:
        """Bytes there now."""
        ...

    def restart(self) -> int:
        """Bytes there at most since the last call; the next peak begins with what is there now."""
        ...


class CacheWatch:
    """Of one run of a language model. peak: bytes at the worst moment. at_peak: bytes of keys and values there then.
    cache: at the end."""

    def __init__(self, layers: Sequence[nn.Module], meter: Meter) -> None:
        self._layers, self._meter = layers, meter
        self._keys_and_values: Any = None
        self.peak = self.at_peak = self.cache = 0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Around the run. The cache is kept alive until `end`, so that memory after the answer still holds it."""
        handles = [layer.register_forward_pre_hook(self._before, with_kwargs=True) for layer in self._layers]
        self._meter.restart()
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        self._read()

    def end(self) -> None:
        """Let go of the cache."""
        self._keys_and_values = None

    def _before(self, layer: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self._keys_and_values = kwargs.get("past_key_values")
        self._read()

    def _read(self) -> None:
        self.cache = bytes_of(self._keys_and_values)
        peak = self._meter.restart()
        if peak > self.peak:
            self.peak, self.at_peak = peak, self.cache


def bytes_of(cache: Any) -> int:
    """Bytes of the keys and values in a transformers cache; 0 for None and for layers that hold none yet."""
    tensors = (getattr(layer, name, None) for layer in getattr(cache, "layers", ()) for name in ("keys", "values"))
    return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, Tensor))
