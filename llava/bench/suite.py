"""A suite: which parts are measured on which models. One record (JSON) per model and part, written when it is done.

    subjects:
      - shape: liuhaotian/llava-v1.6-vicuna-7b      # or model: FOLDER
        dtype: bfloat16
        latency: {cases: [dense, "visionzip:32"], text: 60, new_tokens: 32, rounds: 20}

A part that has its record already is not run again: one of the same settings, commit, versions and device. A part that
fails is noted and the others go on.
"""

import gc
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

from llava.bench import answer, costs, encode, footprint, names, received, throughput, train_step
from llava.bench.cases import Case, check_cases, parse_case, programs
from llava.bench.roofline import Ceilings, measure_ceilings
from llava.bench.setup import Subject, from_checkpoint, from_shape, question_for
from llava.model.placement import as_dtype
from llava.provenance import device_name, stamp
from llava.utils import write_json
from visionzip import VisionZip, budget_for

Report = Callable[[str], None]
MADE_BY = ("commit", "dirty", "versions", "device")  # of a stamp: what must be the same for a record to stand
SUBJECT_KEYS = ("model", "shape", "sizes", "tower", "dtype", "bits", "attention", "name")


@dataclass(frozen=True)
class Bench:
    """What a part gets: the loaded model, the device's ceilings in its dtype, and where to tell progress."""

    subject: Subject
    ceilings: Ceilings
    report: Report


def _cases(bench: Bench, cases: Sequence[str]) -> list[Case]:
    """Raises: ValueError for what is no case, or does not fit the model."""
    parsed = [parse_case(case) for case in cases]
    check_cases(bench.subject.model, parsed)
    return parsed


def latency(
    bench: Bench,
    *,
    cases: list[str],
    text: int = 60,
    new_tokens: int = 32,
    rounds: int = 10,
) -> dict[str, Any]:
    """To the first token and to the whole answer, all cases in turn."""
    question = question_for(bench.subject, text)
    found = answer.measure(
        bench.subject,
        question,
        _cases(bench, cases),
        new_tokens=new_tokens,
        rounds=rounds,
        ceilings=bench.ceilings,
        report=bench.report,
    )
    return {"tiles": question.tiles, "text_tokens": question.text, **found}


def encoder(bench: Bench, *, tiles: Sequence[int] = (1, 5), budget: int = 64, rounds: int = 10) -> dict[str, Any]:
    """The encoder alone, VisionZip at `budget` tokens a tile, over so many `tiles` at a time."""
    split = budget_for(budget)
    zipper = VisionZip(split.dominant, split.contextual)
    return {"budget": budget, "cases": encode.measure(bench.subject, zipper, tiles, rounds, bench.report)}


def memory(bench: Bench, *, cases: list[str], text: int = 60, new_tokens: int = 32) -> dict[str, Any]:
    """Weights, activations and cache of one answer."""
    subject, question = bench.subject, question_for(bench.subject, text)
    rows = []
    for case in _cases(bench, cases):  # one at a time: another case's buffers are none of this one's
        with programs(subject, question, [case], new_tokens) as ready:
            program = ready[case.label]
            if program.fast is not None:  # its cache comes with the first answer and stays
                program.run(new_tokens)
            parts = footprint.measure_footprint(
                subject.model,
                lambda run=program.run: run(new_tokens),
                layers=subject.model.get_decoder().layers,
                static_cache=0 if program.fast is None else program.fast.cache_bytes,
            )
            tokens = {"visual_tokens": program.visual, "visual_tokens_per_layer": program.per_layer}
            rows.append({"case": case.label, **tokens, **parts})
        bench.report(f"memory: {case.label}")
    return {"tiles": question.tiles, "text_tokens": question.text, "new_tokens": new_tokens, "cases": rows}


def loop(
    bench: Bench,
    *,
    cases: list[str],
    text: int = 60,
    new_tokens: int = 2,
    questions: int = 32,
    batch_sizes: list[int] | None = None,
    workers: int = 0,
    rounds: int = 3,
) -> dict[str, Any]:
    """Short answers to many pictures."""
    rows = throughput.measure(
        bench.subject,
        _cases(bench, cases),
        question_for(bench.subject, text).ids,
        questions=questions,
        batch_sizes=batch_sizes or [1],
        new_tokens=new_tokens,
        workers=workers,
        rounds=rounds,
        report=bench.report,
    )
    return {"text_tokens": text, "new_tokens": new_tokens, "questions": questions, "workers": workers, "cases": rows}


