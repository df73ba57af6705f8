"""Rows of the two vocabulary tables for the tokens an export adds."""

import torch
from torch import Tensor

from llava.model.checkpoint import State
from llava.release.names import EMBEDDING, HEAD

# Tables grow to a multiple of this, as those of llava-hf do: matrix products like it.
MULTIPLE = 64


def grown_rows(rows: int, needed: int) -> int:
    """Rows of the new tables: as many as there are where that is enough, else up to the next multiple of 64."""
    return rows if needed <= rows else -(-needed // MULTIPLE) * MULTIPLE


def grown(state: State, rows: int) -> State:
    """`state` with both vocabulary tables at `rows` rows; the rows that were there keep their bits.

    A new row is the mean of the old ones: its logit is the mean of all logits, which is never above the largest, so no
    greedy answer can contain a token that was never trained.
    """
    return {key: _grown(value, rows) if key in {EMBEDDING, HEAD} else value for key, value in state.items()}


def cut(state: State, rows: int) -> State:
    """`state` with the first `rows` rows of both vocabulary tables. Raises: ValueError if a table has fewer."""
    for key in (EMBEDDING, HEAD):
        if key in state and len(state[key]) < rows:
            raise ValueError(f"{key} has {len(state[key])} rows; the config it came from had a vocabulary of {rows}")
    return {key: value[:rows] if key in {EMBEDDING, HEAD} else value for key, value in state.items()}


def _grown(table: Tensor, rows: int) -> Tensor:
    if rows <= len(table):
        return table
    mean = table.to(torch.float32).mean(dim=0, keepdim=True).to(table.dtype)  # [1, D]
    return torch.cat([table, mean.expand(rows - len(table), -1)])
