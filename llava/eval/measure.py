"""One benchmark on one model: answers, score, record. The grid and the benchmark scripts both end here."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from llava.eval.cells import COMPLETE, Record, items_of, write_items
from llava.eval.generate import Answerer, Generation, generate_here
from llava.eval.inputs import checkpoint_files, task_inputs
from llava.eval.question_set import QuestionSet
from llava.eval.tasks.base import Benchmark, Reference, TaskScore
from llava.provenance import stamp, without_machine_paths

Scored = Callable[[QuestionSet, Generation], TaskScore]


@dataclass(frozen=True)
class Prepared:
    """A benchmark under an eval root, each file read once however many models are asked.

    limit: see `QuestionSet.first`. Every part is read when it is first used and raises ValueError where its file is
    missing or malformed.
    """

    benchmark: Benchmark
    root: Path
    limit: int | None = None

    @cached_property
    def asked(self) -> QuestionSet:
        """The questions and their pictures."""
        self.benchmark.require_files(self.root)
        return self.benchmark.read(self.root).first(self.limit)

    @cached_property
    def files(self) -> dict[str, str]:
        """Hashes of the files and of the pictures asked about."""
        return task_inputs(self.benchmark, self.root, self.asked)

    @cached_property
    def references(self) -> Mapping[str, Reference] | None:
        """What is right; None where only a server or a judge knows."""
        read = self.benchmark.references
        return None if read is None else read(self.root, self.asked.questions)

    def scorer(self) -> Scored:
        """The benchmark's own scoring.

        Raises:
            ValueError: the references are a server's or a judge's.
        """
        references, score = self.references, self.benchmark.score
        if references is None or score is None:
            told = self.benchmark.server or "it needs a judge"
            raise ValueError(f"{self.benchmark.name} cannot be scored here: {told}")
        return lambda asked, done: score(asked.questions, references, done.answers)


def record_inputs(
    source: Mapping[str, str | None], files: Mapping[str, str], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything a record depends on but the code.

    Args:
        source: {"path", "base"} of the checkpoint.
        files: hashes of what was asked.
        settings: decoding, compressor, order, limit.
    """
    inputs: dict[str, Any] = without_machine_paths({
        "weights": checkpoint_files(str(source["path"]), source["base"]),
        "files": files,
        "settings": settings,
    })
    return inputs


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
