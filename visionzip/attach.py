"""Attach a compressor to a model, and take it off again. One instance changes, nothing global does."""

from __future__ import annotations

from typing import Any, TypeVar, get_args

from visionzip.adapters import ADAPTERS, Adapter, Order
from visionzip.core.compressor import VisionZip
from visionzip.core.merge import Merge
from visionzip.core.types import Compressor

Model = TypeVar("Model")


def visionzip(
    model: Model, dominant: int = 191, contextual: int = 30, *, merge: Merge = "official", order: Order = "official"
) -> Model:
    """Make `model` keep `dominant` (CLS included) + `contextual` tokens per tile, and return that same model.

    The defaults are those of the published package (221 tokens); the paper's budgets are in `visionzip.BUDGETS`.
    A second call changes the budget; `detach(model)` restores the dense model.

    merge: "official" or "average", see `visionzip.core.merge.merge_rows`.
    order: how the tokens of several tiles are laid out: "official" as the published code does, "spatial" with unpad
        and newlines kept.

    Raises: ValueError for a host that is not supported, a budget that does not fit, or an unknown merge or order.
    """
    return attach(model, VisionZip(dominant, contextual, merge), order)


def attach(model: Model, compressor: Compressor, order: Order = "official") -> Model:
    """Make `model` use any compressor, e.g. `Uniform(64)`, and return that same model. Raises: as `visionzip`."""
    if isinstance(compressor, type) or not isinstance(compressor, Compressor):
        raise ValueError(f"compressor must be an instance such as VisionZip(54, 10), got {compressor!r}")
    if order not in get_args(Order):
        raise ValueError(f"order must be one of {', '.join(get_args(Order))}, got {order!r}")
    _adapter_for(model).attach(model, compressor, order)
    return model


def detach(model: Model) -> Model:
    """Restore the dense model and return it; harmless without a compressor. Raises: ValueError for a foreign host."""
    _adapter_for(model).detach(model)
    return model


def _adapter_for(model: Any) -> Adapter:
    for adapter in ADAPTERS.values():
        if adapter.handles(model):
            return adapter
    if callable(getattr(model, "get_vision_tower", None)) and model.get_vision_tower() is None:
        raise ValueError(
            f"this {type(model).__qualname__} has no vision tower (its config names none under mm_vision_tower), so "
            "there are no visual tokens to compress"
        )
    hosts = "; ".join(adapter.hosts for adapter in ADAPTERS.values())
    raise ValueError(
        f"cannot attach to {type(model).__module__}.{type(model).__qualname__}; supported hosts: {hosts}. "
        "Load the checkpoint with llava.model.builder.load_pretrained_model; pass model.module when it is wrapped for "
        "training"
    )
