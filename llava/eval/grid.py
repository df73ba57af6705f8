"""Run a grid of methods and budgets over benchmarks, one record for each benchmark of each cell.

    python -m llava.eval.grid --config configs/eval/miniature.yaml --out results/miniature

First it says what of all that is needed is missing; --check stops there. What is complete and whose inputs (weights,
question files, pictures, settings) are unchanged is skipped; what was stopped goes on where it stopped; what fails is
recorded as failed and the others still run. Where a server scores, the file for it is written and named. The exit code
is 1 if any failed; under torchrun it is 0, and `python -m llava.eval.report --strict` tells.
"""

import gc
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Protocol

import typer

from llava.eval.answer_command import warn_of_template
from llava.eval.answerer import Decoding, LlavaAnswerer
from llava.eval.cells import ANSWERED, COMPLETE, FAILED, Record, is_complete, is_done, write_record
from llava.eval.generate import Answerer
from llava.eval.grid_check import Lacking, describe, look, record_lacking
from llava.eval.grid_command import (
    BatchSize,
    Budgets,
    Config,
    Device,
    JudgeName,
    Limit,
    Methods,
    Out,
    Tasks,
    lmms_part,
    read_grid,
    report_failures,
    tells_all,
)
from llava.eval.grid_config import Cell, GridConfig, Source
from llava.eval.judge.benchmarks import BENCHMARKS, JUDGED, judged_scorer
from llava.eval.judge.client import Judge
from llava.eval.lmms_records import task_name
from llava.eval.loading import Loaded, load_model
from llava.eval.measure import Prepared, Scored, budget_record, measure, record_inputs
from llava.eval.methods import apply_method, compressor_of
from llava.eval.shards import launched_shard
from llava.eval.tasks.base import Benchmark
from llava.provenance import stamp
from llava.utils import write_text

logger = logging.getLogger(__name__)

EXAMPLE = "Example: python -m llava.eval.grid --config configs/eval/miniature.yaml --out runs/grid --method dense"
Echo = Callable[[str], None]
SKIPPED, PART = "skipped", "part"


class Opened(Protocol):
    """A checkpoint that was opened once and answers for any of its cells."""

    def answerer(self, cell: Cell, max_new_tokens: int) -> Answerer: ...

    def close(self) -> None: ...


class Checkpoint:
    """A LLaVA checkpoint, loaded when the first cell needs it; between cells only the compressor changes."""

    def __init__(self, source: Source, config: GridConfig, device: str | None = None) -> None:
        self.source, self.config, self.device = source, config, device
        self._loaded: Loaded | None = None
        self._refused: ValueError | None = None

    def answerer(self, cell: Cell, max_new_tokens: int) -> Answerer:
        """The model with the cell's method attached.

        Raises:
            ValueError: it cannot be loaded (tried once: the next cells are told the same at once), or not so run.
        """
        if self._loaded is None:
            self._loaded = self._load()
            warn_of_template(self._loaded.name, self.config.generation.conv_mode)
        loaded, how = self._loaded, self.config.generation
        apply_method(loaded.model, cell.method, cell.budget, self.config.order)
        decoding = Decoding(how.conv_mode, num_beams=how.num_beams, max_new_tokens=max_new_tokens)
        return LlavaAnswerer(loaded.model, loaded.tokenizer, loaded.image_processor, loaded.name, decoding)

    def _load(self) -> Loaded:
        if self._refused is not None:
            raise ValueError(str(self._refused)) from self._refused
        try:
            return load_model(self.source.path, self.source.base, self.device)
        except ValueError as error:
            self._refused = error
            raise

    def close(self) -> None:
        """Give the model's memory back before the next checkpoint is loaded."""
        if self._loaded is not None:
            self._loaded = None
            gc.collect()


def run_grid(
    config: GridConfig,
    out: Path,
    *,
    open_checkpoint: Callable[[Source], Opened],
    cells: Sequence[Cell] | None = None,
    tasks: Sequence[str] | None = None,
    lacking: Lacking | None = None,
    echo: Echo = logger.info,
) -> dict[str, str]:
    """Run all that is not done; what lacks something fails at once. -> {"cell/task": "complete", "answered", "skipped",
    "failed" or "part" (of a launched run)}

    Args:
        open_checkpoint: how a checkpoint becomes an answerer; called once a checkpoint, its cells run together.
        cells, tasks: some of the config's; default all.
        lacking: what is missing, if that was looked up already.
    """
    chosen = list(config.cells() if cells is None else cells)
    names = list(config.tasks if tasks is None else tasks)
    lacking = look(config, chosen, names) if lacking is None else lacking
    outcomes: dict[str, str] = {}
    prepared = {name: Prepared(BENCHMARKS[name], Path(config.data), config.limit) for name in names}
    for source in dict.fromkeys(cell.source for cell in chosen):
        cells_here = [cell for cell in chosen if cell.source == source]
        for cell in cells_here:
            outcomes |= {f"{cell.name}/{task}": FAILED for task in names if lacking.why(cell, task) is not None}
            for line in record_lacking(lacking, out, {task: _base(cell, task, config) for task in names}, cell):
                echo(line)
        todo = [(cell, task) for cell in cells_here for task in names if f"{cell.name}/{task}" not in outcomes]
        if not todo:
            continue
        opened = open_checkpoint(source)
        for cell, task in todo:
            outcomes[f"{cell.name}/{task}"] = _run_or_record_failure(cell, prepared[task], config, out, opened, echo)
        opened.close()
    return {f"{cell.name}/{task}": outcomes[f"{cell.name}/{task}"] for cell in chosen for task in names}