def train(
    bench: Bench, *, cases: list[str], rows: int = 4, text: int = 250, supervised: int = 100, rounds: int = 5
) -> dict[str, Any]:
    """A projector-only training step."""
    wanted = _cases(bench, cases)
    options: dict[str, Any] = {"rows": rows, "text": text, "supervised": supervised, "rounds": rounds}
    return {
        "supervised": supervised,
        "cases": train_step.measure(bench.subject, wanted, **options, report=bench.report),
    }


def kernels(bench: Bench, *, sizes: Sequence[Mapping[str, int]] = ({"tiles": 1, "patches": 729},)) -> dict[str, Any]:
    """Received attention: the map itself, in chunks, and the Triton kernel. sizes: fields of `received.Size`."""
    wanted = [received.Size(**size) for size in sizes]
    dtype = bench.subject.model.dtype
    return {"cases": received.measure(bench.subject.device, dtype, wanted, report=bench.report)}


def scaling(bench: Bench, **options: Any) -> dict[str, Any]:
    """Cost against tiles, tokens and batch, with fitted exponents."""
    return {"curves": costs.measure(bench.subject, **options, report=bench.report)}


PARTS: Mapping[str, Callable[..., dict[str, Any]]] = dict(
    zip(names.PARTS, (latency, encoder, memory, loop, train, kernels, scaling), strict=True)
)


@dataclass(frozen=True)
class Plan:
    """One entry of a suite: a model and its parts with their options."""

    name: str
    load: Mapping[str, Any]
    parts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def subject(self, device: str) -> Subject:
        """Load or build the model."""
        keys = dict(self.load)
        dtype = as_dtype(keys.pop("dtype", "float32")) or torch.float32
        if "model" in keys:
            return from_checkpoint(keys.pop("model"), device, dtype, **keys)
        return from_shape(keys.pop("shape"), device, dtype, **keys)


def plans_of(config: Mapping[str, Any], where: str) -> list[Plan]:
    """The entries of a suite. Raises: ValueError naming the file's entry and key that is wrong."""
    plans = []
    for number, entry in enumerate(config.get("subjects") or []):
        place = f"{where}: subjects[{number}]"
        unknown = sorted(entry.keys() - {*SUBJECT_KEYS, *PARTS})
        if unknown:
            raise ValueError(f"{place} has unknown keys {unknown}; known: {', '.join((*SUBJECT_KEYS, *PARTS))}")
        if ("model" in entry) == ("shape" in entry):
            raise ValueError(f"{place} needs either model (a folder or hub id) or shape (a public name)")
        _check_load(entry, place)
        source = entry.get("model") or entry["shape"]
        bits = f"-{entry['bits']}bit" if entry.get("bits", 16) != 16 else ""
        attention = f"-{entry['attention']}" if entry.get("attention", "sdpa") != "sdpa" else ""
        name = entry.get("name") or f"{Path(source).name}{bits}{attention}"
        load = {key: entry[key] for key in SUBJECT_KEYS if key in entry and key != "name"}
        plans.append(Plan(name, load, {part: entry[part] or {} for part in PARTS if part in entry}))
    if not plans:
        raise ValueError(f"{where}: no subjects; expected a list of models with the parts to measure")
    names = [plan.name for plan in plans]
    if len(set(names)) < len(names):
        raise ValueError(f"{where}: two subjects share a name ({', '.join(names)}); give one a `name`")
    return plans


def _check_load(entry: Mapping[str, Any], place: str) -> None:
    """Raises: ValueError naming the entry and the key that no model can be loaded with."""
    if entry.get("bits", 16) not in names.BITS:
        raise ValueError(f"{place}: bits {entry['bits']!r}: expected 16, 8 or 4")
    if entry.get("attention", "sdpa") not in names.ATTENTION:
        raise ValueError(f"{place}: attention {entry['attention']!r}: expected one of {', '.join(names.ATTENTION)}")
    if "model" in entry and (laid := {"sizes", "tower"} & entry.keys()):
        raise ValueError(f"{place}: {', '.join(sorted(laid))} belong to a shape; a checkpoint has its own sizes")
    try:
        as_dtype(entry.get("dtype"))
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


