"""What a request must cost at least: floating-point operations and bytes by stage, and the seconds below which no
program can answer it on a device whose two ceilings were measured.

A multiply-add is 2 FLOPs, here and in every record. Counted are matrix products (projections, attention, MLP, output
head) and the products of scoring and merging; norms, activations, softmax and rotations are left out, so the count is a
floor as well. Causal attention counts the half of the map that is used. The head counts at one position in prefill.

Bytes are the fewest a stage can move: every weight read once, what enters the stage read once, what leaves it written
once (the KV cache too); everything in between is taken to stay on the chip.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from llava.bench.shapes import ModelShape

STAGES = ("vision", "score", "merge", "project", "prefill", "decode")


@dataclass(frozen=True)
class Work:
    """Floating-point operations (a multiply-add is 2) and bytes moved between memory and chip."""

    flops: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.bytes + other.bytes)


@dataclass(frozen=True)
class Request:
    """One request, or `batch` equal ones together.

    tiles: of a request. visual, text: tokens a request brings into the language model. new_tokens: it answers with.
    element_bytes: of weights and activations. llm_weight_bytes: per parameter of the decoder blocks where they are
    quantised (`llava.bench.memory.WEIGHT_BYTES`), else None. tower_blocks: blocks that run; None: all but the last, as
    LLaVA selects layer -2. budget: VisionZip's (dominant, contextual) per tile, None when nothing is scored or merged.
    projected: tokens of a request through the projector; None: those of the budget, or all patches without one.
    kept_per_layer: visual tokens present in each decoder layer, for methods that prune inside; None: all in all.

    Raises: ValueError for a count that is negative, a request without tiles, tokens or rows, or a budget of nothing.
    """

    tiles: int
    visual: int
    text: int
    new_tokens: int
    batch: int = 1
    element_bytes: float = 2
    llm_weight_bytes: float | None = None
    tower_blocks: int | None = None
    budget: tuple[int, int] | None = None
    projected: int | None = None
    kept_per_layer: Sequence[int] | None = None

    def __post_init__(self) -> None:
        for name, least in (("tiles", 1), ("visual", 0), ("text", 0), ("new_tokens", 1), ("batch", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.visual + self.text < 1:
            raise ValueError("a request needs at least one token, got visual=0 and text=0")
        if self.budget is not None and (min(self.budget) < 0 or sum(self.budget) < 1):
            raise ValueError(f"budget must be (dominant, contextual) counts, not both 0, got {self.budget}")


def work(shape: ModelShape, request: Request) -> dict[str, Work]:
    """Work by stage, keys STAGES: "decode" is one decoding step, the mean over the steps of the answer; the others are
    the whole request (times batch).

    The first new token comes out of prefill, so an answer of n tokens has n - 1 steps, the i-th of which sees
    prompt + i tokens. For n = 1 "decode" is the step that would follow.

    Raises: ValueError when tower_blocks, budget or kept_per_layer do not fit the shape.
    """
    return {
        "vision": _vision(shape, request),
        "score": _score(shape, request),
        "merge": _merge(shape, request),
        "project": _project(shape, request),
        "prefill": _prefill(shape, request),
        "decode": _decode(shape, request),
    }


def attention_flops(rows: float, columns: float, width: float) -> float:
    """Scores and weighted values of `rows` queries over `columns` keys, all heads together `width` wide."""
    return 2 * 2 * rows * columns * width


def causal_flops(tokens: float, width: float) -> float:
    """The same for a prompt in which every token sees itself and what stands before it."""
    return attention_flops((tokens + 1) / 2, tokens, width)


def kv_bytes(
    shape: ModelShape, tokens: float, element_bytes: float = 2, kept_per_layer: Sequence[int] | None = None
) -> float:
    """Bytes of the keys and values of one row: `tokens` in every layer, and `kept_per_layer` more in each where given.

    Raises: ValueError when kept_per_layer has not one entry per layer.
    """
    kept = 0 if kept_per_layer is None else sum(_one_per_layer(shape, kept_per_layer))
    return 2 * shape.kv_width * element_bytes * (shape.layers * tokens + kept)


def _one_per_layer(shape: ModelShape, kept: Sequence[int]) -> Sequence[int]:
    if len(kept) != shape.layers:
        raise ValueError(f"kept_per_layer must have one entry for each of {shape.layers} layers, got {len(kept)}")
    return kept


def _vision(shape: ModelShape, request: Request) -> Work:
    blocks = shape.tower_layers - 1 if request.tower_blocks is None else request.tower_blocks
    if not 0 <= blocks <= shape.tower_layers:
        raise ValueError(f"tower_blocks must be 0 to {shape.tower_layers}, the tower's own, got {blocks}")
    tiles, rows, width = request.tiles * request.batch, shape.patches + 1, shape.tower_width
    pixels = 3 * shape.patch_size**2  # of one patch
    matrices = 4 * width**2 + 2 * width * shape.tower_intermediate  # of one block
    embedding = 2 * shape.patches * pixels * width
    flops = embedding + blocks * (2 * rows * matrices + attention_flops(rows, rows, width))
    vectors = 4 * width + shape.tower_intermediate + 5 * width  # biases and norms of one block
    weights = pixels * width + (rows + 1 + 2) * width + blocks * (matrices + vectors)
    moved = tiles * (shape.patches * pixels + rows * width)
    return Work(tiles * flops, request.element_bytes * (weights + moved))


def _score(shape: ModelShape, request: Request) -> Work:
    """One CLS row of one attention map: keys in, a float32 score per patch out."""
    if request.budget is None:
        return Work()
    tiles, rows, width = request.tiles * request.batch, shape.patches + 1, shape.tower_width
    moved = request.element_bytes * (rows + 1) * width + 4 * shape.patches
    return Work(tiles * 2 * rows * width, tiles * moved)


def _merge(shape: ModelShape, request: Request) -> Work:
    """Similarity of the rest to the targets, and the sum of each target's members as a product with a 0/1 matrix."""
    if request.budget is None:
        return Work()
    dominant, contextual = request.budget
    tiles, width = request.tiles * request.batch, shape.tower_width
    rest = shape.patches + 1 - dominant
    if rest < contextual:
        raise ValueError(f"budget {request.budget} does not fit a tile of {shape.patches} patches and CLS")
    flops = 2 * rest * contextual * (width / shape.tower_heads + width)
    rows = (rest if contextual else 0) + dominant
    moved = rows * width + (rest * width if contextual else 0) + (dominant + contextual) * width
    return Work(tiles * flops, tiles * request.element_bytes * moved)


