"""Rows without labels, because they cannot be made or the row's image cannot be read: counted and named in the log.

Too many are an error. They are found when a row is asked for, mostly in a worker of the data loader, so the count lies
in shared memory. A row counts once, however often an epoch asks for it. What other processes found is added where they
meet (`include`), and what a run found before it was stopped lies in its checkpoints (`save`, `restore`).
"""

import json
import logging
from pathlib import Path

import torch
from torch import Tensor

from llava.constants import IGNORE_INDEX
from llava.utils import write_json

logger = logging.getLogger(__name__)

MASKED_FILE = "rows_without_labels.json"


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

    def include(self, flags: Tensor) -> None:
        """Add the rows that `flags` [rows] (bool) marks. Raises: ValueError when there are then more than `allowed`."""
        self.flags[flags] = True  # a worker may mark another row at this moment: nothing else is written
        count = int(self.flags.sum())
        if count > self.allowed:
            raise ValueError(
                f"{count} rows without labels over all processes, max_bad_rows allows {self.allowed}; each is named in "
                "the log of the process that met it"
            )

    def save(self, folder: Path) -> None:
        """Write the rows found so far, if there are any, into a checkpoint."""
        if self.flags.any():
            write_json(folder / MASKED_FILE, {"rows": len(self.flags), "positions": self.positions()})

    def restore(self, folder: Path) -> None:
        """Add the rows a checkpoint names. Raises: ValueError when it is of other data, or these are too many."""
        if not (folder / MASKED_FILE).is_file():
            return
        found = json.loads((folder / MASKED_FILE).read_text(encoding="utf-8"))
        if found["rows"] != len(self.flags):
            raise ValueError(
                f"{folder} was trained on {found['rows']} rows, this run has {len(self.flags)}; give it the same data, "
                "choose another --output_dir, or start anew with --resume_from_checkpoint False"
            )
        flags = torch.zeros_like(self.flags)
        flags[found["positions"]] = True
        self.include(flags)

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
