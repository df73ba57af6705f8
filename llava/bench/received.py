"""What attention received costs: the materialised map, torch in blocks, and Triton, at sizes of real towers.

    rows = measure("cuda", torch.bfloat16, GPU_SIZES)

A row says which way, which size, how long (several runs, in turn with the other ways), how many bytes beyond the
inputs, and how far from a float64 reference. What cannot be measured stays in the list and says why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from llava.bench.clock import alternate, spread
from llava.bench.footprint import peak_bytes
from visionzip.core.stages import stage
from visionzip.kernels.received import HAS_TRITON, received_chunked

Way = Callable[[Tensor, Tensor], Tensor]
GIB = 1 << 30
# Beyond this the map is not made, neither to be timed nor as a reference (which is made head by head).
MAP_LIMIT = 48 * GIB


@dataclass(frozen=True)
class Size:
    """Tiles, patches, heads and head width of one measurement; `rounds` timed runs of every way."""

    tiles: int
    patches: int
    heads: int = 16
    width: int = 72
    rounds: int = 10

    @property
    def map_numbers(self) -> int:
        """Numbers in the attention maps of all tiles."""
        return self.tiles * self.heads * self.patches**2


# SigLIP-so400m (729 patches, heads of 72), a tower of 1024 x 1024 pixels and one of four times as many; CLIP's width of
# 64 at the ends. A few seconds on a GPU of 2022, most of it compilation of kernels.
GPU_SIZES = (
    Size(1, 729, rounds=50),
    Size(20, 729, rounds=20),
    Size(1, 4096, rounds=20),
    Size(1, 16384, width=64, rounds=5),
    Size(1, 16384, rounds=5),
)


def materialised(query: Tensor, keys: Tensor) -> Tensor:
    """The plain way: scores, float32 softmax and mean over [T, H, N, N] -> [T, N]."""
    scores = query @ keys.transpose(2, 3) * query.shape[-1] ** -0.5
    return scores.softmax(dim=-1, dtype=torch.promote_types(query.dtype, torch.float32)).mean(dim=(1, 2))


def ways_for(device: torch.device) -> dict[str, Way]:
    """The ways this device can go, by name."""
    ways: dict[str, Way] = {"materialised": materialised, "chunked": _chunked}
    if device.type == "cuda" and HAS_TRITON:
        ways["triton"] = _triton
    return ways


def _chunked(query: Tensor, keys: Tensor) -> Tensor:
    return received_chunked(query, keys, query.shape[-1] ** -0.5)


def _triton(query: Tensor, keys: Tensor) -> Tensor:
    from visionzip.kernels.received_triton import received_triton

    received: Tensor = received_triton(query, keys, query.shape[-1] ** -0.5)
    return received


def map_bytes(size: Size, dtype: torch.dtype) -> int:
    """What the plain way holds at its worst moment: scores and attention, and a wide copy of half precision scores."""
    wide = torch.promote_types(dtype, torch.float32)
    return size.map_numbers * (dtype.itemsize + wide.itemsize * (1 if dtype == wide else 2))


def _at_hand(device: torch.device, limit: int) -> int:
    """Bytes a map may take: `limit`, or what a GPU has left if that is less."""
    if device.type != "cuda":
        return limit
    free, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min(limit, free + unused)


def measure(
    device: torch.device | str,
    dtype: torch.dtype,
    sizes: Sequence[Size],
    *,
    map_limit: int = MAP_LIMIT,
    report: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """One row for every size and way. Inputs are random, laid out as a tower's projections are ([T, N, H, d]).

    A row: way, the size's fields, dtype; seconds {median, p10, p90, n}; peak_bytes beyond the inputs, result included;
    max_error and its share of the largest value, against the plain way in float64. Or, instead of these four,
    "not_measured" and why. Time is the device's own (events) on a GPU, launch gaps included, and perf_counter on a CPU;
    peak_bytes is the allocator's on a GPU, and counted tensors on a CPU.

    map_limit: bytes beyond which no map is made; the reference is left out (None) where one head's map passes it.
    report: told of progress.
    """
    device = torch.device(device)
    rows = []
    for size in sizes:
        query, keys = _inputs(size, device, dtype)
        limit, need = _at_hand(device, map_limit), map_bytes(size, dtype)
        reference = _reference(query, keys, limit)
        ways = ways_for(device)
        runs = {
            name: partial(_marked, way, query, keys)
            for name, way in ways.items()
            if name != "materialised" or need <= limit
        }
        times = alternate(runs, device, rounds=size.rounds)
        for name in ways:
            row = {"way": name, **asdict(size), "dtype": str(dtype).removeprefix("torch.")}
            if name not in runs:
                row["not_measured"] = f"needs {need / GIB:.2f} GiB, and {limit / GIB:.2f} GiB are allowed or free"
            else:
                row["seconds"] = spread([run["received"] for run in times[name]])
                row["peak_bytes"] = peak_bytes(runs[name], device)
                row |= _errors(runs[name](), reference)
            rows.append(row)
        report(f"{size.tiles} x {size.patches} patches, heads of {size.width}: measured")
    return rows


def _marked(way: Way, query: Tensor, keys: Tensor) -> Tensor:
    """One run, as a stage the clock hears."""
    with stage("received"):
        return way(query, keys)


def _inputs(size: Size, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """query, keys [T, H, N, d]; queries wide enough that the attention is not flat."""
    generator = torch.Generator(device).manual_seed(0)
    shape = (2, size.tiles, size.patches, size.heads, size.width)
    query, keys = torch.randn(shape, device=device, generator=generator).transpose(2, 3)
    return (2 * query).to(dtype), keys.to(dtype)


def _reference(query: Tensor, keys: Tensor, map_limit: int) -> Tensor | None:
    """The plain way in float64, one head at a time, [T, N]; None where even that passes the limit."""
    if 3 * 8 * query.shape[2] ** 2 > map_limit:
        return None
    return torch.stack([
        torch.stack([
            materialised(query[tile, head].double()[None, None], keys[tile, head].double()[None, None])[0]
            for head in range(query.shape[1])
        ]).mean(dim=0)
        for tile in range(query.shape[0])
    ])


def _errors(got: Tensor, reference: Tensor | None) -> dict[str, float | None]:
    if reference is None:
        return {"max_error": None, "max_relative_error": None}
    difference = float((got.double() - reference).abs().max())
    return {"max_error": difference, "max_relative_error": difference / float(reference.max())}
