"""One benchmark from question file to score: answer, convert for its server or official scorer, score, record.

    python -m llava.eval.run_benchmark pope --model-path liuhaotian/llava-v1.5-7b --dominant 54 --contextual 10

Below --root lie the public files, and what a run makes of them:
    <benchmark>/answers/<name>.jsonl         answers; a run that was stopped goes on here
    <benchmark>/answers_upload/...           what the server or the official scorer takes
The record, with every item, goes to --out (see cells.py). <name> is the checkpoint's, with the method and what it
keeps, or --name: runs that differ in anything else (54 + 10 and 48 + 16, --order, --conv-mode) need one each.
Started by `torchrun`, the ranks share the questions and the one that finishes last scores.
"""

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C in the slow imports below: no traceback

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from llava.eval.answer_command import ModelOptions, answer_command, open_answerer
from llava.eval.answerer import LlavaAnswerer
from llava.eval.cells import FAILED, Record, write_record
from llava.eval.generate import Generation
from llava.eval.inputs import answer_inputs
from llava.eval.judge.benchmarks import BENCHMARKS, JUDGED, judged_scorer
from llava.eval.judge.client import Judge
from llava.eval.judge.judging import OnlyEstimated
from llava.eval.judge.options import DryRun, PriceIn, PriceOut, Workers
from llava.eval.measure import Prepared, Scored, Submitted, budget_record, measure, record_inputs
from llava.eval.methods import named_run, requested_budget
from llava.eval.question_set import QuestionSet
from llava.eval.tasks.base import Benchmark, TaskScore
from llava.eval.told import tell
from llava.mm_utils import get_model_name_from_path
from visionzip import Budget

EXAMPLE = """Example: python -m llava.eval.run_benchmark pope --model-path liuhaotian/llava-v1.5-7b --dominant 54
--contextual 10"""


def what_runs(answerer: LlavaAnswerer, options: ModelOptions) -> tuple[str, Budget | None]:
    """(method, budget): as asked for, else as the checkpoint was saved. VisionZip as it was saved is the tuned one.

    Raises:
        ValueError: the checkpoint's own compressor has no budget of dominant and contextual tokens.
    """
    asked = requested_budget(options.method, options.dominant, options.contextual)
    return named_run(*asked, answerer.source.get("saved"), options.model_path)


def run_benchmark(
    benchmark: Benchmark,
    options: ModelOptions,
    root: Path,
    out: Path,
    limit: int | None,
    judge: Judge,
    called: str | None = None,
) -> Record | None:
    """Run a benchmark and write its record. None: another rank merges and scores.

    Args:
        called: name of the answers and of what is made of them; default: see above.

    Raises:
        ValueError: a file or picture that is not there, a checkpoint that cannot be loaded, or answers of that name
            that another checkpoint, other settings or other pictures gave.
        OnlyEstimated: a dry run of a judged benchmark.
    """
    if limit is not None and benchmark.name in JUDGED:
        raise ValueError(f"--limit: {benchmark.name} is judged whole; leave it out")
    task = Prepared(benchmark, root, limit)
    asked, files = task.asked, task.files  # a missing file or picture is told before the model is loaded
    answerer = open_answerer(options)
    method, budget = what_runs(answerer, options)
    cell = method if budget is None else f"{method}-{budget.total}"
    parts = [called] if called else [answerer.model_id, *([] if budget is None else [cell])]
    name = "-".join([*parts, *([f"first{limit}"] if limit else [])])
    folder = root / Path(benchmark.questions).parts[0]
    answers_file = folder / "answers" / f"{name}.jsonl"
    model = {"path": options.model_path, "base": options.model_base}
    inputs = record_inputs(model, files, {**answerer.settings, "limit": limit})
    base = Record(cell, benchmark.name, method, FAILED, model, budget_record(budget), options.order, inputs=inputs)
    if benchmark.name in JUDGED:
        scorer: Scored = judged_scorer(benchmark, root, answers_file, folder / "reviews", judge)
    else:
        scorer = task.scorer(name)
    scored = partial(_convert_and_score, task, name, scorer)
    how = {"batch_size": options.batch_size, "num_workers": options.num_workers, "file_flag": "--name"}
    made_from = answer_inputs(options.model_path, options.model_base, asked, files["images"])
    record = measure(base, answerer, asked, scored, answers_file=answers_file, out=out, made_from=made_from, **how)
    if record is not None:
        write_record(out, record)
    return record


def _convert_and_score(
    task: Prepared, name: str, scorer: Scored, asked: QuestionSet, done: Generation
) -> TaskScore | Submitted:
    score = scorer(asked, done)
    target = score.file if isinstance(score, Submitted) else task.submit(done, name)
    if target is not None:
        typer.echo(f"for {task.benchmark.server or 'the official scorer'}: {target}")
    return score


@answer_command(max_new_tokens=None, shared_options=ModelOptions)
def main(
    options: ModelOptions,
    task: Annotated[str, typer.Argument(help=f"One of {', '.join(BENCHMARKS)}.")],
    root: Annotated[Path, typer.Option(help="The eval root.")] = Path("playground/data/eval"),
    out: Annotated[Path | None, typer.Option(help="Folder of the record; default: runs/benchmarks/<name>.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the answers; default: checkpoint, method and tokens.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first questions.")] = None,
    judge: Annotated[str | None, typer.Option(help="Judge of llavabench, mmvet; default: the published one.")] = None,
    workers: Workers = 4,
    price_in: PriceIn = None,
    price_out: PriceOut = None,
    dry_run: DryRun = False,
) -> None:
    """Answer, convert and score one benchmark; answers are as long as the public script allows, or as told."""
    if task not in BENCHMARKS:
        raise ValueError(f"unknown benchmark {task!r}; known: {', '.join(BENCHMARKS)}")
    benchmark = BENCHMARKS[task]
    options = replace(options, max_new_tokens=options.max_new_tokens or benchmark.max_new_tokens)
    named = (name or get_model_name_from_path(options.model_path)) + (f"-first{limit}" if limit else "")
    folder = out or Path("runs/benchmarks") / named
    if dry_run and task not in JUDGED:
        raise ValueError(f"--dry-run estimates what a judge takes: it is for {', '.join(JUDGED)}; got {task}")
    asking = Judge(model=judge, workers=workers, price_in=price_in, price_out=price_out, dry_run=dry_run)
    try:
        record = run_benchmark(benchmark, options, root, folder, limit, asking, name)
    except OnlyEstimated:
        typer.echo("a dry run: the answers are kept, nothing was sent to the judge")
        return
    if record is None:
        typer.echo("this rank is done; the last rank merges and scores")
        return
    for line in tell(benchmark, record, folder):
        typer.echo(line)


app = typer.Typer(add_completion=False, rich_markup_mode=None)
app.command(epilog=EXAMPLE)(main)

if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    app()
