"""Memory of inference by part: weights, KV cache, activations; at the worst moment and after the answer.

The peak alone hides what compression changes: 7B weights are 14 GB whatever the method, and the cache that 512 fewer
tokens save is 0.25 GB. So the parts are told apart: weights are counted from the model, keys and values are read from
the cache as the layers run (`llava.bench.cache_watch`), activations are what remains.
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llava.bench.cache_watch import CacheWatch
from llava.bench.live_memory import LivePeak

_PARTS = (
    "weights = storages of parameters, buffers and quantisation states, as stored; cache = keys and values at the end "
    "of the answer, and at the peak; activations = peak - weights - other - the cache at the peak"
)
GPU_HOW = (
    "CUDA caching allocator, one run to warm up, then one: peak = most that was allocated, read and begun anew between "
    f"decoder layers; steady = allocated after the answer, its cache still held; {_PARTS}; other = allocated before "
    "the run that is neither (library workspaces, inputs, static buffers, other models); reserved = "
    "max_memory_reserved, which also holds the allocator's unused blocks and what captured graphs use inside"
)
CPU_HOW = (
    "bytes of tensors the run makes, counted as torch makes and frees them (no allocator, nothing inside an "
    "operation): peak and steady = what was there before + those at the worst moment, and after the answer with its "
    f"cache still held; {_PARTS}; other is not seen"
)


def weight_bytes(model: nn.Module) -> dict[torch.device, int]:
    """Bytes of a model's weights by device: every storage behind a parameter or buffer once, whole, as stored.

    Tied weights count once. Of weights quantised by bitsandbytes also what turns them back counts (scales, code books).
    """
    found: dict[torch.device, int] = {}
    seen: set[int] = set()
    for tensor in _held(model):
        storage = tensor.untyped_storage()
        if storage._cdata not in seen:
            seen.add(storage._cdata)
            found[tensor.device] = found.get(tensor.device, 0) + storage.nbytes()
    return found


def _held(model: nn.Module) -> Iterator[Tensor]:
    for tensor in (*model.parameters(), *model.buffers()):
        yield tensor
        yield from _quantisation(vars(tensor))
    for module in model.modules():
        if _is_quantisation(module):
            yield from _quantisation(vars(module))


def _quantisation(attributes: dict[str, Any]) -> Iterator[Tensor]:
    """Tensors among the attributes of a quantised weight or layer, and in the state objects that hang there."""
    for value in attributes.values():
        if isinstance(value, Tensor):
            yield value
        elif _is_quantisation(value) and not isinstance(value, nn.Module):  # a weight also points to its layer
            yield from _quantisation(vars(value))


def _is_quantisation(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "bitsandbytes" and hasattr(value, "__dict__")


@torch.no_grad()
def measure_footprint(
    model: nn.Module, run: Callable[[], Any], *, layers: Sequence[nn.Module] = (), static_cache: int = 0
) -> dict[str, Any]:
    """Bytes of one run of inference by part, and `how` they were found.

    Args:
        model: its weights say which device is measured: the GPU they are on, else the CPU.
        run: answers one request.
        layers: the decoder's, called with `past_key_values` by name: their cache is read as it grows. None: no cache.
        static_cache: bytes of keys and values that were allocated before the run; the layers are not watched then,
            since graphs replay without calling them.

    Returns:
        peak_bytes = weights_bytes + other_bytes + cache_at_peak_bytes + activations_bytes; cache_bytes at the end;
        steady_bytes; reserved_bytes (None on a CPU); offloaded_bytes, weights that are not on the measured device.

    Raises: ValueError when the weights are on several GPUs, or static_cache is more than there was before the run.
    """
    by_device = weight_bytes(model)
    gpus = [device for device in by_device if device.type == "cuda"]
    if len(gpus) > 1:
        raise ValueError(f"memory is measured on one GPU; the weights are on {', '.join(sorted(map(str, gpus)))}")
    device = gpus[0] if gpus else torch.device("cpu")
    weights = by_device.get(device, 0)
    watched = () if static_cache else layers
    found = _on_gpu(run, device, watched) if gpus else _on_cpu(run, weights + static_cache, watched)
    other = found.before - weights - static_cache
    if static_cache and other < 0:
        raise ValueError(
            f"static_cache is {static_cache}, but beside the weights there were {found.before - weights} bytes before "
            "the run; pass the bytes of the keys and values that were allocated before it"
        )
    at_peak = static_cache or found.at_peak
    return {
        "how": GPU_HOW if gpus else CPU_HOW,
        "weights_bytes": weights,
        "other_bytes": other,
        "cache_bytes": static_cache or found.cache,
        "cache_at_peak_bytes": at_peak,
        "activations_bytes": found.peak - weights - other - at_peak,
        "peak_bytes": found.peak,
        "steady_bytes": found.steady,
        "reserved_bytes": found.reserved,
        "offloaded_bytes": sum(by_device.values()) - weights,
    }


def peak_bytes(run: Callable[[], Any], device: torch.device | str) -> int:
    """Bytes a run makes at its worst moment, beyond what was there before: allocated on a GPU, counted on a CPU."""
    device = torch.device(device)
    found = _on_gpu(run, device) if device.type == "cuda" else _on_cpu(run, 0)
    return found.peak - found.before


@dataclass(frozen=True)
class _Found:
    """Bytes before, at the peak, and after with result and cache held; of the cache at the end and at the peak;
    reserved at most."""

    before: int
    peak: int
    steady: int
    cache: int
    at_peak: int
    reserved: int | None = None


class _Allocator:
    """A `Meter` of CUDA's caching allocator. reserved: bytes at most."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.reserved = device, 0

    @property
    def now(self) -> int:
        return torch.cuda.memory_allocated(self.device)

    def restart(self) -> int:
        self.reserved = max(self.reserved, torch.cuda.max_memory_reserved(self.device))
        peak = torch.cuda.max_memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        return peak


def _on_gpu(run: Callable[[], Any], device: torch.device, layers: Sequence[nn.Module] = ()) -> _Found:
    run()  # workspaces of matrix libraries come with the first call and stay
    gc.collect()
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    meter = _Allocator(device)
    before, watch = meter.now, CacheWatch(layers, meter)
    with watch.watching():
        result = run()
        torch.cuda.synchronize(device)
    steady = meter.now
    watch.end()
    del result
    return _Found(before, watch.peak, steady, watch.cache, watch.at_peak, meter.reserved)


def _on_cpu(run: Callable[[], Any], before: int, layers: Sequence[nn.Module] = ()) -> _Found:
    """The same, counted; what was there before cannot be seen."""
    with LivePeak() as live:
        watch = CacheWatch(layers, live)
        with watch.watching():
            result = run()
    steady = live.now
    watch.end()
    del result
    return _Found(before, before + watch.peak, before + steady, watch.cache, watch.at_peak)
