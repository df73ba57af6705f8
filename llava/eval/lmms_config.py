"""What lmms-eval is asked to run: a tracked YAML that pins its version, tasks and prompts, turned into its arguments.

    lmms_eval: 0.7.3                         # installed version expected; another one is warned about
    conv_template: vicuna_v1
    batch_size: 8
    data: playground/data/miniature/lmms     # optional: a folder laid out as the hub, <owner>/<name>, used instead
    made_by: python -m ...                   # with data: the command that writes it
    tasks:
      textvqa_val_ocr:                       # the name the task runs under
        file: textvqa/textvqa_val.yaml       # its file below lmms_eval/tasks
        pinned: {dataset_path: ...}          # what that file must say, else nothing runs
        change: {...}                        # optional: keys of the file replaced; the task then needs a new name
        differs: ...                         # how it differs from LLaVA's own script
A task with another name than lmms-eval's own becomes a file that includes lmms-eval's: no task code is ours. The name
must be new because lmms-eval prefers its own task to one of the same name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata, util
from pathlib import Path
from typing import Any

import yaml

from llava.utils import write_text

TASK_KEYS = {"file", "pinned", "change", "differs"}


@dataclass(frozen=True)
class LmmsTask:
    """One task. file: below lmms_eval/tasks. pinned: what the file must say. change: keys replaced in it."""

    name: str
    file: str
    differs: str
    pinned: Mapping[str, Any] = field(default_factory=dict)
    change: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LmmsConfig:
    """A whole configuration. data: folder laid out as the hub, or None for the hub."""

    lmms_eval: str
    tasks: tuple[LmmsTask, ...]
    conv_template: str = "vicuna_v1"
    batch_size: int = 1
    data: Path | None = None
    made_by: str | None = None

    def only(self, names: Sequence[str]) -> "LmmsConfig":
        """The same with some of its tasks, in the order given.

        Raises:
            ValueError: a name that is not there.
        """
        known = {task.name: task for task in self.tasks}
        missing = [name for name in names if name not in known]
        if missing:
            raise ValueError(f"no tasks {', '.join(missing)} in the configuration; known: {', '.join(known)}")
        tasks = tuple(known[name] for name in names)
        return LmmsConfig(self.lmms_eval, tasks, self.conv_template, self.batch_size, self.data, self.made_by)


def read_config(path: str | Path) -> LmmsConfig:
    """Read a configuration.

    Raises:
        ValueError: a missing file, an unknown or missing key, no tasks; the file and the key are named.
    """
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"{file}: no such configuration; the shipped ones are in configs/eval/lmms_*.yaml")
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    known = {"lmms_eval", "conv_template", "batch_size", "data", "made_by", "tasks"}
    _check_keys(file.name, content, known, required={"lmms_eval", "tasks"})
    if not isinstance(content["tasks"], dict) or not content["tasks"]:
        raise ValueError(f"{file}: expected 'tasks' to map names to settings, got {content['tasks']!r}")
    for name, settings in content["tasks"].items():
        _check_keys(f"{file.name}, task {name}", settings, TASK_KEYS, required={"file", "differs"})
    tasks = tuple(LmmsTask(name, **settings) for name, settings in content.pop("tasks").items())
    data = content.pop("data", None)
    return LmmsConfig(tasks=tasks, data=None if data is None else Path(data), **content)


def check_version(config: LmmsConfig) -> str | None:
    """What to say about the installed lmms-eval; None when it is the pinned one.

    Raises:
        ValueError: it is not installed.
    """
    try:
        installed = metadata.version("lmms-eval")
    except metadata.PackageNotFoundError as error:
        raise ValueError("lmms-eval is not installed; pip install llava-visionzip[eval]") from error
    if installed == config.lmms_eval:
        return None
    return (
        f"lmms-eval {installed} is installed, the configuration was made for {config.lmms_eval}: scores may differ "
        f"even where the pinned settings agree"
    )


def write_tasks(config: LmmsConfig, folder: Path) -> None:
    """Check every task's pinned settings and write a file for each one that lmms-eval does not have by that name.

    Raises:
        ValueError: a task file that lmms-eval lacks, a pinned setting it has changed, a changed task without a name
            of its own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for task in config.tasks:
        source = tasks_folder() / task.file
        if not source.is_file():
            raise ValueError(f"task {task.name}: lmms-eval has no task file {task.file}")
        settings = read_task(source)
        changed = list(_differences(task.pinned, settings))
        if changed:
            raise ValueError(
                f"task {task.name}: lmms-eval's {task.file} is not what was pinned: {'; '.join(changed)}; install "
                f"lmms-eval {config.lmms_eval} or pin the new setting and compare no scores across it"
            )
        if task.name != settings["task"]:
            ours = {"include": str(source), "task": task.name, "tag": [], **task.change}
            write_text(folder / f"{task.name}.yaml", yaml.safe_dump(ours, sort_keys=False))
        elif task.change:
            raise ValueError(f"task {task.name}: changed tasks need a name of their own; lmms-eval would run its own")


