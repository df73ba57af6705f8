"""Attention received, against the materialised map in float64: torch, Triton in its interpreter, Triton on a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from llava.bench.live_memory import LivePeak
from visionzip.kernels import received_attention
from visionzip.kernels.received import HAS_TRITON, received_chunked

ROOT = Path(__file__).resolve().parents[3]
CLOSE = 1e-5  # what `received_attention` promises of every value, on any device and for any input below float64
# tiles, heads, patches, head width: SigLIP-so400m's, one patch, odd everything, more tiles than one group holds
SHAPES = [(1, 16, 729, 72), (2, 1, 1, 8), (3, 5, 37, 5), (7, 2, 100, 64)]


def projections(
    tiles: int, heads: int, patches: int, width: int, dtype: torch.dtype = torch.float32, fused: bool = False
) -> tuple[Tensor, Tensor]:
    """q and k [T, H, N, d] laid out as towers have them: [T, N, H, d] in memory, or parts of one fused projection."""
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(3, tiles, patches, heads, width, dtype=torch.float64, generator=generator)
    qkv[0] *= 3  # attention that is not flat
    query, keys = qkv.to(dtype)[:2]
    if fused:
        query, keys, _ = torch.cat([*qkv.to(dtype)], dim=2).chunk(3, dim=2)
    return query.transpose(1, 2), keys.transpose(1, 2)


def materialised(query: Tensor, keys: Tensor, scale: float | None = None) -> Tensor:
    """The definition, with the map, in float64."""
    scores = query.double() @ keys.double().transpose(2, 3) * (query.shape[-1] ** -0.5 if scale is None else scale)
    return scores.softmax(dim=-1).mean(dim=2).mean(dim=1)


def error(got: Tensor, query: Tensor, keys: Tensor, scale: float | None = None) -> float:
    """Largest difference to the definition, in units of the value."""
    expected = materialised(query, keys, scale)
    assert got.shape == expected.shape
    return float(((got.double() - expected).abs() / expected).max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_equal_to_the_materialised_map(shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    query, keys = projections(*shape, dtype)
    got = received_attention(query, keys)
    assert got.dtype == torch.float32
    assert error(got, query, keys) < CLOSE
    torch.testing.assert_close(got.sum(dim=-1), torch.ones(shape[0]))


def test_float64_stays_float64() -> None:
    query, keys = projections(3, 5, 37, 5, torch.float64)
    assert error(received_attention(query, keys), query, keys) < 1e-13


@pytest.mark.parametrize("block", [1, 100, 37 * 5 * 4, 37 * 37 * 5 * 2 + 1, 1 << 22])
def test_the_block_changes_nothing(block: int) -> None:
    """One row at a time, rows that do not divide N, several tiles at a time, everything at once."""
    query, keys = projections(3, 5, 37, 5, torch.float64)
    assert error(received_chunked(query, keys, 5**-0.5, block), query, keys) < 1e-13


def test_the_parts_of_a_fused_projection_and_a_scale_of_ones_own() -> None:
    query, keys = projections(2, 3, 50, 8, torch.float64, fused=True)
    assert not query.is_contiguous()
    assert error(received_attention(query, keys, scale=0.1), query, keys, scale=0.1) < 1e-13


def test_large_scores_do_not_overflow() -> None:
    query, keys = projections(1, 2, 50, 8, torch.float16)
    got = received_attention(query * 100, keys * 100)
    torch.testing.assert_close(got.sum(dim=-1), torch.ones(1))


def test_no_tiles_no_gradient_and_no_effect_of_autocast() -> None:
    query, keys = projections(2, 2, 20, 8)
    assert received_attention(query[:0], keys[:0]).shape == (0, 20)
    plain = received_attention(query.requires_grad_(), keys)
    assert not plain.requires_grad
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(received_attention(query, keys), plain)


def test_the_map_is_never_there() -> None:
    """4096 patches of 16 heads: one map in float32 is 1 GiB. Half precision adds float32 copies of q and k."""
    query, keys = projections(1, 16, 4096, 8, torch.bfloat16)
    with LivePeak() as live:
        received_chunked(query, keys, 1.0)
    assert live.peak < 2 * (16 << 20) + 3 * query.numel() * 4


def test_many_small_tiles_are_bounded_too() -> None:
    """All maps together are 64 MiB, and 16 numbers of them may live."""
    query, keys = projections(64, 16, 128, 4)
    with LivePeak() as live:
        received_chunked(query, keys, 1.0, block=1 << 18)
    assert live.peak < 4 << 20


@pytest.mark.parametrize(
    ("query", "keys", "message"),
    [
        (torch.zeros(2, 3, 4), torch.zeros(2, 3, 4), r"got torch.float32 \(2, 3, 4\)"),
        (torch.zeros(1, 4, 9, 8), torch.zeros(1, 2, 9, 8), r"of one shape.*\(1, 4, 9, 8\).*\(1, 2, 9, 8\)"),
        (torch.zeros(1, 2, 9, 8).long(), torch.zeros(1, 2, 9, 8).long(), "must be float"),
        (torch.zeros(1, 2, 9, 8), torch.zeros(1, 2, 9, 8).double(), "query is torch.float32.*keys are torch.float64"),
    ],
)
def test_tensors_that_do_not_belong_together(query: Tensor, keys: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        received_attention(query, keys)


# ------------------------------------------------------------------------------------------------------------- Triton

needs_triton = pytest.mark.skipif(not HAS_TRITON, reason="needs triton")
# The interpreter multiplies the bit patterns of bfloat16, so that dtype is for the GPU test alone.
INTERPRETED = """
import json, torch
from tests.visionzip.kernels.test_received import error, projections
from visionzip.kernels.received_triton import received_triton

