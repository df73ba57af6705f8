"""One benchmark from question file to score: answer, convert for its server or official scorer, score, record.

    python -m llava.eval.run_benchmark pope --model-path liuhaotian/llava-v1.5-7b --dominant 54 --contextual 10

Below --root lie the public files, and what a run makes of them:
    <benchmark>/answers/<name>.jsonl         answers; a run that was stopped goes on here
    <benchmark>/answers_upload/...           what the server or the official scorer takes
The record, with every item, goes to --out (see cells.py). <name> is the checkpoint's, with the method and what it
keeps. Started by `torchrun`, the ranks share the questions and the one that finishes last scores.
"""

import logging
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from llava.eval.answer_command import AnswerOptions, open_answerer
from llava.eval.answerer import LlavaAnswerer
from llava.eval.cells import FAILED, Record, write_record
from llava.eval.generate import Generation
from llava.eval.judge.benchmarks import JUDGED, judged_scorer
from llava.eval.judge.client import Judge
from llava.eval.measure import Scored, budget_record, measure, record_inputs, scorer_of
from llava.eval.methods import requested_budget
from llava.eval.question_set import QuestionSet
from llava.eval.tasks import TASKS
from llava.eval.tasks.base import Benchmark, TaskScore
from llava.mm_utils import get_model_name_from_path
from visionzip import Budget

ALL = {**TASKS, **JUDGED}
EXAMPLE = """Example: python -m llava.eval.run_benchmark pope --model-path liuhaotian/llava-v1.5-7b --dominant 54
--contextual 10"""


def what_runs(answerer: LlavaAnswerer, options: AnswerOptions) -> tuple[str, Budget | None]:
    """(method, budget): as asked for, else as the checkpoint was saved. VisionZip as it was saved is the tuned one.

    Raises:
        ValueError: the checkpoint's own compressor has no budget of dominant and contextual tokens.
    """
    method, budget = requested_budget(options.method, options.dominant, options.contextual)
    compressor = answerer.model.get_vision_tower().compressor
    kept = None if compressor is None else compressor.to_config()
    if kept is None or (method is not None and (method != "visionzip" or kept != answerer.source.get("saved"))):
        return method or "dense", budget
    if "dominant" not in kept:
        raise ValueError(
            f"{options.model_path} was saved with {kept}; say --method, --dominant and --contextual, so that the "
            "record says what was measured"
        )
    return "visionzip-tuned", Budget(kept["dominant"], kept["contextual"])


def run_benchmark(
    benchmark: Benchmark, options: AnswerOptions, root: Path, out: Path, limit: int | None, judge: Judge
) -> Record | None:
    """Run a benchmark and write its record. None: another rank merges and scores.

    Raises:
        ValueError: a file that is not there, a checkpoint that cannot be loaded, answers only a server can score (the
            file for it is written and named).
    """
    if limit is not None and benchmark.name in JUDGED:
        raise ValueError(f"--limit: {benchmark.name} is judged whole; leave it out")
    benchmark.require_files(root)
    asked = benchmark.read(root).first(limit)
    answerer = open_answerer(options)
    method, budget = what_runs(answerer, options)
    cell = method if budget is None else f"{method}-{budget.total}"
    parts = [answerer.model_id, *([] if budget is None else [cell]), *([f"first{limit}"] if limit else [])]
    name = "-".join(parts)
    folder = root / Path(benchmark.questions).parts[0]
    answers_file = folder / "answers" / f"{name}.jsonl"
    model = {"path": options.model_path, "base": options.model_base}
    inputs = record_inputs(model, benchmark, root, asked, **answerer.settings, limit=limit)
    base = Record(cell, benchmark.name, method, FAILED, model, budget_record(budget), options.order, inputs=inputs)
    scored = partial(_convert_and_score, benchmark, root, name, _scorer(benchmark, root, answers_file, judge))
    how = {"batch_size": options.batch_size, "num_workers": options.num_workers}
    record = measure(base, answerer, asked, scored, answers_file=answers_file, out=out, **how)
    if record is not None:
        write_record(out, record)
    return record


