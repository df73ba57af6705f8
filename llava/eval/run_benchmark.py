"""One benchmark from question file to score: answer, convert for its server or official scorer, score, record.

    python -m llava.eval.run_benchmark pope --model-path liuhaotian/llava-v1.5-7b --dominant 54 --contextual 10

Below --root lie the public files, and what a run makes of them:
    <benchmark>/answers/<name>.jsonl         answers; a run that was stopped goes on here
    <benchmark>/answers_upload/...           what the server or the official scorer takes
The record, with every item, goes to --out (see cells.py). <name> is the checkpoint's, with the method and what it
keeps. Started by `torchrun`, the ranks share the questions and the one that finishes last scores.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from llava.eval.answer_command import ModelOptions, answer_command, open_answerer
from llava.eval.answerer import LlavaAnswerer
from llava.eval.cells import FAILED, Record, write_record
from llava.eval.generate import Generation
from llava.eval.judge.benchmarks import BENCHMARKS, JUDGED, judged_scorer
from llava.eval.judge.client import Judge
from llava.eval.measure import Prepared, Scored, budget_record, measure, record_inputs
from llava.eval.methods import requested_budget
from llava.eval.question_set import QuestionSet
from llava.eval.tasks.base import Benchmark, TaskScore
from llava.mm_utils import get_model_name_from_path
from visionzip import Budget

EXAMPLE = """Example: python -m llava.eval.run_benchmark pope --model-path liuhaotian/llava-v1.5-7b --dominant 54
--contextual 10"""


def what_runs(answerer: LlavaAnswerer, options: ModelOptions) -> tuple[str, Budget | None]:
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
    benchmark: Benchmark, options: ModelOptions, root: Path, out: Path, limit: int | None, judge: Judge
) -> Record | None:
    """Run a benchmark and write its record. None: another rank merges and scores.

    Raises:
        ValueError: a file that is not there, or a checkpoint that cannot be loaded.
        ServerScored: only a server can score the answers; the file for it is written and named.
    """
    if limit is not None and benchmark.name in JUDGED:
        raise ValueError(f"--limit: {benchmark.name} is judged whole; leave it out")
    task = Prepared(benchmark, root, limit)
    asked = task.asked  # a missing file is told before the model is loaded
    answerer = open_answerer(options)
    method, budget = what_runs(answerer, options)
    cell = method if budget is None else f"{method}-{budget.total}"
    parts = [answerer.model_id, *([] if budget is None else [cell]), *([f"first{limit}"] if limit else [])]
    name = "-".join(parts)
    folder = root / Path(benchmark.questions).parts[0]
    answers_file = folder / "answers" / f"{name}.jsonl"
    model = {"path": options.model_path, "base": options.model_base}
    inputs = record_inputs(model, task.files, {**answerer.settings, "limit": limit})
    base = Record(cell, benchmark.name, method, FAILED, model, budget_record(budget), options.order, inputs=inputs)
    if benchmark.name in JUDGED:
        scorer: Scored | None = judged_scorer(benchmark, root, answers_file, folder / "reviews", judge)
    else:
        scorer = None if task.references is None else task.scorer()
    scored = partial(_convert_and_score, task, name, scorer)
    how = {"batch_size": options.batch_size, "num_workers": options.num_workers}
    record = measure(base, answerer, asked, scored, answers_file=answers_file, out=out, **how)
    if record is not None:
        write_record(out, record)
    return record


def _convert_and_score(
    task: Prepared, name: str, scorer: Scored | None, asked: QuestionSet, done: Generation
) -> TaskScore:
    """scorer: None where only a server can."""
    benchmark = task.benchmark
    if benchmark.submit is not None and benchmark.upload is not None:
        target = benchmark.submit(task.root, asked, done.answers, task.root / benchmark.upload.format(name=name))
        typer.echo(f"for {benchmark.server or 'the official scorer'}: {target}")
    if scorer is None:
        raise ServerScored(f"{benchmark.title} is scored by {benchmark.server}; send it the file named above")
    return scorer(asked, done)


class ServerScored(Exception):
    """The answers are complete and only a server can score them."""


@answer_command(max_new_tokens=None, shared_options=ModelOptions)
def main(
    options: ModelOptions,
    task: Annotated[str, typer.Argument(help=f"One of {', '.join(BENCHMARKS)}.")],
    root: Annotated[Path, typer.Option(help="The eval root.")] = Path("playground/data/eval"),
    out: Annotated[Path | None, typer.Option(help="Folder of the record; default: runs/benchmarks/<model>.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first questions.")] = None,
    judge: Annotated[str | None, typer.Option(help="Judge of llavabench, mmvet; default: the published one.")] = None,
) -> None:
    """Answer, convert and score one benchmark; answers are as long as the public script allows, or as told."""
    if task not in BENCHMARKS:
        raise ValueError(f"unknown benchmark {task!r}; known: {', '.join(BENCHMARKS)}")
    benchmark = BENCHMARKS[task]
    options = replace(options, max_new_tokens=options.max_new_tokens or benchmark.max_new_tokens)
    named = get_model_name_from_path(options.model_path) + (f"-first{limit}" if limit else "")
    folder = out or Path("runs/benchmarks") / named
    try:
        record = run_benchmark(benchmark, options, root, folder, limit, Judge(model=judge))
    except ServerScored as told:
        typer.echo(str(told))
        return
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
