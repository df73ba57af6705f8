"""Memory of inference by part: weights, KV cache, activations; at the worst moment and after the answer.

The peak alone hides what compression changes: 7B weights are 14 GB whatever the method, and the cache that 512 fewer
tokens save is 0.25 GB. So the parts are told apart: weights are counted from the model, the cache is given by the
caller (`llava.bench.roofline.kv_bytes`), activations are what remains.
"""

import gc
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from llava.bench.live_memory import LivePeak

_WEIGHTS = "weights = storages of parameters, buffers and quantisation states, as stored; cache = as given"
GPU_HOW = (
    "CUDA caching allocator, one run to warm up, then one: peak = max_memory_allocated; steady = allocated with the "
    f"result still held; {_WEIGHTS}; other = allocated before the run that is neither (library workspaces, inputs, "
    "static buffers, other models); activations = peak - weights - cache - other; reserved = max_memory_reserved, "
    "which also holds the allocator's unused blocks and what captured graphs use inside"
)
CPU_HOW = (
    "bytes of tensors the run makes, counted as torch makes and frees them (no allocator, nothing inside an "
    "operation): peak and steady = what was there before + those at the worst moment, and with the result still held; "
    f"{_WEIGHTS}; activations = peak - weights - cache; other is not seen"
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
    model: nn.Module, run: Callable[[], Any], cache_bytes: int, *, cache_before: bool = False
) -> dict[str, Any]:
    """Bytes of one run of inference by part, and `how` they were found.

    Args:
        model: its weights say which device is measured: the GPU they are on, else the CPU.
        run: answers one request; what it returns counts as steady.
        cache_bytes: of the keys and values.
        cache_before: they were allocated before the run (a static cache), not by it.

    Returns:
        peak_bytes = weights_bytes + other_bytes + cache_bytes + activations_bytes; steady_bytes; reserved_bytes (None
        on a CPU); offloaded_bytes, weights that are not on the measured device.

    Raises: ValueError when the weights are on several GPUs, or cache_bytes is more than there was room for.
    """
    by_device = weight_bytes(model)
    gpus = [device for device in by_device if device.type == "cuda"]
    if len(gpus) > 1:
        raise ValueError(f"memory is measured on one GPU; the weights are on {', '.join(sorted(map(str, gpus)))}")
    device = gpus[0] if gpus else torch.device("cpu")
    weights = by_device.get(device, 0)
    start = weights + cache_before * cache_bytes
    before, peak, steady, reserved = _on_gpu(run, device) if gpus else _on_cpu(run, start)
    room, when = (before - weights, "beside the weights before it") if cache_before else (peak - before, "at its peak")
    if cache_bytes > room:
        raise ValueError(
            f"cache_bytes is {cache_bytes}, but the run had {room} bytes {when}; pass the keys and values of this run, "
            "and cache_before=True if they were there before it"
        )
    return {
        "how": GPU_HOW if gpus else CPU_HOW,
        "weights_bytes": weights,
        "other_bytes": before - start,
        "cache_bytes": cache_bytes,
        "activations_bytes": peak - before - (0 if cache_before else cache_bytes),
        "peak_bytes": peak,
        "steady_bytes": steady,
        "reserved_bytes": reserved,
        "offloaded_bytes": sum(by_device.values()) - weights,
    }


def peak_bytes(run: Callable[[], Any], device: torch.device | str) -> int:
    """Bytes a run makes at its worst moment, beyond what was there before: allocated on a GPU, counted on a CPU."""
    device = torch.device(device)
    before, peak, _, _ = _on_gpu(run, device) if device.type == "cuda" else _on_cpu(run, 0)
    return peak - before


def _on_gpu(run: Callable[[], Any], device: torch.device) -> tuple[int, int, int, int]:
    """Bytes allocated before, at the peak, and after with the result held; bytes reserved at most."""
    run()  # workspaces of matrix libraries come with the first call and stay
    gc.collect()
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    result = run()
    torch.cuda.synchronize(device)
    peak, steady = torch.cuda.max_memory_allocated(device), torch.cuda.memory_allocated(device)
    reserved = torch.cuda.max_memory_reserved(device)
    del result
    return before, peak, steady, reserved


def _on_cpu(run: Callable[[], Any], before: int) -> tuple[int, int, int, None]:
    """The same, counted; what was there before cannot be seen."""
    with LivePeak() as live:
        result = run()
    steady = live.now
    del result
    return before, before + live.peak, before + steady, None
