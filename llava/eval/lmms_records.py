"""lmms-eval's results as records of our own, so that one table holds both."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llava.eval.cells import COMPLETE, Items, Record
from llava.eval.compare import Measured
from llava.eval.lmms_results import LmmsResult, read_lmms_results
from llava.eval.methods import method_named

# Benchmarks LLaVA has no script of its own for: lmms-eval's figure is the one tables print. Everything else of
# lmms-eval has a protocol of its own and stays a column of its own.
NAMES: Mapping[str, str] = {"mmmu_val": "mmmu", "mini_mmmu_val": "mmmu"}
MODEL_ID = "llava_visionzip"
TITLES: Mapping[str, str] = {"mmmu": "MMMU"}


def task_name(task: str) -> str:
    """The column of a task of lmms-eval."""
    return NAMES.get(task, f"lmms:{task}")


def read_measured(folders: Sequence[Path]) -> list[Measured]:
    """Every result of lmms-eval below the folders.

    Raises:
        ValueError: see `read_lmms_results`; or a run that does not say which method it measured.
    """
    return [as_measured(result) for folder in folders for result in read_lmms_results(folder)]


def as_measured(result: LmmsResult) -> Measured:
    """One result as a record with its items, the cell read from the model's options.

    Raises:
        ValueError: results of another model, or a run that does not say which method it measured.
    """
    method, budget = _method_of(result)
    cell = method if budget is None else f"{method}-{budget['total']}"
    model = {"path": result.model_args["pretrained"], "base": result.model_args.get("model_base")}
    inputs = {"files": {"dataset": result.dataset, "version": result.version}, "settings": {"limit": result.limit}}
    record = Record(
        cell=cell,
        task=task_name(result.task),
        method=method,
        status=COMPLETE,
        model=model,
        budget=budget,
        order=result.model_args.get("order"),
        headline=result.score,
        n=result.n,
        figures={"metric": result.metric, "lmms_eval": dict(result.metrics)},
        tokens_per_image=result.tokens_per_image,
        images=0 if result.tokens_per_image is None else result.n,
        inputs=inputs,
        stamp={"date": result.date, "model": result.model, "model_args": dict(result.model_args)},
    )
    return Measured(record, _items(result))


def _items(result: LmmsResult) -> Items | None:
    """Which documents share a picture is not told, so each stands for itself. None where the samples do not tell."""
    if not result.items:
        return None
    ids = tuple(result.items)
    return Items(ids, ids, tuple(result.items.values()), ("",) * len(ids), result.ratios)


def _method_of(result: LmmsResult) -> tuple[str, dict[str, int] | None]:
    given = result.model_args
    if result.model != MODEL_ID or "pretrained" not in given:
        raise ValueError(f"{result.source}: expected results of {MODEL_ID} with pretrained=..., got {result.model}")
    kept = {name: int(given[name]) for name in ("dominant", "contextual") if name in given}
    budget = {**kept, "total": sum(kept.values())} if kept else None
    method = given.get("method") or "visionzip"
    if "method" not in given and not kept:
        raise ValueError(
            f"{result.source}: {given['pretrained']} was run as it was saved, so the table cannot say what it is; run "
            "it with method=dense, or with a method and its dominant and contextual"
        )
    if (method_named(method).config is None) != (budget is None):
        raise ValueError(f"{result.source}: method {method!r} and budget {budget} do not go together")
    return method, budget


def model_options(
    model: Mapping[str, Any], method: str, budget: Mapping[str, int] | None, order: str
) -> dict[str, Any]:
    """Options of llava_visionzip for a cell, all said, so that its results can be read back."""
    kept = {"dominant": budget["dominant"], "contextual": budget["contextual"], "order": order} if budget else {}
    return {"pretrained": model["path"], "model_base": model["base"], "method": method, **kept}
