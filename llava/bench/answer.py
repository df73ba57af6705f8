"""From picture to first token and to the whole answer: all cases in turn on one model, in one run.

Two measurements make three figures. `first` is a run that ends with its first token: picture tiles on the device to
token, everything included (tower, scoring, merging, projector, packing, splice, prefill, head). `answer` makes
`new_tokens`; its stage `decode`, or where none is marked the difference of the two, divided by the tokens behind the
first, is the time of one decoding step. Preprocessing (decoding a file is the user's, resizing and normalising is ours)
is timed apart: batch runs do it in workers.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from llava.bench.cases import Case, Program, programs
from llava.bench.clock import Runs, alternate, ratios, spread, summarize
from llava.bench.memory import WEIGHT_BYTES
from llava.bench.roofline import Ceilings, Request, Work, bound, floor_seconds, kv_bytes, work
from llava.bench.setup import Question, Subject
from llava.mm_utils import process_images
from visionzip.core.types import Resizer

Times = Mapping[str, Sequence[Mapping[str, float]]]
TO_FIRST = ("vision", "score", "merge", "project", "prefill")


def measure(
    subject: Subject,
    question: Question,
    cases: Sequence[Case],
    *,
    new_tokens: int,
    rounds: int,
    ceilings: Ceilings,
    report: Callable[[str], None],
) -> dict[str, Any]:
    """The record's `preprocess` and `cases`, the first case being the one the others are compared with."""
    with programs(subject, question, cases, new_tokens) as ready:
        if subject.device.type == "cpu":
            _warm_up(ready, new_tokens, report)
        first = _alternate("first token", ready, 1, subject, rounds, report)
        # An answer repeats one step many times, so few rounds do.
        answers = _alternate("answer", ready, new_tokens, subject, min(rounds, max(3, rounds // 3)), report)
        base = cases[0].label
        rows = []
        for case in cases:
            name = case.label
            row = _row(case, ready[name], first[name], answers[name], new_tokens)
            row["speedup_first"] = ratios(first[base], first[name])
            row["speedup_answer"] = ratios(answers[base], answers[name])
            row["same_path"] = _same_path(case, first, answers)
            rows.append(row | _floor(subject, question, case, ready[name], new_tokens, ceilings, row))
    return {"preprocess": preprocessing(subject, question, rounds), "compared_with": base, "cases": rows}


def _warm_up(ready: Mapping[str, Program], count: int, report: Callable[[str], None]) -> None:
    """A whole answer each: on a CPU the second run is like any other (one that is compiled too), and takes seconds."""
    for name, program in ready.items():
        program.run(count)
        report(f"{name}: warm")


def _same_path(case: Case, first: Times, answers: Times) -> dict[str, Any] | None:
    """Speed-ups over dense on the case's own path; None where that was not measured."""
    dense, name = case.dense_alike, case.label
    if dense not in first:
        return None
    return {
        "compared_with": dense,
        "first": ratios(first[dense], first[name]),
        "answer": ratios(answers[dense], answers[name]),
    }


def _alternate(
    what: str, ready: Mapping[str, Program], count: int, subject: Subject, rounds: int, report: Callable[[str], None]
) -> dict[str, list[dict[str, float]]]:
    runs: Runs = {name: (lambda program=program: program.run(count)) for name, program in ready.items()}
    # A GPU chooses kernels and captures graphs in its first runs, for each length of an answer anew.
    warmup = 0 if subject.device.type == "cpu" else 2
    return alternate(runs, subject.device, rounds=rounds, warmup=warmup, report=lambda text: report(f"{what}, {text}"))


def _row(
    case: Case,
    program: Program,
    first: Sequence[Mapping[str, float]],
    answer: Sequence[Mapping[str, float]],
    count: int,
) -> dict[str, Any]:
    return {
        "case": case.label,
        "method": case.method,
        "path": case.path,
        "budget": None if case.budget is None else [case.budget.dominant, case.budget.contextual],
        "visual_tokens": program.visual,
        "visual_tokens_per_layer": program.per_layer,
        "first": summarize([run | {"rest": run["total"] - _named(run)} for run in first]),
        "answer": summarize(answer),
        "decode_step": _decode_step(first, answer, count - 1),
    }


def _named(run: Mapping[str, float]) -> float:
    """Seconds of all stages."""
    return sum(seconds for name, seconds in run.items() if name != "total")


def _decode_step(
    first: Sequence[Mapping[str, float]], answer: Sequence[Mapping[str, float]], steps: int
) -> dict[str, float] | None:
    """Spread of a step's seconds; None where no step was made, or where it drowns in the scatter of the totals."""
    if steps < 1:
        return None
    if all("decode" in run for run in answer):
        return spread([run["decode"] / steps for run in answer])
    start = statistics.median(run["total"] for run in first)
    found = spread([(run["total"] - start) / steps for run in answer])
    return found if found["median"] > 0 else None


def _floor(
    subject: Subject,
    question: Question,
    case: Case,
    program: Program,
    new_tokens: int,
    ceilings: Ceilings,
    row: Mapping[str, Any],
) -> dict[str, Any]:
    """FLOPs, bytes and the least time by stage, and how many times that the measured first token took."""
    budget = case.budget if case.method == "visionzip" else None
    compressor = case.compressor()
    request = Request(
        tiles=question.tiles,
        visual=program.visual,
        text=question.text,
        new_tokens=max(2, new_tokens),
        element_bytes=subject.model.dtype.itemsize,
        llm_weight_bytes=None if subject.bits == 16 else WEIGHT_BYTES[subject.bits],
        tower_blocks=subject.model.get_vision_tower().depth,
        budget=None if budget is None else (budget.dominant, budget.contextual),
        projected=None if compressor is None else program.visual,
        kept_per_layer=program.kept,
    )
    shape = subject.shape
    if isinstance(compressor, Resizer) and case.budget is not None:  # the tower encodes a smaller picture
        shape = replace(shape, patches=case.budget.total)
    parts = work(shape, request)
    floors = {stage: floor_seconds(part, ceilings) for stage, part in parts.items()}
    least, step = sum(floors[stage] for stage in TO_FIRST), row["decode_step"]
    total = sum((parts[stage] for stage in TO_FIRST), Work())
    cache = kv_bytes(subject.shape, question.text, request.element_bytes, program.kept)
    return {
        "kv_bytes": round(cache),
        "work": {
            stage: {"flops": part.flops, "bytes": part.bytes, "seconds": floors[stage], "bound": bound(part, ceilings)}
            for stage, part in parts.items()
        },
        "flops_first": total.flops,
        "floor_first": least,
        "times_floor_first": round(row["first"]["total"]["median"] / least, 3),
        "times_floor_decode": None if step is None else round(step["median"] / floors["decode"], 3),
    }


def preprocessing(subject: Subject, question: Question, rounds: int) -> dict[str, float]:
    """Seconds from a decoded picture to pixel tiles on the CPU, one process."""
    program: Runs = {
        "pixels": lambda: process_images([question.picture], subject.image_processor, subject.model.config)
    }
    return summarize(alternate(program, "cpu", rounds=rounds)["pixels"])["total"]