def _project(shape: ModelShape, request: Request) -> Work:
    if request.projected is not None:
        tokens = request.projected
    else:
        tokens = request.tiles * (sum(request.budget) if request.budget else shape.patches)
    tokens *= request.batch
    flops = 2 * tokens * (shape.tower_width * shape.width + (shape.projector_layers - 1) * shape.width**2)
    moved = shape.projector_parameters + tokens * (shape.tower_width + shape.width)
    return Work(flops, request.element_bytes * moved)


def _tokens_per_layer(shape: ModelShape, request: Request) -> list[int]:
    """Prompt tokens of a request in each decoder layer."""
    if request.kept_per_layer is None:
        return [request.visual + request.text] * shape.layers
    return [kept + request.text for kept in _one_per_layer(shape, request.kept_per_layer)]


def _llm_matrices(shape: ModelShape) -> int:
    """Multiplications a token needs in one decoder block, attention itself aside."""
    return 2 * shape.width * (shape.width + shape.kv_width) + 3 * shape.width * shape.intermediate


def _llm_weight_bytes(shape: ModelShape, request: Request) -> float:
    """Decoder blocks, last norm and output head; not the embedding table, of which a request reads a few rows."""
    block = request.element_bytes if request.llm_weight_bytes is None else request.llm_weight_bytes
    return block * shape.block_parameters + request.element_bytes * (shape.vocabulary + 1) * shape.width


def _prefill(shape: ModelShape, request: Request) -> Work:
    layers = _tokens_per_layer(shape, request)
    head = 2 * shape.vocabulary * shape.width
    flops = head + sum(2 * tokens * _llm_matrices(shape) + causal_flops(tokens, shape.width) for tokens in layers)
    cache = 2 * shape.kv_width * sum(layers)
    moved = (request.visual + request.text) * shape.width + cache + shape.vocabulary
    weights = _llm_weight_bytes(shape, request)
    return Work(request.batch * flops, weights + request.batch * request.element_bytes * moved)


