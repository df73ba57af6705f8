"""What the scoring commands share: their files as options, a result as JSON, and an error as a usage error."""

from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from llava.eval.tasks.base import TaskScore
from llava.eval.tasks.files import write_json_file
from llava.provenance import sha256_file, stamp, without_machine_paths

AnnotationFile = Annotated[Path, typer.Option("--annotation-file", help="The benchmark's public annotation file.")]
ResultFile = Annotated[Path, typer.Option("--result-file", help="LLaVA's answer lines.")]
Out = Annotated[Path | None, typer.Option("--out", help="Write the figures there as JSON, with a stamp.")]


def usage_errors(command: Callable[..., None]) -> Callable[..., None]:
    """The command with its ValueErrors as messages of the command line."""

    @wraps(command)
    def checked(*given: Any, **named: Any) -> None:
        try:
            command(*given, **named)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error

    return checked


def write_score(out: Path | None, score: TaskScore, inputs: Sequence[Path]) -> None:
    """Headline, figures, hashes of the files they were made from, stamp; nothing without `out`."""
    if out is None:
        return
    record = {
        "task": score.name,
        "headline": score.headline,
        "accuracy": score.accuracy,
        "n": score.n,
        "figures": score.extra,
        "inputs": {path.name: sha256_file(path) for path in inputs},
        "stamp": stamp(),
    }
    write_json_file(out, without_machine_paths(record), indent=2)
