"""The attention each patch receives, as two Triton kernels. The only file that imports triton; it is imported on need.

Pass 1 writes the log-sum-exp of every row of the map, pass 2 adds up the columns of exp(score - log-sum-exp). A program
owns one block of rows (of columns) of one head and walks over the other side, so that nothing is added atomically and
every run gives the same bits. Logarithms and exponentials have base 2, the cheaper one on a GPU.

Set TRITON_INTERPRET=1 before this file is imported and both kernels run on CPU tensors, for tests.
"""

# The language of kernels has no annotations beyond constexpr.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

import math

import torch
import triton
import triton.language as tl
from torch import Tensor, library


@triton.jit
def _load_rows(base, start, stride_n, stride_d, patches, WIDTH: tl.constexpr, BLOCK: tl.constexpr, COLS: tl.constexpr):
    """Rows start ... start + BLOCK of one head, [BLOCK, COLS]; zero where there is no row or no column."""
    row = start + tl.arange(0, BLOCK)
    col = tl.arange(0, COLS)
    # 64 bit: 16k patches of many heads in one fused projection pass 2^31 numbers
    place = row.to(tl.int64)[:, None] * stride_n + col[None, :] * stride_d
    return tl.load(base + place, mask=(row < patches)[:, None] & (col < WIDTH)[None, :], other=0.0)


@triton.jit
def _head_start(base, head, heads, stride_t, stride_h):
    """Where head `head` of all tiles' heads begins."""
    return base + (head // heads).to(tl.int64) * stride_t + (head % heads).to(tl.int64) * stride_h


@triton.jit
def _row_normaliser(
    query, keys, lse, q_t, q_h, q_n, q_d, k_t, k_h, k_n, k_d, heads, patches, scale,
    WIDTH: tl.constexpr, COLS: tl.constexpr, OWN: tl.constexpr, STEP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """lse[head, i] = log2 of the sum over j of 2 ** (scale * q_i . k_j), for OWN rows i."""
    blocks = tl.cdiv(patches, OWN)
    head = tl.program_id(0) // blocks
    first = (tl.program_id(0) % blocks) * OWN
    k_base = _head_start(keys, head, heads, k_t, k_h)
    q = _load_rows(_head_start(query, head, heads, q_t, q_h), first, q_n, q_d, patches, WIDTH, OWN, COLS)
    highest = tl.full([OWN], float("-inf"), tl.float32)
    total = tl.zeros([OWN], tl.float32)
    for start in range(0, patches, STEP):
        k = _load_rows(k_base, start, k_n, k_d, patches, WIDTH, STEP, COLS)
        score = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale  # [OWN, STEP]
        score = tl.where((start + tl.arange(0, STEP) < patches)[None, :], score, float("-inf"))
        higher = tl.maximum(highest, tl.max(score, 1))
        total = total * tl.exp2(highest - higher) + tl.sum(tl.exp2(score - higher[:, None]), 1)
        highest = higher
    row = first + tl.arange(0, OWN)
    tl.store(lse + head.to(tl.int64) * patches + row, highest + tl.log2(total), mask=row < patches)


@triton.jit
def _column_sums(
    query, keys, lse, sums, q_t, q_h, q_n, q_d, k_t, k_h, k_n, k_d, heads, patches, scale,
    WIDTH: tl.constexpr, COLS: tl.constexpr, OWN: tl.constexpr, STEP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """sums[head, j] = sum over i of 2 ** (scale * q_i . k_j - lse[head, i]), for OWN columns j."""
    blocks = tl.cdiv(patches, OWN)
    head = tl.program_id(0) // blocks
    first = (tl.program_id(0) % blocks) * OWN
    own = head.to(tl.int64) * patches
    q_base = _head_start(query, head, heads, q_t, q_h)
    k = _load_rows(_head_start(keys, head, heads, k_t, k_h), first, k_n, k_d, patches, WIDTH, OWN, COLS)
    total = tl.zeros([OWN], tl.float32)
    for start in range(0, patches, STEP):
        q = _load_rows(q_base, start, q_n, q_d, patches, WIDTH, STEP, COLS)
        row = start + tl.arange(0, STEP)
        # a row that does not exist weighs 2 ** -inf, nothing
        normaliser = tl.load(lse + own + row, mask=row < patches, other=float("inf"))
        score = tl.dot(k, tl.trans(q), input_precision=PRECISION) * scale  # [OWN, STEP]
        total += tl.sum(tl.exp2(score - normaliser[None, :]), 1)
    column = first + tl.arange(0, OWN)
    tl.store(sums + own + column, total, mask=column < patches)


@library.custom_op("visionzip::received_attention", mutates_args=())
def received_triton(query: Tensor, keys: Tensor, scale: float) -> Tensor:
    """`received_attention` on a GPU. query, keys: [T, H, N, d] float16, bfloat16 or float32, any strides -> [T, N].

    One node to torch.compile. Products of float32 are exact float32 ("ieee"): TF32 would be off by 1e-3.
    """
    tiles, heads, patches, width = query.shape
    sums = torch.zeros(tiles, heads, patches, device=query.device, dtype=torch.float32)
    if sums.numel() == 0:
        return sums.mean(dim=1)
    lse = torch.empty_like(sums)
    # float32 products run outside the tensor cores, where a large block only costs registers
    block = 32 if query.dtype == torch.float32 else 64
    grid = (tiles * heads * triton.cdiv(patches, block),)
    sizes = (*query.stride(), *keys.stride(), heads, patches, scale * math.log2(math.e))
    shape = {
        "WIDTH": width,
        "COLS": max(16, triton.next_power_of_2(width)),  # tl.dot takes powers of two from 16 on
        "OWN": block,
        "STEP": block,
        "PRECISION": "ieee",
    }
    with torch.cuda.device_of(query):  # Triton launches on the current device
        _row_normaliser[grid](query, keys, lse, *sizes, **shape)
        _column_sums[grid](query, keys, lse, sums, *sizes, **shape)
    return sums.mean(dim=1) / patches


@received_triton.register_fake
def _(query: Tensor, keys: Tensor, scale: float) -> Tensor:
    return query.new_empty(query.shape[0], query.shape[2], dtype=torch.float32)
