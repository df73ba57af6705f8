"""The attention each patch receives, without the attention map: for towers that have no CLS token to ask."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

# Looked up once and without importing it: machines without Triton use torch.
HAS_TRITON = find_spec("triton") is not None
# Numbers of a block of the map in the torch backend (16 MiB of float32; scores and attention: two live at one time), or
# one row of all heads if that is more. On a CPU 2^20 to 2^22 was fastest at 729 and 4096 patches of 16 heads.
BLOCK_NUMBERS = 1 << 22


def received_attention(query: Tensor, keys: Tensor, *, scale: float | None = None) -> Tensor:
    """Column means of the attention map: what a patch is paid on average, over all heads and all querying patches.

    query, keys: [T, H, N, d] raw projections, any float dtype and strides, same shape, dtype and device
    -> [T, N] in float32 (float64 stays float64), without gradient; every tile's values sum to 1.
    scale: of the scores; None: d ** -0.5.

    Beyond the inputs it needs O(T * H * N) memory and one block of the map, never [N, N]. CUDA tensors go through
    Triton where it is installed, all others (and float64) through torch; both are within 1e-5 of each value of the map
    in float64 where scores stay below about 30 (rounding grows with them). Deterministic: no atomics.

    Source: SPEC F8, the score of VisionZip's ports to towers without CLS (mean over heads, then over queries).

    Raises: ValueError when the two tensors do not belong together.
    """
    if query.ndim != 4 or query.shape != keys.shape or not query.is_floating_point():
        raise ValueError(
            "query and keys must be float [tiles, heads, patches, head width] of one shape, "
            f"got {query.dtype} {tuple(query.shape)} and {keys.dtype} {tuple(keys.shape)}"
        )
    if query.dtype != keys.dtype or query.device != keys.device:
        raise ValueError(
            f"query is {query.dtype} on {query.device}, keys are {keys.dtype} on {keys.device}; "
            "record both from the same block"
        )
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    query, keys = query.detach(), keys.detach()
    if query.is_cuda and query.dtype != torch.float64 and HAS_TRITON:
        from visionzip.kernels.received_triton import received_triton

        received: Tensor = received_triton(query, keys, scale)
        return received
    with torch.autocast(query.device.type, enabled=False):
        return received_chunked(query, keys, scale)


def received_chunked(query: Tensor, keys: Tensor, scale: float, block: int = BLOCK_NUMBERS) -> Tensor:
    """`received_attention` in torch, on any device: whole rows of the map, as many at a time as `block` numbers hold.

    A row holds all its keys, so it is normalised at once and no second pass over the map is needed. Products follow
    torch's float32 setting: where a program has switched TF32 on, float32 inputs lose precision here.
    """
    tiles, heads, patches, _ = query.shape
    dtype = torch.promote_types(query.dtype, torch.float32)
    row = max(1, heads * patches)
    rows = min(max(1, block // row), max(1, patches))
    group = max(1, block // (row * rows))  # tiles at a time, once a whole map fits
    received = query.new_zeros(tiles, patches, dtype=dtype)
    for tile in range(0, tiles, group):
        q = query[tile : tile + group].to(dtype).flatten(0, 1)  # [G * H, N, d]
        k = keys[tile : tile + group].to(dtype).flatten(0, 1).transpose(1, 2)  # [G * H, d, N]
        for start in range(0, patches, rows):
            # one expression, so that no block outlives its turn: scores, then attention, [G * H, rows, N] -> [G * H, N]
            paid = torch.bmm(q[:, start : start + rows] * scale, k).softmax(dim=-1).sum(dim=1)
            received[tile : tile + group] += paid.view(-1, heads, patches).sum(dim=1)
    return received / row
