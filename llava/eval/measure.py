"""One benchmark on one model: answers, score, record. The grid and the benchmark scripts both end here."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from llava.eval.cells import ANSWERED, COMPLETE, Record, items_of, write_items
from llava.eval.generate import Answerer, Generation, generate_here
from llava.eval.inputs import checkpoint_files, task_inputs
from llava.eval.question_set import QuestionSet
from llava.eval.shards import launched_shard
from llava.eval.tasks.base import Benchmark, Reference, TaskScore
from llava.provenance import stamp, without_machine_paths


@dataclass(frozen=True)
class Submitted:
    """What stands in a score's place where only a server can give it. file: what to send there."""

    server: str
    file: Path


Scored = Callable[[QuestionSet, Generation], TaskScore | Submitted]


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

    def scorer(self, name: str) -> Scored:
        """The benchmark's own scoring; where the references are a server's, the file to send there is written.

        Args:
            name: of the run, and so of that file.

        Raises:
            ValueError: it needs a judge.
        """
        references, score, server = self.references, self.benchmark.score, self.benchmark.server
        if references is not None and score is not None:
            return lambda asked, done: score(asked.questions, references, done.answers)
        if server is None:
            raise ValueError(f"{self.benchmark.name} cannot be scored here: it needs a judge")

        def submitted(_asked: QuestionSet, done: Generation) -> Submitted:
            file = self.submit(done, name)
            assert file is not None, f"{self.benchmark.name}: a server without a file for it"
            return Submitted(server, file)

        return submitted

    def submit(self, done: Generation, name: str) -> Path | None:
        """Write the file that a server or the official scorer takes -> where it lies; None where neither is."""
        write, upload = self.benchmark.submit, self.benchmark.upload
        if write is None or upload is None:
            return None
        return write(self.root, self.asked, done.answers, self.root / upload.format(name=name))


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
    """Answer, score and write the items; the record is `base` completed, or with all answers where a server scores
    them. None where another rank merges.

    Args:
        base: says which cell and benchmark this is, and its inputs.
        options: of `generate_here`.
    """
    started = time.monotonic()
    done = generate_here(answerer, asked, answers_file, title=base.name, **options)
    if done is None:
        return None
    score = scored(asked, done)
    answered = replace(
        base,
        status=ANSWERED,
        n=len(done.answers),
        tokens_per_image=done.tokens_per_image,
        images=sum(question.image is not None for question in asked.questions),
        seconds=round(time.monotonic() - started, 1),
        stamp=stamp(dtype=answerer.settings.get("dtype"), how=_how(answerer, options)),
    )
    if isinstance(score, Submitted):
        return replace(answered, figures={"server": score.server, "submission": score.file.as_posix()})
    write_items(out, base.cell, base.task, items_of(asked.questions, done.answers, score))
    return replace(
        answered,
        status=COMPLETE,
        headline=score.headline,
        accuracy=score.accuracy,
        n=score.n,
        figures=score.extra,
    )


def _how(answerer: Answerer, options: Mapping[str, Any]) -> dict[str, Any]:
    """What changes a record's time, and tokens by rounding at most: no two records are kept apart by it."""
    launched = launched_shard()
    processes = 1 if launched is None else launched.count
    return {"batch_size": options.get("batch_size", 1), "processes": processes, **answerer.how}


def budget_record(budget: Any) -> dict[str, int] | None:
    """A budget as records hold it."""
    return None if budget is None else {**asdict(budget), "total": budget.total}
