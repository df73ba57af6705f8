"""Rows without labels, because they cannot be made or the row's image cannot be read: counted and named in the log.

Too many are an error. They are found when a row is asked for, mostly in a worker of the data loader, so the count lies
in shared memory. A row counts once, however often an epoch asks for it.
"""

import logging

import torch
from torch import Tensor

from llava.constants import IGNORE_INDEX

logger = logging.getLogger(__name__)


class MaskedRows:
    """Which rows carry no loss because their labels could not be made.

    Args:
        rows: rows of the data set.
        allowed: so many may be masked.
    """

    def __init__(self, rows: int, allowed: int) -> None:
        self.allowed = allowed
        self.flags = torch.zeros(rows, dtype=torch.bool).share_memory_()

    def positions(self) -> list[int]:
        """Positions of the masked rows found so far."""
        return [int(position) for position in self.flags.nonzero()]

    def add(self, position: int, problem: str, name: str) -> None:
        """Note a row; `name` is for the log. Raises: ValueError when there are more than `allowed`."""
        if self.flags[position]:
            return
        self.flags[position] = True
        count = int(self.flags.sum())
        if count > self.allowed:
            hint = f" ({count} rows without labels so far, max_bad_rows allows {self.allowed})" if self.allowed else ""
            raise ValueError(f"{problem}{hint}")
        logger.warning("no labels, so nothing to learn (%d of at most %d): %s: %s", count, self.allowed, name, problem)


def empty_sample(token: int) -> dict[str, Tensor]:
    """`input_ids` [1], `labels` [1]: one token without loss, in place of a row that cannot be masked."""
    return {"input_ids": torch.tensor([token]), "labels": torch.tensor([IGNORE_INDEX])}
