"""Run the tasks of a configuration through lmms-eval with our registered model, on one or several GPUs.

    python -m llava.eval.lmms_run liuhaotian/llava-v1.5-7b --dominant 54 --contextual 10

lmms-eval runs in processes of its own (started by accelerate when there are several) and writes `*_results.json` and
`*_samples_*.jsonl` below `--out`; `llava.eval.lmms_results` reads them. lmms-eval ends with status 0 after an error:
a run that leaves no results is a failure here.
"""

import hashlib
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from huggingface_hub import HfApi
from transformers import PreTrainedConfig

from llava.eval.lmms_config import (
    LmmsConfig,
    arguments,
    check_version,
    read_config,
    read_task,
    tasks_folder,
    write_tasks,
)
from llava.eval.lmms_results import RESULTS
from llava.eval.methods import METHODS, named_run, requested_budget
from llava.model.placement import default_dtype
from llava.provenance import stamp
from llava.utils import write_json

logger = logging.getLogger(__name__)

SHIPPED = Path("configs/eval/lmms_table1.yaml")
HUB_SECONDS = 10.0
EXAMPLE = "Example: python -m llava.eval.lmms_run liuhaotian/llava-v1.5-7b --dominant 54 --contextual 10"


def command(lmms_arguments: list[str], processes: int) -> list[str]:
    """The program to start: lmms-eval alone, or one per GPU by accelerate."""
    if processes == 1:
        return [sys.executable, "-m", "lmms_eval", *lmms_arguments]
    launch = ("--multi_gpu", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no")
    return [
        *(sys.executable, "-m", "accelerate.commands.launch", *launch),
        *("--num_processes", str(processes), "--main_process_port", "0"),  # 0: any free port
        *("-m", "lmms_eval", *lmms_arguments),
    ]


def environment(config: LmmsConfig, environ: Mapping[str, str]) -> dict[str, str]:
    """Of the processes: without the hub where the data are in a folder."""
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"} if config.data else {}
    return {**environ, "TOKENIZERS_PARALLELISM": "false", **offline}


def run(config: LmmsConfig, model: Mapping[str, Any], out: Path, *, limit: int | None, processes: int) -> Path:
    """Run the configuration.

    Args:
        model: options of llava_visionzip; a folder may be named from the working directory.
        processes: GPUs, or CPU processes where there is none.

    Returns:
        lmms-eval's results file.

    Raises:
        ValueError: what the configuration says, data that are not there, or a run that left no results.
    """
    if processes < 1 or (limit is not None and limit < 1):
        raise ValueError(f"expected at least 1 process and a limit of at least 1, got {processes} and {limit}")
    if config.data is not None and not config.data.is_dir():
        raise ValueError(f"{config.data} is not there; write it first: {config.made_by}")
    if warning := check_version(config):
        logger.warning(warning)
    out = out.resolve()
    places = {name: _local(model.get(name)) for name in ("pretrained", "model_base")}
    model = {**model, **places, "dtype": model.get("dtype") or _loaders_dtype(model.get("device"))}
    out.mkdir(parents=True, exist_ok=True)
    write_tasks(config, out / "tasks")
    program = command(arguments(config, model, out / "tasks", out, limit), processes)
    before = set(out.rglob(RESULTS))
    told = {"model": dict(model), "limit": limit, "processes": processes, "data": data_revisions(config)}
    write_json(out / "run.json", {"stamp": stamp(dtype=model["dtype"]), **told})
    logger.info("%s", " ".join(program))
    done = subprocess.run(program, cwd=config.data, env=environment(config, os.environ), check=False)
    new = sorted(set(out.rglob(RESULTS)) - before)
    if done.returncode or not new:
        raise ValueError(f"lmms-eval wrote no results below {out} (status {done.returncode}); its messages are above")
    return new[-1]


def data_revisions(config: LmmsConfig) -> dict[str, str | None]:
    """Data set of each task -> the hub's commit of it now, which is what lmms-eval loads; None where the hub does not
    answer (then lmms-eval takes what is in the cache). For data in a folder a digest of their files; None where there
    are none."""
    names = sorted({str(read_task(tasks_folder() / task.file)["dataset_path"]) for task in config.tasks})
    if config.data is not None:
        return {name: _files_digest(config.data / name) for name in names}
    return {name: _revision(name) for name in names}


def _files_digest(folder: Path) -> str | None:
    """Of the names and sizes of a data set's files: reading gigabytes would take longer than many a task. What the
    hub's programs leave beside them (.cache, .gitattributes) is not looked at."""
    files = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    seen = sorted((name.as_posix(), path.stat().st_size) for name, path in files.items() if not _hidden(name))
    if not seen:
        return None
    listed = "".join(f"{name}:{size}\n" for name, size in seen)
    return f"names and sizes: sha256 {hashlib.sha256(listed.encode()).hexdigest()}"


def _hidden(name: Path) -> bool:
    return any(part.startswith(".") for part in name.parts)


def _revision(data_set: str) -> str | None:
    try:
        return HfApi().dataset_info(data_set, timeout=HUB_SECONDS).sha
    except Exception as error:  # noqa: BLE001 - the hub's client has no common class of errors, and none stops a run
        logger.warning("the revision of %s is not known: %s", data_set, error)
        return None


def _loaders_dtype(device: str | None) -> str:
    """What the loader takes by itself; said to it, so that results say it too."""
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return str(default_dtype(where.startswith("cpu"))).removeprefix("torch.")


def saved_compressor(checkpoint: str) -> dict[str, Any] | None:
    """Config of the compressor a checkpoint was saved with.

    Raises:
        ValueError: no config.json in the folder or on the hub.
    """
    try:
        config, _ = PreTrainedConfig.get_config_dict(checkpoint)
    except OSError as error:
        raise ValueError(f"{checkpoint}: no such folder, and the hub does not give its config.json: {error}") from error
    if not config:
        raise ValueError(f"{checkpoint}: expected a checkpoint, found no config.json in it")
    saved: dict[str, Any] | None = config.get("mm_compressor")
    return saved


def _local(name: str | None) -> str | None:
    """A folder as an absolute path (lmms-eval may run elsewhere), a name on the hub as it is."""
    return str(Path(name).resolve()) if name is not None and Path(name).exists() else name


def default_processes() -> int:
    """One for each GPU, one on a machine without."""
    return max(1, torch.cuda.device_count())


def main(
    checkpoint: Annotated[str, typer.Argument(help="Checkpoint: a folder or a name on the hub.")],
    config: Annotated[Path, typer.Option(help="What to run.")] = SHIPPED,
    model_base: Annotated[str | None, typer.Option(help="Base of a LoRA or projector.")] = None,
    method: Annotated[str | None, typer.Option(help=", ".join(METHODS))] = None,
    dominant: Annotated[int | None, typer.Option(help="Dominant tokens a tile, CLS included.")] = None,
    contextual: Annotated[int | None, typer.Option(help="Contextual tokens a tile.")] = None,
    order: Annotated[str | None, typer.Option(help="Order of several tiles: official or spatial.")] = None,
    attn: Annotated[str | None, typer.Option(help="Attention kernel, say sdpa or flash_attention_2.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Say float16; default: the loader's choice.")] = None,
    tasks: Annotated[str | None, typer.Option(help="Some of the configuration's tasks, by commas.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first documents of each task (MME: even).")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Default: the configuration's.")] = None,
    processes: Annotated[int | None, typer.Option(help="Default: one a GPU, else one.")] = None,
    out: Annotated[Path, typer.Option(help="Where results go.")] = Path("runs/lmms"),
) -> None:
    """Run lmms-eval's tasks with our model."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        wanted = read_config(config)
        wanted = wanted if tasks is None else wanted.only(tasks.split(","))
        wanted = wanted if batch_size is None else replace(wanted, batch_size=batch_size)
        asked = requested_budget(method, dominant, contextual)  # refused before anything is loaded
        named, budget = named_run(
            *asked, saved_compressor(checkpoint), checkpoint
        )  # said to the model, so that the report reads it back
        model = {
            "pretrained": checkpoint,
            "model_base": model_base,
            "method": named,
            "dominant": None if budget is None else budget.dominant,
            "contextual": None if budget is None else budget.contextual,
            "order": order,
            "attn": attn,
            "dtype": dtype,
        }
        count = processes if processes is not None else default_processes()
        typer.echo(run(wanted, model, out, limit=limit, processes=count))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


app = typer.Typer(add_completion=False, rich_markup_mode=None)
app.command(epilog=EXAMPLE)(main)

if __name__ == "__main__":
    app()