def settings_of(cell: Cell, benchmark: Benchmark, config: GridConfig) -> dict[str, Any]:
    """How a benchmark of a cell is answered."""
    compressor = compressor_of(cell.method, cell.budget)
    return {
        **asdict(config.generation),
        "max_new_tokens": config.generation.max_new_tokens or benchmark.max_new_tokens,
        "compressor": None if compressor is None else compressor.to_config(),
        "order": config.order,
        "limit": config.limit,
        **({"judge": config.judge} if benchmark.name in JUDGED else {}),
    }


def _base(cell: Cell, task: str, config: GridConfig) -> Record:
    """What a record is before anything is read."""
    return Record(cell.name, task, cell.method, FAILED, asdict(cell.source), budget_record(cell.budget), config.order)


def _run_or_record_failure(
    cell: Cell, task: Prepared, config: GridConfig, out: Path, opened: Opened, echo: Echo
) -> str:
    """One record. Whatever stops it is recorded, so that the others still run; what nobody expects is logged with its
    traceback."""
    name = task.benchmark.name
    base = _base(cell, name, config)
    try:
        settings = settings_of(cell, task.benchmark, config)
        base = replace(base, inputs=record_inputs(base.model, task.files, settings))
        if is_done(out, base):
            echo(f"{base.name}: complete, nothing changed; skipped")
            return SKIPPED
        answers_file = _work_folder(config) / _digest(base.inputs) / f"{base.cell}-{name}.jsonl"
        scored = _scorer(cell, task, config, answers_file)
        answerer = opened.answerer(cell, settings["max_new_tokens"])
        record = measure(
            base, answerer, task.asked, scored, answers_file=answers_file, out=out, batch_size=config.batch_size
        )
    except Exception as error:
        if not tells_all(error):
            logger.exception("%s failed", base.name)
        if base.inputs or not is_complete(out, base):  # files that cannot be read now say nothing against a record
            write_record(out, replace(base, error=f"{type(error).__name__}: {error}", stamp=stamp()))
        echo(f"{base.name}: FAILED: {' '.join(str(error).split())}")
        return FAILED
    if record is None:
        echo(f"{base.name}: this rank is done; the last rank merges")
        return PART
    write_record(out, record)
    if record.status == ANSWERED:
        echo(
            f"{base.name}: answered; send {record.figures['submission']} to {record.server}, then "
            f"visionzip eval report --records {out} --server {base.name}=SCORE"
        )
        return ANSWERED
    tokens = "-" if record.tokens_per_image is None else f"{record.tokens_per_image:.1f}"
    echo(f"{base.name}: {record.headline:.1f}, {tokens} tokens an image, {record.seconds:.0f} s")
    return COMPLETE


def _scorer(cell: Cell, task: Prepared, config: GridConfig, answers_file: Path) -> Scored:
    """The benchmark's own scoring, or the judge's; the grid's judgements are kept in one place, so that the same answer
    of two cells is judged once."""
    if task.benchmark.name not in JUDGED:
        part = "" if config.limit is None else f"-first{config.limit}"
        return task.scorer(f"{config.name}-{cell.name}{part}")
    reviews = _work_folder(config) / "reviews"
    return judged_scorer(task.benchmark, task.root, answers_file, reviews, Judge(model=config.judge))


def _digest(inputs: Mapping[str, Any]) -> str:
    """Names the answers a record may use again: those to the same inputs, given by the same commit. Who judges them
    is not among what they depend on."""
    settings = {name: value for name, value in inputs["settings"].items() if name != "judge"}
    made_by = {"inputs": {**inputs, "settings": settings}, "commit": stamp()["commit"]}
    return hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()[:16]


def _work_folder(config: GridConfig) -> Path:
    """The folder of unfinished work; it keeps itself out of version control."""
    folder = Path(config.work) / config.name
    ignore = folder / ".gitignore"
    if not ignore.exists():
        write_text(ignore, "*\n")
    return folder


def main(
    config: Config,
    out: Out,
    method: Methods = None,
    budget: Budgets = None,
    task: Tasks = None,
    limit: Limit = None,
    batch_size: BatchSize = None,
    device: Device = None,
    judge: JudgeName = None,
    check: Annotated[bool, typer.Option("--check", help="only say what is missing; status 1 if anything is")] = False,
) -> None:
    """Run a grid of methods and budgets over benchmarks."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        grid = read_grid(config, limit, batch_size, judge, task or [])
        cells = grid.some_cells(method or [], budget or [])
        tasks = grid.some_tasks(task or [])
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    part = lmms_part(grid, task or [])
    lacking = look(grid, cells, tasks, part)
    launched = launched_shard()
    if launched is None or launched.index == 0:
        for line in describe(lacking, grid, cells, [*tasks, *map(task_name, part.tasks if part else ())]):
            typer.echo(line)
    if check:
        raise typer.Exit(1 if lacking else 0)
    outcomes = run_grid(
        grid,
        out,
        open_checkpoint=lambda source: Checkpoint(source, grid, device),
        cells=cells,
        tasks=tasks,
        lacking=lacking,
        echo=typer.echo,
    )
    if report_failures(outcomes):
        # A launcher stops its other ranks when one leaves with an error, and they may not have finished the rest yet.
        raise typer.Exit(0 if launched else 1)


app = typer.Typer(add_completion=False, rich_markup_mode=None)
app.command(epilog=EXAMPLE)(main)

if __name__ == "__main__":
    app()