def _decode(shape: ModelShape, request: Request) -> Work:
    steps = max(1, request.new_tokens - 1)
    own = (steps + 1) / 2  # new tokens a step sees, itself included; the mean of 1..steps
    layers = [tokens + own for tokens in _tokens_per_layer(shape, request)]
    head = 2 * shape.vocabulary * shape.width
    flops = head + sum(2 * _llm_matrices(shape) + attention_flops(1, tokens, shape.width) for tokens in layers)
    cache = 2 * shape.kv_width * sum(layers)  # all but the step's own is read, its own is written
    moved = shape.width + cache + shape.vocabulary
    weights = _llm_weight_bytes(shape, request)
    return Work(request.batch * flops, weights + request.batch * request.element_bytes * moved)


@dataclass(frozen=True)
class Ceilings:
    """What a device can do: FLOPs (a multiply-add is 2) and bytes (read plus written) per second. how: measured so."""

    flops_per_s: float
    bytes_per_s: float
    how: str


def floor_seconds(work: Work, ceilings: Ceilings) -> float:
    """Seconds the work takes at least: the longer of computing it and moving it."""
    return max(work.flops / ceilings.flops_per_s, work.bytes / ceilings.bytes_per_s)


def bound(work: Work, ceilings: Ceilings) -> Literal["compute", "memory"]:
    """Which of the two is the longer one."""
    computing = work.flops / ceilings.flops_per_s >= work.bytes / ceilings.bytes_per_s
    return "compute" if computing else "memory"


def measure_ceilings(device: torch.device | str, dtype: torch.dtype, repeats: int = 11) -> Ceilings:
    """Rate of a large matrix product in `dtype` and of a copy on the device, each the median of `repeats` after
    warm-up. Random numbers: zeros let a GPU draw less power and clock higher than any model does.

    Sizes: 8192^3 and 512 MiB on a GPU; on a CPU 1024^3 in float32, 512^3 else (16 bit is slow on many), and 256 MiB,
    with the threads torch is set to. On a GPU float32 products run as torch is set, TF32 or not.

    Raises: ValueError for a device that is neither, or a dtype that is not floating.
    """
    device = torch.device(device)
    if device.type not in ("cuda", "cpu") or not dtype.is_floating_point:
        raise ValueError(f"ceilings are measured on cuda or cpu in a floating dtype, got {device} and {dtype}")
    gpu = device.type == "cuda"
    side, mebibytes = (8192, 512) if gpu else (1024 if dtype == torch.float32 else 512, 256)
    where = "CUDA events" if gpu else f"perf_counter, {torch.get_num_threads()} threads"
    return Ceilings(
        flops_per_s=2 * side**3 / _product_seconds(side, device, dtype, repeats),
        bytes_per_s=2 * mebibytes * 2**20 / _copy_seconds(mebibytes * 2**20, device, repeats),
        how=f"median of {repeats} products of {side}^3 in {str(dtype).removeprefix('torch.')} and of {repeats} copies "
        f"of {mebibytes} MiB (read plus written), random data, {where}",
    )


def _product_seconds(side: int, device: torch.device, dtype: torch.dtype, repeats: int) -> float:
    noise = torch.Generator(device).manual_seed(0)  # not the global one
    left, right = (torch.randn(side, side, generator=noise, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(left)
    return _median_seconds(lambda: torch.mm(left, right, out=out), device, repeats)


def _copy_seconds(size: int, device: torch.device, repeats: int) -> float:
    noise = torch.Generator(device).manual_seed(0)
    source = torch.randn(size // 4, generator=noise, device=device)
    target = torch.empty_like(source)
    return _median_seconds(lambda: target.copy_(source), device, repeats)


def _median_seconds(run: Callable[[], Tensor], device: torch.device, repeats: int) -> float:
    """Of one call; on a GPU the calls queue up behind each other, so that no launch is waited for."""
    for _ in range(3):
        run()
    if device.type != "cuda":
        times = []
        for _ in range(repeats):
            begin = time.perf_counter()
            run()
            times.append(time.perf_counter() - begin)
        return statistics.median(times)
    with torch.cuda.device(device):
        marks: list[Any] = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
        torch.cuda.synchronize()
        marks[0].record()
        for mark in marks[1:]:
            run()
            mark.record()
        torch.cuda.synchronize()
    return statistics.median(a.elapsed_time(b) / 1e3 for a, b in pairwise(marks))
