"""What a grid needs and does not find: looked up once, before anything runs.

Question files, annotations and picture folders of the benchmarks, checkpoints in folders, the judge's key, lmms-eval
and its data. Single pictures are looked for when their benchmark is read. A checkpoint of the hub is fetched when it is
needed; it is missing where the hub is switched off and the cache does not have it.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from huggingface_hub import constants, try_to_load_from_cache

from llava.eval.cells import FAILED, Record, is_complete, write_record
from llava.eval.grid_config import Cell, GridConfig, LmmsPart, Source
from llava.eval.judge.benchmarks import BENCHMARKS, JUDGED
from llava.eval.judge.client import KEY
from llava.eval.lmms_config import check_version
from llava.eval.lmms_config import read_config as read_lmms_config
from llava.eval.lmms_records import task_name
from llava.eval.methods import method_named
from llava.provenance import stamp
from llava.utils import listed

FILES = "playground/data/README.md says it of each file"
_SHOWN = 4  # names of a list
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_OURS = ("checkpoints", "playground", "runs")  # our folders, which are not there before something is in them


@dataclass(frozen=True)
class Lacking:
    """What is not there. tasks: benchmark, or column of lmms-eval -> why it cannot run. sources: checkpoint -> why, one
    reason for each of its parts. later: judged benchmark -> why it can be answered and not judged."""

    tasks: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[Source, tuple[str, ...]] = field(default_factory=dict)
    later: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.tasks or self.sources or self.later)

    def why(self, cell: Cell, task: str) -> str | None:
        """Why a benchmark of a cell cannot run; None where nothing is known to be missing."""
        return self.tasks.get(task) or "; ".join(self.sources.get(cell.source, ())) or None


def look(config: GridConfig, cells: Sequence[Cell], tasks: Sequence[str], lmms: LmmsPart | None = None) -> Lacking:
    """Look for all that these cells, benchmarks and tasks of lmms-eval need."""
    found = {task: _missing_files(task, Path(config.data)) for task in tasks}
    if lmms is not None:
        found |= dict.fromkeys(map(task_name, lmms.tasks), _missing_for_lmms(lmms))
    judged = [task for task in tasks if task in JUDGED and not os.environ.get(KEY)]
    return Lacking(
        tasks={task: reason for task, reason in found.items() if reason is not None},
        sources={cell.source: missing for cell in cells if (missing := _missing_checkpoint(cell))},
        later=dict.fromkeys(judged, f"{KEY} is not set, so the answers are not judged"),
    )


def describe(lacking: Lacking, config: GridConfig, cells: Sequence[Cell], tasks: Sequence[str]) -> list[str]:
    """What will run, what cannot and why, as lines.

    Args:
        tasks: with the columns of lmms-eval.
    """
    head = f"{config.name}: {len(cells)} rows x {len(tasks)} benchmarks"
    if not lacking:
        return [f"{head}; all they need is there"]
    rows = [cell for cell in cells if cell.source not in lacking.sources]
    columns = [task for task in tasks if task not in lacking.tasks]
    files = {task: reason for task, reason in lacking.tasks.items() if task in BENCHMARKS}
    remedies = {reason.partition("; ")[2] for reason in files.values()}
    more = ["  where to get them: " + (remedies.pop() if len(remedies) == 1 else FILES)] if files else []
    return [
        f"{head}, {len(rows) * len(columns)} of {len(cells) * len(tasks)} records can be made",
        f"will run: {', '.join(columns)} for {len(rows)} of the rows" if rows and columns else "will run: nothing",
        f"missing (files below {config.data}):" if files else "missing:",
        *_grouped((task, reason.partition("; ")[0].replace(f"{config.data}/", "")) for task, reason in files.items()),
        *more,
        *_grouped((task, reason) for task, reason in lacking.tasks.items() if task not in files),
        *_grouped((cell.name, reason) for cell in cells for reason in lacking.sources.get(cell.source, ())),
        *_grouped(lacking.later.items()),
    ]


def record_lacking(lacking: Lacking, out: Path, bases: Mapping[str, Record], cell: Cell) -> list[str]:
    """Write the records of a cell's benchmarks that cannot run, as failed; complete ones stay, as files that are gone
    say nothing against them. -> one line that says so, none where all can run

    Args:
        bases: benchmark -> its record before it is measured.
    """
    reasons = {task: why for task in bases if (why := lacking.why(cell, task)) is not None}
    if not reasons:
        return []
    made = stamp()
    for task, why in reasons.items():
        if not is_complete(out, bases[task]):
            write_record(out, replace(bases[task], status=FAILED, error=why, stamp=made))
    told = lacking.sources.get(cell.source) or {why for task, why in reasons.items() if task not in BENCHMARKS}
    said = "; ".join(told) or "their files are missing"
    return [f"{cell.name}: FAILED: {', '.join(reasons)}: {said}"]


def _grouped(reasons: Iterable[tuple[str, str]]) -> list[str]:
    """One line for everything that fails for the same reason."""
    names: dict[str, list[str]] = {}
    for name, reason in reasons:
        names.setdefault(reason, []).append(name)
    return [f"  {listed(those, _SHOWN)}: {reason}" for reason, those in names.items()]


def _missing_files(task: str, root: Path) -> str | None:
    try:
        BENCHMARKS[task].require_files(root)
    except ValueError as error:
        return str(error).removeprefix(f"{task}: ")
    return None


def _missing_for_lmms(part: LmmsPart) -> str | None:
    try:
        config = read_lmms_config(part.config).only(part.tasks)
        check_version(config)
    except ValueError as error:
        return str(error)
    if config.data is not None and not config.data.is_dir():
        return f"{config.data} is not there; write it first: {config.made_by}"
    return None


def _missing_checkpoint(cell: Cell) -> tuple[str, ...]:
    remedy = "; scripts/train/zip_tune.sh makes it, see docs/reproduce.md" if method_named(cell.method).tuned else ""
    found = ((_missing_folder(cell.source.path), remedy), (_missing_folder(cell.source.base), ""))
    return tuple(f"{reason}{more}" for reason, more in found if reason is not None)


def _missing_folder(place: str | None) -> str | None:
    """Why a checkpoint cannot be had from where a grid says it is."""
    if place is None:
        return None
    folder = Path(place).expanduser()
    if folder.is_dir():
        return None
    first = folder.parts[0]
    if not _HUB_NAME.fullmatch(place) or first in _OURS or Path(first).is_dir():
        return f"there is no folder {place}"
    if constants.HF_HUB_OFFLINE and not isinstance(try_to_load_from_cache(place, "config.json"), str):
        return f"{place} is not in the hub's cache, and HF_HUB_OFFLINE is set"
    return None
