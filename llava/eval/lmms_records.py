"""lmms-eval's results as records of our own, so that one table holds both."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llava.eval.cells import COMPLETE, NO_ITEMS, Items, Record
from llava.eval.compare import Measured
from llava.eval.lmms_config import LmmsConfig
from llava.eval.lmms_results import LmmsResult, read_lmms_results
from llava.eval.methods import method_named
from llava.eval.tasks.files import read_json
from llava.utils import write_text

# Benchmarks LLaVA has no script of its own for: lmms-eval's figure is the one tables print. Everything else of
# lmms-eval has a protocol of its own and stays a column of its own.
NAMES: Mapping[str, str] = {"mmmu_val": "mmmu", "mini_mmmu_val": "mmmu"}
MODEL_ID = "llava_visionzip"
LMMS_LLAVA = "llava"  # lmms-eval's own model for LLaVA's checkpoints: dense, without visual tokens and pictures named
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
        ValueError: results of another model, a run that does not say which method it measured, or a checkpoint with a
            compressor in lmms-eval's own model.
    """
    method, budget = _method_of(result)
    cell = method if budget is None else f"{method}-{budget['total']}"
    model = {"path": result.model_args["pretrained"], "base": result.model_args.get("model_base")}
    files = {"dataset": result.dataset, "version": result.version}
    inputs = {"files": files, "settings": {"limit": result.limit, **settings_of(result.model_args)}}
    items = _items(result)
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
        figures={"metric": result.metric, "lmms_eval": dict(result.metrics), **({} if items else NO_ITEMS)},
        tokens_per_image=result.tokens_per_image,
        images=0 if result.tokens_per_image is None else result.n,
        inputs=inputs,
        stamp={
            "date": result.date,
            "dtype": result.model_args.get("dtype"),
            "model": result.model,
            "model_args": dict(result.model_args),
        },
    )
    return Measured(record, items, source=result.source)


def _items(result: LmmsResult) -> Items | None:
    """None where the samples do not tell. A document whose pictures the model did not name stands for itself."""
    if not result.items:
        return None
    ids = tuple(result.items)
    return Items(
        ids=ids,
        images=tuple(result.pictures.get(key, key) for key in ids),
        scores=tuple(result.items.values()),
        said=tuple(result.said.get(key, "") for key in ids),
        ratios=result.ratios,
    )


def settings_of(model_args: Mapping[str, Any]) -> dict[str, Any]:
    """How our model in lmms-eval was told to ask, under the names of our own records; None: the loader's choice."""
    attention = model_args.get("attn") or model_args.get("attn_implementation")
    return {"conv_mode": model_args.get("conv_template") or LmmsConfig.conv_template, "attention": attention}


def questions_file(out: Path, task: str) -> Path:
    """Where the questions of a task of lmms-eval are kept: its data are on the hub, so nothing else here tells them."""
    return out / "questions" / f"{task}.json"


def write_questions(out: Path, result: LmmsResult) -> None:
    """Keep a task's prompts and references, once for all cells: {document: [prompt, reference]}."""
    lines = ",\n".join(
        f" {json.dumps(key)}: {json.dumps(asked, ensure_ascii=False)}" for key, asked in result.asked.items()
    )
    write_text(questions_file(out, task_name(result.task)), f"{{\n{lines}\n}}\n")


def read_questions(out: Path, task: str) -> dict[str, tuple[str, str]]:
    """Document -> (prompt, reference); empty where they were not kept.

    Raises:
        ValueError: the file is malformed.
    """
    path = questions_file(out, task)
    if not path.exists():
        return {}
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return {key: (str(prompt), str(reference)) for key, (prompt, reference) in kept.items()}
    except (json.JSONDecodeError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected {{document: [prompt, reference]}}: {error}") from error


def _method_of(result: LmmsResult) -> tuple[str, dict[str, int] | None]:
    given = result.model_args
    if result.model not in (MODEL_ID, LMMS_LLAVA) or "pretrained" not in given:
        raise ValueError(
            f"{result.source}: expected results of {MODEL_ID} or {LMMS_LLAVA} with pretrained=..., got {result.model} "
            f"with {dict(given)}"
        )
    if result.model == LMMS_LLAVA:
        _require_uncompressed(result.source, given["pretrained"])
        return "dense", None
    kept = {name: int(given[name]) for name in ("dominant", "contextual") if name in given}
    budget = {**kept, "total": sum(kept.values())} if kept else None
    method = given.get("method") or "visionzip"
    if "method" not in given and not kept:
        raise ValueError(
            f"{result.source}: {given['pretrained']} was run as it was saved, so the table cannot say what it is; run "
            "it with method=dense, or with a method and its dominant and contextual (scripts/eval/lmms.sh says them)"
        )
    if (method_named(method).config is None) != (budget is None):
        raise ValueError(f"{result.source}: method {method!r} and budget {budget} do not go together")
    return method, budget


def _require_uncompressed(source: Path, pretrained: str) -> None:
    """lmms-eval's own model runs a checkpoint as it was saved and names no method. Only a folder can be looked into."""
    config = Path(pretrained) / "config.json"
    saved = read_json(config, dict, "").get("mm_compressor") if config.is_file() else None
    if saved is not None:
        raise ValueError(
            f"{source}: {pretrained} was saved with {saved}, so this run of lmms-eval's {LMMS_LLAVA} is not dense and "
            f"cannot say what it is; run it with {MODEL_ID} (scripts/eval/lmms.sh)"
        )


def model_options(
    model: Mapping[str, Any], method: str, budget: Mapping[str, int] | None, order: str
) -> dict[str, Any]:
    """Options of llava_visionzip for a cell, all said, so that its results can be read back."""
    kept = {"dominant": budget["dominant"], "contextual": budget["contextual"], "order": order} if budget else {}
    return {"pretrained": model["path"], "model_base": model["base"], "method": method, **kept}