errors = {}
for shape, dtype, fused in (
    ((1, 2, 70, 72), torch.float32, True),
    ((2, 1, 1, 8), torch.float32, False),
    ((1, 1, 129, 64), torch.float16, False),
    ((2, 3, 33, 5), torch.float16, True),
):
    query, keys = projections(*shape, dtype, fused)
    errors[f"{shape} {dtype}"] = error(received_triton(query, keys, 0.3), query, keys, scale=0.3)
empty = received_triton(torch.zeros(0, 2, 9, 8), torch.zeros(0, 2, 9, 8), 1.0)
compiled = torch.compile(lambda q, k: 2 * received_triton(q, k, 0.3), backend="aot_eager", fullgraph=True)
errors["compiled"] = error(compiled(query, keys) / 2, query, keys, scale=0.3)
print(json.dumps([errors, list(empty.shape)]))
"""


@needs_triton
def test_triton_in_its_interpreter() -> None:
    """Both kernels on the CPU: masks, strides, loops and reductions, on shapes no power of two divides."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-c", INTERPRETED], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
    errors, empty = json.loads(run.stdout.splitlines()[-1])
    assert len(errors) == 5 and max(errors.values()) < CLOSE, errors
    assert empty == [0, 9]


@needs_triton
@pytest.mark.parametrize(("dtype", "block"), [("bf16", 64), pytest.param("fp32", 32, marks=pytest.mark.slow)])
def test_triton_compiles_for_a_gpu_without_one(
    dtype: str, block: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """SigLIP's width of 72, compute capability 9.0; half precision runs on tensor cores, float32 not in TF32."""
    import triton
    from triton.backends.compiler import GPUTarget

    from visionzip.kernels import received_triton as kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    constants = {"WIDTH": 72, "COLS": 128, "OWN": block, "STEP": block, "PRECISION": "ieee", "q_d": 1, "k_d": 1}
    types = {"query": f"*{dtype}", "keys": f"*{dtype}", "lse": "*fp32", "sums": "*fp32", "scale": "fp32"}
    for kernel in (kernels._row_normaliser, kernels._column_sums):
        names = kernel.arg_names
        source = triton.compiler.ASTSource(
            fn=kernel,
            signature={name: "constexpr" if name in constants else types.get(name, "i32") for name in names},
            constexprs={(names.index(name),): value for name, value in constants.items()},
        )
        ptx = triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]
        assert ("mma" in ptx) == (dtype == "bf16")
        assert "tf32" not in ptx


@pytest.mark.gpu
@needs_triton
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [*SHAPES, (1, 1, 1, 16), (300, 16, 65, 64), (1, 16, 2500, 128)])
def test_triton_on_a_gpu(shape: tuple[int, int, int, int], dtype: torch.dtype, fused: bool) -> None:
    query, keys = (x.to("cuda") for x in projections(*shape, dtype, fused))
    got = received_attention(query, keys)
    assert got.is_cuda and got.dtype == torch.float32
    assert error(got, query, keys) < CLOSE
    assert torch.equal(received_attention(query, keys), got)
    assert error(received_chunked(query, keys, query.shape[-1] ** -0.5), query, keys) < CLOSE


@pytest.mark.gpu
@needs_triton
def test_a_gpu_holds_no_map_and_no_copy() -> None:
    query, keys = (x.to("cuda") for x in projections(1, 16, 4096, 72, torch.bfloat16, fused=True))
    received_attention(query, keys)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    received_attention(query, keys)
    assert torch.cuda.max_memory_allocated() - before < 4 * 16 * 4096 * 4  # log-sum-exp, sums, and small change
