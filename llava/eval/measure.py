"""One benchmark on one model: answers, score, record. The grid and the benchmark scripts both end here."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from llava.eval.cells import COMPLETE, Record, items_of, write_items
from llava.eval.generate import Answerer, Generation, generate_here
from llava.eval.inputs import checkpoint_files, task_inputs
from llava.eval.question_set import QuestionSet
from llava.eval.tasks.base import Benchmark, TaskScore
from llava.provenance import stamp, without_machine_paths

Scored = Callable[[QuestionSet, Generation], TaskScore]


def record_inputs(
    source: Mapping[str, str | None], benchmark: Benchmark, root: Path, asked: QuestionSet, **settings: Any
) -> dict[str, Any]:
    """Everything a record depends on but the code.

    Args:
        source: {"path", "base"} of the checkpoint.
        settings: decoding, compressor, order, limit.
    """
    inputs: dict[str, Any] = without_machine_paths({
        "weights": checkpoint_files(str(source["path"]), source["base"]),
        "files": task_inputs(benchmark, root, asked),
        "settings": settings,
    })
    return inputs


def scorer_of(benchmark: Benchmark, root: Path) -> Scored:
    """The benchmark's own scoring against the annotations under `root`.

    Raises:
        ValueError: the annotations are a server's or a judge's.
    """
    references = benchmark.references(root) if benchmark.references else None
    if references is None or benchmark.score is None:
        raise ValueError(f"{benchmark.name} cannot be scored here: {benchmark.server or 'it needs a judge'}")
    score = benchmark.score
    return lambda asked, done: score(asked.questions, references, done.answers)


def measure(
    base: Record,
    answerer: Answerer,
    asked: QuestionSet,
    scored: Scored,
    *,
    answers_file: Path,
    out: Path,
    **options: Any,
) -> Record | None:
    """Answer, score and write the items; the record is `base` completed, None where another rank merges.

    Args:
        base: says which cell and benchmark this is, and its inputs.
        options: of `generate_here`.
    """
    started = time.monotonic()
    done = generate_here(answerer, asked, answers_file, title=base.name, **options)
    if done is None:
        return None
    score = scored(asked, done)
    write_items(out, base.cell, base.task, items_of(asked.questions, done.answers, score))
    return replace(
        base,
        status=COMPLETE,
        headline=score.headline,
        accuracy=score.accuracy,
        n=score.n,
        figures=score.extra,
        tokens_per_image=done.tokens_per_image,
        images=sum(question.image is not None for question in asked.questions),
        seconds=round(time.monotonic() - started, 1),
        stamp=stamp(dtype=answerer.settings.get("dtype")),
    )


def budget_record(budget: Any) -> dict[str, int] | None:
    """A budget as records hold it."""
    return None if budget is None else {**asdict(budget), "total": budget.total}
