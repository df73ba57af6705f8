"""One host family per file. An adapter knows how to put a compressor into its hosts and how to take it out again."""

from __future__ import annotations

from typing import Any, Protocol

from visionzip.adapters.slot import Order, SlotAdapter
from visionzip.core.types import Compressor


class Adapter(Protocol):
    """What `visionzip.attach` needs to know of a host family."""

    hosts: str  # for error messages: which models these are

    def handles(self, model: Any) -> bool:
        """Whether `model` belongs to this family."""
        ...

    def attach(self, model: Any, compressor: Compressor, order: Order) -> None:
        """Make `model`, this instance only, compress; replaces what was attached before."""
        ...

    def detach(self, model: Any) -> None:
        """Undo `attach` without a trace."""
        ...


ADAPTERS: dict[str, Adapter] = {"slot": SlotAdapter()}

__all__ = ["ADAPTERS", "Adapter", "Order"]
