"""Run the tasks of a configuration through lmms-eval with our registered model, on one or several GPUs.

    python -m llava.eval.lmms_run liuhaotian/llava-v1.5-7b --dominant 54 --contextual 10

lmms-eval runs in processes of its own (started by accelerate when there are several) and writes `*_results.json` and
`*_samples_*.jsonl` below `--out`; `llava.eval.lmms_results` reads them. lmms-eval ends with status 0 after an error:
a run that leaves no results is a failure here.
"""

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

from llava.eval.lmms_config import LmmsConfig, arguments, check_version, read_config, write_tasks
from llava.eval.lmms_results import RESULTS
from llava.eval.methods import METHODS, requested_budget
from llava.provenance import stamp
from llava.utils import write_json

logger = logging.getLogger(__name__)

SHIPPED = Path("configs/eval/lmms_table1.yaml")


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
    model = {**model, **{name: _local(model.get(name)) for name in ("pretrained", "model_base")}}
    out.mkdir(parents=True, exist_ok=True)
    write_tasks(config, out / "tasks")
    program = command(arguments(config, model, out / "tasks", out, limit), processes)
    before = set(out.rglob(RESULTS))
    write_json(out / "run.json", {"stamp": stamp(), "model": dict(model), "limit": limit, "processes": processes})
    logger.info("%s", " ".join(program))
    done = subprocess.run(program, cwd=config.data, env=environment(config, os.environ), check=False)
    new = sorted(set(out.rglob(RESULTS)) - before)
    if done.returncode or not new:
        raise ValueError(f"lmms-eval wrote no results below {out} (status {done.returncode}); its messages are above")
    return new[-1]


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
    """Run lmms-eval's tasks with our model.

    Example: python -m llava.eval.lmms_run liuhaotian/llava-v1.5-7b --dominant 54 --contextual 10
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        wanted = read_config(config)
        wanted = wanted if tasks is None else wanted.only(tasks.split(","))
        wanted = wanted if batch_size is None else replace(wanted, batch_size=batch_size)
        requested_budget(method, dominant, contextual)  # refused before anything is loaded
        model = {
            "pretrained": checkpoint,
            "model_base": model_base,
            "method": method,
            "dominant": dominant,
            "contextual": contextual,
            "order": order,
            "attn": attn,
            "dtype": dtype,
        }
        count = processes if processes is not None else default_processes()
        typer.echo(run(wanted, model, out, limit=limit, processes=count))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


if __name__ == "__main__":
    typer.run(main)
