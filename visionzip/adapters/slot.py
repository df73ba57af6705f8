"""Hosts that own a slot: a vision tower with the attribute `compressor`, which its `encode` applies when it is set.

Duck typed, so it imports no model library: the host is the tower itself, or a model whose `get_vision_tower()`
returns it.
"""

from __future__ import annotations

from typing import Any, Literal

from visionzip.core.types import Compressor

Order = Literal["official", "spatial"]

COMPRESSOR_KEY = "mm_compressor"
ORDER_KEY = "mm_compressed_order"


def find_tower(model: Any) -> Any | None:
    """The object with the slot: `model.get_vision_tower()`, or `model` without such a method. None without a slot."""
    getter = getattr(model, "get_vision_tower", None)
    tower = getter() if callable(getter) else model
    return tower if hasattr(tower, "compressor") else None


class SlotAdapter:
    """Sets and clears the slot of one instance and keeps the model's config in step: a saved model reopens the same."""

    hosts = (
        "LLaVA models of the `llava` package (get_vision_tower() returns a tower with a `compressor` slot), such towers"
    )

    def handles(self, model: Any) -> bool:
        """Whether `model` has a slot."""
        return find_tower(model) is not None

    def attach(self, model: Any, compressor: Compressor, order: Order) -> None:
        """Fill the slot.

        Raises: ValueError when the tower knows its number of patches and the budget does not fit, or when an order of
            tiles is asked of a bare tower. Nothing is changed then.
        """
        tower = find_tower(model)
        assert tower is not None, "attach called on a host without a slot"
        patches = getattr(tower, "num_patches", None)
        if isinstance(patches, int):
            compressor.tokens_per_tile(patches)
        config = _own_config(model, tower)
        if config is not None:
            setattr(config, COMPRESSOR_KEY, compressor.to_config())
            setattr(config, ORDER_KEY, order)
        elif order != "official":
            raise ValueError(
                f"order {order!r} is a matter of the model that lays out the tiles, and a tower alone was given; "
                "attach to the model"
            )
        tower.compressor = compressor

    def detach(self, model: Any) -> None:
        """Empty the slot and remove both keys from the config; nothing happens when nothing is attached."""
        tower = find_tower(model)
        assert tower is not None, "detach called on a host without a slot"
        tower.compressor = None
        config = _own_config(model, tower)
        for key in (COMPRESSOR_KEY, ORDER_KEY):
            if config is not None and key in vars(config):
                delattr(config, key)


def _own_config(model: Any, tower: Any) -> Any | None:
    """The config of the LLaVA model; None for a bare tower, whose config belongs to the tower's own library."""
    return None if tower is model else getattr(model, "config", None)
