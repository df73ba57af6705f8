"""`visionzip plan`: will this training fit, with which micro batch, and how long will it take."""

from dataclasses import replace
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from llava.bench.memory import GB, STAGES, Step, largest_rows, memory_parts
from llava.bench.shapes import ModelShape, shape_of

TENTH = 66_530  # rows of the 1/10 manifest of mix665k


def plan(
    model: Annotated[str, typer.Option(help="Checkpoint folder or public name, e.g. liuhaotian/llava-v1.5-13b.")],
    gpu: Annotated[float, typer.Option(help="Memory of one GPU, GB.")],
    dominant: Annotated[int, typer.Option(help="Dominant tokens per tile, CLS counted; 0: no compression.")] = 54,
    contextual: Annotated[int, typer.Option(help="Contextual tokens per tile.")] = 10,
    bits: Annotated[int, typer.Option(help="16, 8 or 4: precision of the frozen language model.")] = 16,
    stage: Annotated[str, typer.Option(help=f"What trains: {', '.join(STAGES)}.")] = "projector",
    gpus: Annotated[int, typer.Option(help="GPUs, which share optimizer state.")] = 1,
    text_tokens: Annotated[int, typer.Option(help="Text tokens of a row; an assumption unless you counted.")] = 250,
    answer_tokens: Annotated[int, typer.Option(help="Of these, tokens with loss.")] = 100,
    global_batch: Annotated[int, typer.Option(help="Rows per optimizer step over all GPUs.")] = 128,
    rows: Annotated[int, typer.Option(help="Rows of the training set.")] = TENTH,
    feature_cache: Annotated[bool, typer.Option(help="Features come from a cache; the tower does not run.")] = False,
    checkpointing: Annotated[bool, typer.Option(help="Gradient checkpointing.")] = True,
    tokens_per_second: Annotated[
        float | None, typer.Option(help="Measured throughput of one GPU, sequence tokens; see the training log.")
    ] = None,
) -> None:
    """Memory by part, micro batch, accumulation and time of a training, before anything is loaded.

    Example: visionzip plan --model liuhaotian/llava-v1.5-7b --gpu 24
    """
    shape = shape_of(model)
    visual = _visual_tokens(shape, dominant, contextual)
    tiles = 0 if feature_cache else shape.max_tiles
    step = Step(1, visual + text_tokens, answer_tokens, tiles, bits, stage, checkpointing, gpus=gpus)
    fitting = largest_rows(shape, step, gpu * GB)
    if global_batch % gpus:
        raise ValueError(f"--global-batch {global_batch} cannot be shared equally among --gpus {gpus}")
    per_gpu = global_batch // gpus
    micro = max((rows for rows in range(1, min(fitting, per_gpu) + 1) if per_gpu % rows == 0), default=0)
    shown = replace(step, rows=max(1, micro))
    console = Console()
    console.print(_table(model, shape, shown, gpu))
    console.print(
        f"tokens of a row: {step.tokens} ({visual} visual, {text_tokens} text); the longest rows decide the peak: "
        "plan again with their --text-tokens"
    )
    if not micro:
        need = sum(memory_parts(shape, shown).values()) / GB
        raise ValueError(
            f"one row needs {need:.1f} GB and does not fit --gpu {gpu:g}; try --bits 4, fewer tokens, more --gpus with "
            "ZeRO-3, or a larger card"
        )
    accumulation = -(-per_gpu // micro)
    console.print(f"--per_device_train_batch_size {micro} --gradient_accumulation_steps {accumulation}")
    whole = replace(shown, checkpointing=False)
    if checkpointing and sum(memory_parts(shape, whole).values()) <= gpu * GB:
        console.print("fits without gradient checkpointing: --gradient_checkpointing False saves a forward pass")
    steps = -(-rows // global_batch)
    if tokens_per_second is None:
        console.print(f"{rows:,} rows are {steps:,} steps; time: not known, give --tokens-per-second from a log")
        return
    minutes = rows * step.tokens / (tokens_per_second * gpus) / 60
    console.print(f"{rows:,} rows are {steps:,} steps, {minutes:.0f} min at {tokens_per_second:,.0f} tokens/s per GPU")


def _visual_tokens(shape: ModelShape, dominant: int, contextual: int) -> int:
    """Tokens of the largest image. Raises: ValueError for a budget that does not fit a tile."""
    per_tile = dominant + contextual or shape.patches
    if dominant < 0 or contextual < 0 or (dominant == 0 and contextual) or per_tile > shape.patches + 1:
        raise ValueError(
            f"--dominant {dominant} --contextual {contextual} do not fit a tile of {shape.patches} patches and CLS; "
            "54 and 10 make 64 tokens, 0 and 0 mean no compression"
        )
    return per_tile * shape.max_tiles


def _table(model: str, shape: ModelShape, step: Step, gpu: float) -> Table:
    parts: dict[str, Any] = memory_parts(shape, step)
    table = Table(title=f"{model}: {step.stage} training, {step.rows} rows a step on one GPU (estimate)")
    table.add_column("part")
    table.add_column("GB", justify="right")
    for part, size in parts.items():
        table.add_row(part, f"{size / GB:.2f}")
    table.add_section()
    table.add_row("peak", f"{sum(parts.values()) / GB:.2f}")
    table.add_row("card", f"{gpu:.2f}")
    return table
