"""Run a grid of methods and budgets over tasks, one record a cell.

    python -m llava.eval.grid --config configs/eval/miniature.yaml --out results/miniature

Cells whose record is complete and whose inputs (weights, question files, pictures, settings) are unchanged are
skipped; a cell that was stopped goes on where it stopped; a cell that fails is recorded as failed and the others
still run. The exit code is 1 if any failed.
"""

import gc
import hashlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Protocol

import typer

from llava.eval.answerer import Decoding, LlavaAnswerer
from llava.eval.cells import COMPLETE, FAILED, Record, cell_file, items_file, read_record, write_items, write_record
from llava.eval.generate import Answerer, generate, mean_tokens
from llava.eval.grid_config import Cell, GridConfig, Source, read_config
from llava.eval.inputs import checkpoint_files, read_references, task_files, task_inputs
from llava.eval.loading import Loaded, load_model
from llava.eval.methods import apply_method, compressor_of
from llava.eval.records import Answer, Question, read_questions, write_text
from llava.eval.tasks import TASKS, TaskScore
from llava.provenance import stamp, without_machine_paths

logger = logging.getLogger(__name__)

Echo = Callable[[str], None]
SKIPPED = "skipped"


class Opened(Protocol):
    """A checkpoint that was opened once and answers for any of its cells."""

    def answerer(self, cell: Cell) -> Answerer: ...

    def close(self) -> None: ...


class Checkpoint:
    """A LLaVA checkpoint, loaded when the first cell needs it; between cells only the compressor changes."""

    def __init__(self, source: Source, config: GridConfig, device: str | None = None) -> None:
        self.source, self.config, self.device = source, config, device
        self._loaded: Loaded | None = None

    def answerer(self, cell: Cell) -> Answerer:
        """The model with the cell's method attached."""
        if self._loaded is None:
            self._loaded = load_model(self.source.path, self.source.base, self.device)
        loaded, how = self._loaded, self.config.generation
        apply_method(loaded.model, cell.method, cell.budget, self.config.order)
        decoding = Decoding(how.conv_mode, num_beams=how.num_beams, max_new_tokens=how.max_new_tokens)
        return LlavaAnswerer(loaded.model, loaded.tokenizer, loaded.image_processor, loaded.name, decoding)

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
    echo: Echo = logger.info,
) -> dict[str, str]:
    """Run all cells that are not done. -> {cell: "complete", "skipped" or "failed"}

    Args:
        open_checkpoint: how a checkpoint becomes an answerer; called once a checkpoint, its cells run together.
        cells: some of the config's cells; default all.
    """
    chosen = list(config.cells() if cells is None else cells)
    outcomes: dict[str, str] = {}
    for source in dict.fromkeys(cell.source for cell in chosen):
        opened = open_checkpoint(source)
        for cell in (cell for cell in chosen if cell.source == source):
            outcomes[cell.name] = _run_or_record_failure(cell, config, out, opened, echo)
        opened.close()
    return {cell.name: outcomes[cell.name] for cell in chosen}


def cell_inputs(cell: Cell, config: GridConfig) -> dict[str, Any]:
    """Everything a cell's result depends on but the code.

    Raises:
        ValueError: a question or reference file is missing.
    """
    compressor = compressor_of(cell.method, cell.budget)
    inputs: dict[str, Any] = without_machine_paths({
        "weights": checkpoint_files(cell.source.path, cell.source.base),
        "files": {task: task_inputs(Path(config.data), task, config.limit) for task in config.tasks},
        "settings": {
            **asdict(config.generation),
            "compressor": None if compressor is None else compressor.to_config(),
            "order": config.order,
            "limit": config.limit,
        },
    })
    return inputs


def _run_or_record_failure(cell: Cell, config: GridConfig, out: Path, opened: Opened, echo: Echo) -> str:
    """One cell. Whatever stops it is logged with its traceback and recorded, so that the other cells still run."""
    model = {"path": cell.source.path, "base": cell.source.base}
    budget = None if cell.budget is None else {**asdict(cell.budget), "total": cell.budget.total}
    base = Record(cell.name, cell.method, FAILED, model, budget, config.order)
    try:
        inputs = cell_inputs(cell, config)
        if _is_done(out, cell, inputs):
            echo(f"{cell.name}: complete, nothing changed; skipped")
            return SKIPPED
        record = _run_cell(cell, config, out, opened.answerer(cell), replace(base, inputs=inputs))
    except Exception as error:
        logger.exception("cell %s failed", cell.name)
        write_record(out, replace(base, error=f"{type(error).__name__}: {error}", stamp=stamp()))
        echo(f"{cell.name}: FAILED: {error}")
        return FAILED
    write_record(out, record)
    tokens = "-" if record.tokens_per_image is None else f"{record.tokens_per_image:.1f}"
    echo(f"{cell.name}: average {record.average:.1f}, {tokens} tokens an image, {record.seconds:.0f} s")
    return COMPLETE


