"""What the two programs of a grid share: their options, the part of the grid that was asked for, and how they end."""

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from llava.eval.cells import FAILED
from llava.eval.grid_config import GridConfig, LmmsPart, read_config
from llava.eval.judge.benchmarks import BENCHMARKS, JUDGED
from llava.utils import listed

Config = Annotated[Path, typer.Option(help="configs/eval/*.yaml")]
Out = Annotated[Path, typer.Option(help="folder of the records")]
Methods = Annotated[list[str] | None, typer.Option("--method", help="only this method; repeatable")]
Budgets = Annotated[list[int] | None, typer.Option("--budget", help="only this total budget; repeatable")]
Tasks = Annotated[
    list[str] | None,
    typer.Option("--task", help="only this benchmark; repeatable; also one of LLaVA's that the config leaves out"),
]
Limit = Annotated[int | None, typer.Option(help="only the first questions of each benchmark")]
BatchSize = Annotated[int | None, typer.Option(help="instead of the config's")]
Device = Annotated[str | None, typer.Option(help="default: a GPU if there is one")]
JudgeName = Annotated[
    str | None, typer.Option("--judge", help=f"adds {', '.join(JUDGED)}, judged by this model; needs OPENAI_API_KEY")
]
_SHOWN = 8


def read_grid(
    config: Path,
    limit: int | None,
    batch_size: int | None,
    judge: str | None = None,
    wanted: Sequence[str] = (),
) -> GridConfig:
    """The grid, with what the command line changes of it.

    Args:
        judge: adds the judged benchmarks.
        wanted: benchmarks asked for by name; those that the grid leaves out (the ones a server scores: a hundred
            thousand questions a cell) are added.

    Raises:
        ValueError: see `read_config`; a judged benchmark is wanted and nobody judges.
    """
    grid = read_config(config)
    more = [*(JUDGED if judge else ()), *(name for name in wanted if name in BENCHMARKS)]
    return replace(
        grid,
        tasks=tuple(dict.fromkeys((*grid.tasks, *more))),
        judge=judge or grid.judge,
        limit=grid.limit if limit is None else limit,
        batch_size=grid.batch_size if batch_size is None else batch_size,
    )


def lmms_part(grid: GridConfig, wanted: Sequence[str]) -> LmmsPart | None:
    """The grid's lmms-eval tasks, or those among `wanted`; None if that leaves none."""
    if grid.lmms is None:
        return None
    tasks = tuple(name for name in grid.lmms.tasks if not wanted or name in wanted)
    return replace(grid.lmms, tasks=tasks) if tasks else None


def tells_all(error: Exception) -> bool:
    """Whether an error's message is all there is to say: a ValueError that this package raised, about a file, a
    checkpoint, a setting. Any other is unexpected and wants its traceback."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    raised_in = frames[-1].f_globals.get("__name__", "") if frames else ""
    return isinstance(error, ValueError) and raised_in.partition(".")[0] in ("llava", "visionzip")


def report_failures(outcomes: Mapping[str, str]) -> Sequence[str]:
    """Say on the error stream which records failed, the first of many. -> the names of all"""
    failed = [name for name, outcome in outcomes.items() if outcome == FAILED]
    if failed:
        typer.echo(f"{len(failed)} of {len(outcomes)} failed: {listed(failed, _SHOWN)}", err=True)
    return failed