def arguments(config: LmmsConfig, model: Mapping[str, Any], folder: Path, out: Path, limit: int | None) -> list[str]:
    """The command line after `lmms_eval`.

    Args:
        model: options of llava_visionzip; None values are left out.
        folder: where `write_tasks` wrote.
        out: where results go.

    Raises:
        ValueError: an option that lmms-eval's comma-separated list cannot hold.
    """
    options = {**model, "conv_template": config.conv_template}
    given = {key: str(value) for key, value in options.items() if value is not None}
    for key, value in given.items():
        if "," in value:
            raise ValueError(f"{key}={value}: lmms-eval splits its options at commas; use a path or name without one")
    return [
        *("--model", "llava_visionzip"),
        *("--model_args", ",".join(f"{key}={value}" for key, value in given.items())),
        *("--tasks", ",".join(task.name for task in config.tasks)),
        *("--include_path", str(folder)),
        *("--batch_size", str(config.batch_size)),
        *(() if limit is None else ("--limit", str(limit))),
        *("--output_path", str(out), "--log_samples"),
        *("--timezone", "UTC"),
        *("--process_docs_parallel", "1"),  # some tasks guess unmatched answers: threads would change the guesses
    ]


def tasks_folder() -> Path:
    """lmms_eval/tasks, found without importing it.

    Raises:
        ValueError: lmms-eval is not installed.
    """
    found = util.find_spec("lmms_eval")
    if found is None or found.origin is None:
        raise ValueError("lmms-eval is not installed; pip install llava-visionzip[eval]")
    return Path(found.origin).parent / "tasks"


def read_task(path: Path) -> dict[str, Any]:
    """A task file with what it includes; functions as their names."""
    content: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), _TaskLoader)
    included = content.pop("include", [])
    merged: dict[str, Any] = {}
    for name in reversed([included] if isinstance(included, str) else included):
        merged |= read_task(path.parent / name)
    return merged | content


class _TaskLoader(yaml.SafeLoader):
    """YAML in which `!function module.name` is the text after the tag."""


_TaskLoader.add_constructor("!function", lambda loader, node: str(node.value))


def _differences(pinned: Mapping[str, Any], found: Mapping[str, Any], at: str = "") -> list[str]:
    """Where `found` does not say what `pinned` says; mappings are compared key by key."""
    faults = []
    for key, wanted in pinned.items():
        value = found.get(key)
        if isinstance(wanted, Mapping) and isinstance(value, Mapping):
            faults += _differences(wanted, value, f"{at}{key}.")
        elif value != wanted:
            faults.append(f"{at}{key} is {value!r}, pinned {wanted!r}")
    return faults


def _check_keys(where: str, content: Any, known: set[str], required: set[str]) -> None:
    if not isinstance(content, dict):
        raise ValueError(f"{where}: expected a mapping, got {content!r}")
    unknown, missing = sorted(content.keys() - known), sorted(required - content.keys())
    if unknown or missing:
        raise ValueError(
            f"{where}: "
            + "; ".join([
                *([f"unknown keys {unknown}"] if unknown else []),
                *([f"missing keys {missing}"] if missing else []),
            ])
            + f"; known: {', '.join(sorted(known))}"
        )
