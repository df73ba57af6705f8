"""Rows of the embedding tables for tokens added to a vocabulary."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def fill_with_mean(table: nn.Embedding | nn.Linear, start: int, stop: int) -> None:
    """Set rows start..stop of a [V, D] table to the mean of the rows before them, in place."""
    if stop > start:
        with torch.no_grad():
            table.weight[start:stop] = table.weight[:start].mean(dim=0)


def copy_rows(table: nn.Embedding | nn.Linear, stored: Tensor, start: int, stop: int) -> None:
    """Fill rows start..stop in place from a stored table: the whole one [stop, D], or its new rows only.

    Raises:
        ValueError: the stored table has another shape.
    """
    width, new = table.weight.shape[1], stop - start
    if tuple(stored.shape) not in ((stop, width), (new, width)):
        raise ValueError(
            f"stored embed_tokens.weight is {list(stored.shape)}; expected [{stop}, {width}] or its {new} new rows"
        )
    with torch.no_grad():
        table.weight[start:stop] = stored[len(stored) - new :].to(table.weight)