def _is_done(out: Path, cell: Cell, inputs: dict[str, Any]) -> bool:
    """A complete record of the same inputs, with its items. A record that cannot be read is not done."""
    path = cell_file(out, cell.name)
    if not path.exists() or not items_file(out, cell.name).exists():
        return False
    try:
        record = read_record(path)
    except ValueError as error:
        logger.warning("%s; the cell is run again", error)
        return False
    return record.status == COMPLETE and record.inputs == inputs


def _run_cell(cell: Cell, config: GridConfig, out: Path, answerer: Answerer, base: Record) -> Record:
    started = time.monotonic()
    work = _work_folder(config) / cell.name / _digest(base.inputs)
    scores: dict[str, TaskScore] = {}
    questions: dict[str, list[Question]] = {}
    answers: list[Answer] = []
    for task in config.tasks:
        question_file, reference_file, images = task_files(Path(config.data), task)
        done = generate(
            answerer,
            question_file,
            images,
            work / f"{task}.jsonl",
            batch_size=config.batch_size,
            limit=config.limit,
            title=f"{cell.name} {task}",
        )
        questions[task] = read_questions(question_file)[: config.limit]
        scores[task] = TASKS[task](questions[task], read_references(reference_file), done.answers)
        answers += done.answers
    write_items(out, cell.name, questions, scores)
    return replace(
        base,
        status=COMPLETE,
        tokens_per_image=mean_tokens(answers),
        tasks={task: {"accuracy": s.accuracy, "n": s.n, **s.extra} for task, s in scores.items()},
        average=sum(s.accuracy for s in scores.values()) / len(scores),
        seconds=round(time.monotonic() - started, 1),
        stamp=stamp(dtype=answerer.settings.get("dtype")),
    )


def _digest(inputs: dict[str, Any] | None) -> str:
    """Names the answers a cell may use again: those to the same inputs, given by the same commit."""
    made_by = {"inputs": inputs, "commit": stamp()["commit"]}
    return hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()[:16]


def _work_folder(config: GridConfig) -> Path:
    """The folder of unfinished work; it keeps itself out of version control."""
    folder = Path(config.work) / config.name
    ignore = folder / ".gitignore"
    if not ignore.exists():
        write_text(ignore, "*\n")
    return folder


def _chosen(grid: GridConfig, methods: Sequence[str], budgets: Sequence[int]) -> list[Cell]:
    """The cells of some methods and budgets; nothing said means all. Dense belongs to every budget.

    Raises:
        ValueError: a method or budget the grid does not have.
    """
    totals = [budget.total for budget in grid.budgets]
    for what, wanted, known in (("method", methods, grid.methods), ("budget", budgets, totals)):
        unknown = [value for value in wanted if value not in known]
        if unknown:
            raise ValueError(
                f"--{what} {unknown[0]} is not in the grid {grid.name}; it has {', '.join(map(str, known))}"
            )
    return [
        cell
        for cell in grid.cells()
        if (not methods or cell.method in methods)
        and (not budgets or cell.budget is None or cell.budget.total in budgets)
    ]


def main(
    config: Annotated[Path, typer.Option(help="configs/eval/*.yaml")],
    out: Annotated[Path, typer.Option(help="folder of the records")],
    method: Annotated[list[str] | None, typer.Option(help="only this method; repeatable")] = None,
    budget: Annotated[list[int] | None, typer.Option(help="only this total budget; repeatable")] = None,
    limit: Annotated[int | None, typer.Option(help="only the first questions of each task")] = None,
    batch_size: Annotated[int | None, typer.Option(help="instead of the config's")] = None,
    device: Annotated[str | None, typer.Option(help="default: a GPU if there is one")] = None,
) -> None:
    """Run a grid of methods and budgets over tasks."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        grid = read_config(config)
        changed = {key: value for key, value in (("limit", limit), ("batch_size", batch_size)) if value is not None}
        grid = replace(grid, **changed)
        cells = _chosen(grid, method or [], budget or [])
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    outcomes = run_grid(
        grid, out, open_checkpoint=lambda source: Checkpoint(source, grid, device), cells=cells, echo=typer.echo
    )
    failed = [name for name, outcome in outcomes.items() if outcome == FAILED]
    if failed:
        typer.echo(f"{len(failed)} of {len(outcomes)} cells failed: {', '.join(failed)}", err=True)
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
