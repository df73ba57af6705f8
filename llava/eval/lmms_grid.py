"""The part of a grid that lmms-eval runs: its tasks for every cell, as records beside ours.

    python -m llava.eval.lmms_grid --config configs/eval/miniature.yaml --out results/miniature

Reads the grid's key `lmms`: a configs/eval/lmms_*.yaml and some of its tasks. Every task of a cell is a run of
lmms-eval of its own, over all GPUs: it writes nothing before its last task is done, so a stop or a failure costs one.
What is complete and unchanged is skipped; what fails is recorded as failed and the rest still runs.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from llava.eval.cells import FAILED, Record, drop_items, is_done, write_items, write_record
from llava.eval.grid import SKIPPED, Echo
from llava.eval.grid_check import Lacking, look, record_lacking
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
from llava.eval.grid_config import Cell, GridConfig, LmmsPart
from llava.eval.lmms_config import LmmsConfig
from llava.eval.lmms_config import read_config as read_lmms_config
from llava.eval.lmms_records import as_measured, model_options, settings_of, task_name, write_questions
from llava.eval.lmms_results import read_lmms_results
from llava.eval.lmms_run import default_processes, run
from llava.eval.measure import budget_record, record_inputs
from llava.provenance import sha256_file, stamp

logger = logging.getLogger(__name__)

EXAMPLE = "Example: python -m llava.eval.lmms_grid --config configs/eval/miniature.yaml --out results/miniature"
# A run of lmms-eval: configuration, model options, folder, limit -> results file.
Runner = Callable[[LmmsConfig, dict[str, Any], Path, int | None], Path]


def run_lmms_grid(
    config: GridConfig,
    part: LmmsPart,
    out: Path,
    cells: Sequence[Cell],
    runner: Runner,
    lacking: Lacking | None = None,
    echo: Echo = logger.info,
) -> dict[str, str]:
    """Run what is not done; what lacks something fails at once. -> {"cell/task": "complete", "skipped" or "failed"}"""
    asked = replace(read_lmms_config(part.config).only(part.tasks), batch_size=config.batch_size)
    files = _files(part, asked)
    outcomes: dict[str, str] = {}
    for cell in cells:
        folder = Path(config.work) / config.name / cell.name / "lmms"
        bases = {task.name: _base(cell, task.name, config, asked, files) for task in asked.tasks}
        outcomes |= {base.name: SKIPPED for base in bases.values() if is_done(out, base)}
        bases = {task: base for task, base in bases.items() if base.name not in outcomes}
        if lacking:
            outcomes |= {base.name: FAILED for base in bases.values() if lacking.why(cell, base.task) is not None}
            for line in record_lacking(lacking, out, {base.task: base for base in bases.values()}, cell):
                echo(line)
        for task, base in bases.items():
            if base.name in outcomes:
                continue
            try:
                options = model_options(asdict(cell.source), cell.method, base.budget, config.order)
                ran = runner(asked.only([task]), options, folder / task, config.limit)
                record = _keep(out, task, ran, base)
            except Exception as error:
                if not tells_all(error):
                    logger.exception("%s failed", base.name)
                record = replace(base, error=f"{type(error).__name__}: {error}", stamp=stamp())
            outcomes[base.name] = _record(out, record, echo)
    return outcomes


def _files(part: LmmsPart, asked: LmmsConfig) -> dict[str, str]:
    """Hashes of the configuration, which pins the hub's data, and of what a local data folder was made as."""
    files = {"lmms_config": sha256_file(Path(part.config))}
    sets = None if asked.data is None else asked.data / "sets.json"
    return {**files, "data": sha256_file(sets)} if sets is not None and sets.is_file() else files


def _base(cell: Cell, task: str, config: GridConfig, asked: LmmsConfig, files: Mapping[str, str]) -> Record:
    """What a record is before it is measured."""
    model, budget = asdict(cell.source), budget_record(cell.budget)
    settings = {
        "method": cell.method,
        "budget": budget,
        "order": config.order,
        "limit": config.limit,
        **settings_of({"conv_template": asked.conv_template}),
    }
    inputs = record_inputs(model, {**files, "task": task}, settings)
    return Record(cell.name, task_name(task), cell.method, FAILED, model, budget, config.order, inputs=inputs)


def _keep(out: Path, task: str, results: Path, base: Record) -> Record:
    """A task's result as the record it was asked for; its items and questions are written.

    Raises:
        ValueError: see `read_lmms_results`; or the run has no result of the task.
    """
    found = [result for result in read_lmms_results(results) if result.task == task]
    if len(found) != 1:
        raise ValueError(f"{results}: expected one result of {task}, found {len(found)}")
    one = as_measured(found[0])
    if one.items is None:
        drop_items(out, base.cell, base.task)
    else:
        write_items(out, base.cell, base.task, one.items)
    write_questions(out, found[0])
    return replace(
        one.record, cell=base.cell, model=base.model, inputs=base.inputs, stamp={**stamp(), **one.record.stamp}
    )


def _record(out: Path, record: Record, echo: Echo) -> str:
    write_record(out, record)
    said = f"{record.headline:.1f}" if record.headline is not None else f"FAILED: {record.error}"
    echo(f"{record.name}: {said}")
    return record.status


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
    processes: Annotated[int | None, typer.Option(help="default: one a GPU, else one")] = None,
) -> None:
    """Run the lmms-eval part of a grid."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        grid = read_grid(config, limit, batch_size, judge, task or [])
        grid.some_tasks(task or [])  # refuses what the grid does not have
        cells = grid.some_cells(method or [], budget or [])
        part = lmms_part(grid, task or [])
        if part is None:
            typer.echo(f"{config}: nothing for lmms-eval")
            return
        count = default_processes() if processes is None else processes
        outcomes = run_lmms_grid(
            grid,
            part,
            out,
            cells,
            lambda asked, options, folder, first: run(
                asked, {**options, "device": device}, folder, limit=first, processes=count
            ),
            look(grid, cells, (), part),
            typer.echo,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if report_failures(outcomes):
        raise typer.Exit(1)


app = typer.Typer(add_completion=False, rich_markup_mode=None)
app.command(epilog=EXAMPLE)(main)

if __name__ == "__main__":
    app()