def read_suite(file: Path) -> list[Plan]:
    """A suite's YAML. Raises: ValueError when it cannot be read or does not fit."""
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"--config {file}: {error}") from error
    return plans_of(config if isinstance(config, Mapping) else {}, str(file))


def record_file(out: Path, plan: Plan, part: str) -> Path:
    """Where a part's record lies."""
    return out / f"{plan.name}.{part}.json"


class Failure(NamedTuple):
    """What could not be measured, and why. part: None where the model itself could not be loaded."""

    name: str
    part: str | None
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}" if self.part is None else f"{self.name}, {self.part}: {self.reason}"


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"


def kept_parts(plan: Plan, out: Path, device: str) -> dict[str, str]:
    """Parts with a record of these settings that this commit made on this device, with these versions: part -> date.

    Local changes may be to anything, so nothing is kept then; nor is what is older than a checkpoint's files.
    """
    now, kept = stamp(device=device_name(torch.device(device).type)), {}
    if now["dirty"]:
        return {}
    changed = _last_change(str(plan.load.get("model", "")))
    for part, options in plan.parts.items():
        file = record_file(out, plan, part)
        done = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        made = done.get("stamp", {})
        same = done.get("settings") == {"load": dict(plan.load), **options}
        if same and all(made.get(key) == now[key] for key in MADE_BY) and made["date"] > changed:
            kept[part] = made["date"]
    return kept


def _last_change(model: str) -> str:
    """When a file of a checkpoint's folder was last written, as a stamp says dates; "" for a shape or a hub id."""
    files = list(Path(model).iterdir()) if model and Path(model).is_dir() else []
    newest = max((file.stat().st_mtime for file in files), default=None)
    return "" if newest is None else datetime.fromtimestamp(newest, UTC).isoformat(timespec="seconds")


def run(
    plans: list[Plan], out: Path, device: str, report: Report, only: str | None = None, *, again: bool = False
) -> Iterator[Failure]:
    """Measure what has no record yet (again: all of it); yields what failed, as it fails."""
    for plan in plans:
        wanted = {part: options for part, options in plan.parts.items() if only in (None, part)}
        kept = {} if again else kept_parts(plan, out, device)
        for part in wanted.keys() & kept.keys():
            report(f"{plan.name}, {part}: kept, measured {kept[part]}")
        left = {part: options for part, options in wanted.items() if part not in kept}
        if not left:
            report(f"{plan.name}: nothing left to measure")
            continue
        yield from _run_plan(plan, left, out, device, report)
        gc.collect()
        if torch.device(device).type == "cuda":
            torch.cuda.empty_cache()


def _run_plan(
    plan: Plan, left: Mapping[str, Mapping[str, Any]], out: Path, device: str, report: Report
) -> Iterator[Failure]:
    """These parts of one model, which is let go when this returns; yields what failed."""
    begin = time.perf_counter()
    try:
        subject = plan.subject(device)
        bench = Bench(subject, measure_ceilings(device, subject.model.dtype), report)
    except Exception as error:  # noqa: BLE001 - a model that does not fit or lacks a library fails alone
        yield Failure(plan.name, None, _reason(error))
        return
    report(f"{plan.name}: ready after {time.perf_counter() - begin:.0f} s")
    for part, options in left.items():
        begin = time.perf_counter()
        try:
            found = PARTS[part](bench, **options)
        except Exception as error:  # noqa: BLE001 - the other parts are still worth having; the caller exits with 1
            yield Failure(plan.name, part, _reason(error))
            continue
        write_json(record_file(out, plan, part), _record(bench, plan, part, options, found))
        report(f"{plan.name}, {part}: done in {time.perf_counter() - begin:.0f} s")


def _record(
    bench: Bench, plan: Plan, part: str, options: Mapping[str, Any], found: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "kind": part,
        "stamp": stamp(dtype=bench.subject.model.dtype, device=device_name(bench.subject.device.type), seed=0),
        "settings": {"load": dict(plan.load), **options},
        "subject": bench.subject.describe(),
        "ceilings": vars(bench.ceilings),
        **found,
    }
