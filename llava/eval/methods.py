"""From a method's name and a budget to a model that runs it.

A new method is one entry of `METHODS` (and one class in visionzip/methods).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from visionzip import Budget, Order, attach, budget_for, detach, from_config, named_budget
from visionzip.core.types import Compressor


@dataclass(frozen=True)
class Method:
    """How a row of the results table is made. config: budget -> compressor config, None for the dense model. tuned:
    the compressor comes with the checkpoint and is only checked."""

    title: str
    config: Callable[[Budget], dict[str, Any]] | None
    tuned: bool = False


def _zip_config(budget: Budget) -> dict[str, Any]:
    return {"method": "visionzip", "dominant": budget.dominant, "contextual": budget.contextual}


METHODS: Mapping[str, Method] = {
    "dense": Method("dense", None),
    "visionzip": Method("VisionZip", _zip_config),
    "visionzip-tuned": Method("VisionZip‡", _zip_config, tuned=True),
    "random": Method("random", lambda budget: {"method": "random", "tokens": budget.total, "seed": 0}),
    "uniform": Method("uniform", lambda budget: {"method": "uniform", "tokens": budget.total}),
    "pool": Method("pool", lambda budget: {"method": "pool", "tokens": budget.total}),
    "downsample": Method("downsample", lambda budget: {"method": "downsample", "tokens": budget.total}),
}


def method_named(name: str) -> Method:
    """An entry of `METHODS`.

    Raises:
        ValueError: listing the names.
    """
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; known: {', '.join(METHODS)}")
    return METHODS[name]


def parse_budget(value: Any) -> Budget:
    """A budget from a total (48), a name ("next-160") or a pair [40, 8].

    Raises:
        ValueError: anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int | str | list | tuple):
        raise ValueError(f"expected a budget as a total, a name or [dominant, contextual], got {value!r}")
    if isinstance(value, int):
        return budget_for(value)
    if isinstance(value, str):
        return named_budget(value)
    if len(value) != 2:
        raise ValueError(f"expected [dominant, contextual], got {value!r}")
    return Budget(*value)


def compressor_of(name: str, budget: Budget | None) -> Compressor | None:
    """The compressor of a method at a budget, None for dense.

    Raises:
        ValueError: an unknown method, or a budget that is missing or too much.
    """
    method = method_named(name)
    if method.config is None:
        if budget is not None:
            raise ValueError(f"method {name!r} keeps all tokens; drop the budget {budget}")
        return None
    if budget is None:
        raise ValueError(f"method {name!r} needs a budget: dominant and contextual")
    return from_config(method.config(budget))


def requested_budget(
    method: str | None, dominant: int | None, contextual: int | None
) -> tuple[str | None, Budget | None]:
    """Method and budget as a command line gives them. (None, None): leave the checkpoint as it was saved.

    Raises:
        ValueError: one of dominant and contextual is missing, or a method other than dense has no budget.
    """
    if (dominant is None) != (contextual is None):
        raise ValueError(f"dominant and contextual go together, got {dominant} and {contextual}")
    budget = None if dominant is None or contextual is None else Budget(dominant, contextual)
    if method is None:
        return (None, None) if budget is None else ("visionzip", budget)
    if method != "dense" and budget is None:
        raise ValueError(f"method {method!r} needs a budget: dominant and contextual")
    return method, budget


def named_run(
    method: str | None, budget: Budget | None, saved: Mapping[str, Any] | None, checkpoint: str
) -> tuple[str, Budget | None]:
    """What a record calls a run: as asked for, else as the checkpoint was saved. VisionZip as it was saved is the tuned
    one: its projector learned with that budget.

    Args:
        method, budget: see `requested_budget`.
        saved: config of the compressor the checkpoint was saved with, None for none.

    Raises:
        ValueError: run as saved, and saved with a compressor that has no dominant and contextual tokens.
    """
    if method is not None:
        compressor = compressor_of(method, budget) if method == "visionzip" else None
        as_saved = compressor is not None and compressor.to_config() == saved
        return ("visionzip-tuned" if as_saved else method), budget
    if saved is None:
        return "dense", None
    if "dominant" not in saved:
        raise ValueError(
            f"{checkpoint} was saved with {dict(saved)}; say --method, --dominant and --contextual, so that the record "
            "says what was measured"
        )
    return "visionzip-tuned", Budget(saved["dominant"], saved["contextual"])


def apply_method(model: Any, name: str | None, budget: Budget | None, order: str | None = None) -> None:
    """Make the loaded model run a method; a former one is taken off.

    Args:
        name: None leaves the model as its checkpoint says.
        order: of the tokens of several tiles; None: as the checkpoint says, else official.

    Raises:
        ValueError: a tuned checkpoint whose own compressor or order is another one; an order and nothing to lay out.
    """
    saved_order = getattr(model.config, "mm_compressed_order", None)
    if name is None:
        tower = model.get_vision_tower()
        if order is not None and tower.compressor is None:
            raise ValueError(f"order {order!r} is for compressed tokens: give a method and a budget as well")
        if order is not None:
            attach(model, tower.compressor, order=cast(Order, order))
        return
    compressor = compressor_of(name, budget)
    if compressor is None:
        detach(model)
    elif method_named(name).tuned:
        _require_tuned(model, name, compressor, order)
    else:
        attach(model, compressor, order=cast(Order, order or saved_order or "official"))


def _require_tuned(model: Any, name: str, compressor: Compressor, order: str | None) -> None:
    runs, saved_order = model.get_vision_tower().compressor, getattr(model.config, "mm_compressed_order", None)
    if runs != compressor:
        raise ValueError(
            f"method {name!r} expects a checkpoint tuned with {compressor.to_config()}, this one runs "
            f"{None if runs is None else runs.to_config()}"
        )
    if order is not None and saved_order is not None and order != saved_order:
        raise ValueError(
            f"method {name!r}: the checkpoint was tuned with order {saved_order!r}, {order!r} was asked for"
        )