def _scorer(benchmark: Benchmark, root: Path, answers_file: Path, judge: Judge) -> Scored | None:
    """How it is scored here; None where only a server can."""
    if benchmark.name in JUDGED:
        return judged_scorer(benchmark, root, answers_file, answers_file.parent.parent / "reviews", judge)
    return scorer_of(benchmark, root) if benchmark.references and benchmark.references(root) is not None else None


def _convert_and_score(
    benchmark: Benchmark, root: Path, name: str, scorer: Scored | None, asked: QuestionSet, done: Generation
) -> TaskScore:
    if benchmark.submit is not None and benchmark.upload is not None:
        target = root / benchmark.upload.format(name=name)
        typer.echo(
            f"for {benchmark.server or 'the official scorer'}: {benchmark.submit(root, asked, done.answers, target)}"
        )
    if scorer is None:
        raise ServerScored(f"{benchmark.title} is scored by {benchmark.server}; send it the file named above")
    return scorer(asked, done)


class ServerScored(Exception):
    """The answers are complete and only a server can score them."""


def main(
    task: Annotated[str, typer.Argument(help=f"One of {', '.join(ALL)}.")],
    model_path: Annotated[str, typer.Option("--model-path", help="Checkpoint folder or hub name.")],
    model_base: Annotated[str | None, typer.Option("--model-base", help="Base of a LoRA or projector.")] = None,
    root: Annotated[Path, typer.Option(help="The eval root.")] = Path("playground/data/eval"),
    out: Annotated[Path | None, typer.Option(help="Folder of the record; default: runs/benchmarks/<model>.")] = None,
    dominant: Annotated[int | None, typer.Option("--dominant", help="Kept tokens a tile, CLS included.")] = None,
    contextual: Annotated[int | None, typer.Option("--contextual", help="Merged tokens a tile.")] = None,
    method: Annotated[
        str | None, typer.Option("--method", help="Default: visionzip with a budget, else as saved.")
    ] = None,
    order: Annotated[str | None, typer.Option("--order", help="Packing of several tiles: official, spatial.")] = None,
    conv_mode: Annotated[str, typer.Option("--conv-mode")] = "vicuna_v1",
    max_new_tokens: Annotated[int | None, typer.Option(help="Default: the public script's.")] = None,
    batch_size: Annotated[int, typer.Option("--batch-size")] = 1,
    num_workers: Annotated[int, typer.Option("--num-workers", help="Processes that decode images.")] = 0,
    limit: Annotated[int | None, typer.Option(help="Only the first questions.")] = None,
    device: Annotated[str | None, typer.Option(help="Default: a GPU if there is one.")] = None,
    judge: Annotated[str | None, typer.Option(help="Judge of llavabench, mmvet; default: the published one.")] = None,
) -> None:
    """Answer, convert and score one benchmark."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        if task not in ALL:
            raise ValueError(f"unknown benchmark {task!r}; known: {', '.join(ALL)}")
        benchmark = ALL[task]
        named = get_model_name_from_path(model_path) + (f"-first{limit}" if limit else "")
        folder = out or Path("runs/benchmarks") / named
        options = AnswerOptions(
            model_path=model_path,
            answers_file=root,  # each benchmark has its own place below it
            model_base=model_base,
            conv_mode=conv_mode,
            max_new_tokens=max_new_tokens or benchmark.max_new_tokens,
            batch_size=batch_size,
            num_workers=num_workers,
            dominant=dominant,
            contextual=contextual,
            method=method,
            order=order,
            device=device,
        )
        record = run_benchmark(benchmark, options, root, folder, limit, Judge(model=judge))
    except ServerScored as told:
        typer.echo(str(told))
        return
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if record is None:
        typer.echo("this rank is done; the last rank merges and scores")
        return
    tokens = "no images" if record.tokens_per_image is None else f"{record.tokens_per_image:.1f} visual tokens an image"
    typer.echo(f"{benchmark.title}: {record.headline:.2f} ({benchmark.metric}; {record.n} questions, {tokens})")
    for key, value in record.figures.items():
        typer.echo(f"  {key}: {value}")


app = typer.Typer(add_completion=False, rich_markup_mode=None)
app.command(epilog=EXAMPLE)(main)

if __name__ == "__main__":
    app()
