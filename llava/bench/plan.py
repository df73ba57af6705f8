"""`visionzip plan`: will this training fit, with which micro batch, and how long will it take."""

from dataclasses import replace
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from llava.bench.memory import GB, STAGES, Step, largest_rows, memory_parts
from llava.bench.shapes import TOWER, ModelShape, shape_of
from visionzip.core.budget import budget_for, named_budget

TENTH = 66_530  # rows of the 1/10 manifest of mix665k
PATCHES = 576  # of a tile in the paper's towers, CLIP-L/14 at 336


def plan(
    model: Annotated[str, typer.Option(help="Folder or public name, e.g. liuhaotian/llava-v1.5-13b.")],
    gpu: Annotated[float, typer.Option(help="Memory of one GPU, GB.")],
    dominant: Annotated[
        int | None,
        typer.Option(
            help="Dominant tokens per tile, CLS counted; with --contextual. 0 and 0: no compression. Default: as the "
            "checkpoint says, else 54 + 10, or 27 + 5 on each of several tiles."
        ),
    ] = None,
    contextual: Annotated[int | None, typer.Option(help="Contextual tokens per tile; with --dominant.")] = None,
    tiles: Annotated[
        int | None, typer.Option(help="Most tiles of a picture. Default: as the checkpoint says; a language model: 1.")
    ] = None,
    bits: Annotated[int, typer.Option(help="16, 8 or 4: precision of the frozen language model.")] = 16,
    stage: Annotated[str, typer.Option(help=f"What trains: {', '.join(STAGES)}.")] = "projector",
    gpus: Annotated[int, typer.Option(help="GPUs, which share optimizer state.")] = 1,
    text_tokens: Annotated[int, typer.Option(help="Text tokens of a row; an assumption unless you counted.")] = 250,
    answer_tokens: Annotated[int, typer.Option(help="Of these, tokens with loss.")] = 100,
    global_batch: Annotated[int, typer.Option(help="Rows per optimizer step over all GPUs.")] = 128,
    rows: Annotated[
        int | None, typer.Option(help=f"Rows of the training set. Default: the tenth of the 665K mix, {TENTH:,}.")
    ] = None,
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
    if tiles is not None:
        shape = replace(shape, max_tiles=tiles)
    visual, said = _visual_tokens(shape, dominant, contextual)
    encoded = 0 if feature_cache else shape.max_tiles
    step = Step(1, visual + text_tokens, answer_tokens, encoded, bits, stage, checkpointing, gpus=gpus)
    if global_batch % gpus:
        raise ValueError(f"--global-batch {global_batch} cannot be shared equally among --gpus {gpus}")
    per_gpu = global_batch // gpus
    micro = _micro_batch(largest_rows(shape, step, gpu * GB), per_gpu)
    shown = replace(step, rows=max(1, micro))
    console = Console()
    title = f"{model}: {stage} training, {shown.rows} rows a step on one GPU (estimate)"
    console.print(title, soft_wrap=True, markup=False, highlight=False)
    console.print(_table(shape, shown, gpu))
    console.print(said)
    console.print(
        f"tokens of a row: {step.tokens} ({visual} visual, {text_tokens} text); the longest rows decide the peak: "
        "plan again with their --text-tokens"
    )
    if not micro:
        raise ValueError(_too_big(sum(memory_parts(shape, shown).values()), gpu))
    console.print(f"--per_device_train_batch_size {micro} --gradient_accumulation_steps {-(-per_gpu // micro)}")
    whole = replace(shown, checkpointing=False)
    if checkpointing and sum(memory_parts(shape, whole).values()) <= gpu * GB:
        console.print("fits without gradient checkpointing: --gradient_checkpointing False saves a forward pass")
    console.print(_time(rows, step.tokens, global_batch, gpus, tokens_per_second))


def _micro_batch(fitting: int, per_gpu: int) -> int:
    """The largest number of rows that fits and divides a GPU's share of the global batch; 0 when not even one fits."""
    return max((rows for rows in range(1, min(fitting, per_gpu) + 1) if per_gpu % rows == 0), default=0)


def _too_big(need: float, gpu: float) -> str:
    return (
        f"one row needs {need / GB:.1f} GB and does not fit --gpu {gpu:g}; try --bits 4, fewer tokens, more --gpus "
        "with ZeRO-3, or a larger card"
    )


def _time(rows: int | None, tokens: int, global_batch: int, gpus: int, tokens_per_second: float | None) -> str:
    """Steps of an epoch, and its minutes where the throughput is known."""
    named = f"{rows:,} rows" if rows else f"{TENTH:,} rows (the tenth of the 665K mix; --rows for other data)"
    rows = rows or TENTH
    steps = f"{named} are {-(-rows // global_batch):,} steps"
    if tokens_per_second is None:
        return f"{steps}; time: not known, give --tokens-per-second from a log"
    minutes = rows * tokens / (tokens_per_second * gpus) / 60
    return f"{steps}, {minutes:.0f} min at {tokens_per_second:,.0f} tokens/s per GPU"


def _visual_tokens(shape: ModelShape, dominant: int | None, contextual: int | None) -> tuple[int, str]:
    """Tokens of the largest image, and a line on where the number comes from.

    Raises:
        ValueError: one number without the other, or a budget that does not fit a tile.
    """
    if (dominant is None) != (contextual is None):
        raise ValueError("--dominant and --contextual go together: give both (54 and 10 make 64 tokens) or neither")
    why = "as asked"
    if dominant is None or contextual is None:
        dominant, contextual, why = _assumed_budget(shape)
    per_tile = dominant + contextual or shape.patches
    if dominant < 0 or contextual < 0 or (dominant == 0 and contextual) or per_tile > shape.patches + 1:
        raise ValueError(
            f"--dominant {dominant} --contextual {contextual} do not fit a tile of {shape.patches} patches and CLS; "
            "54 and 10 make 64 tokens, 0 and 0 mean no compression"
        )
    kept = f"{dominant} + {contextual}" if dominant else f"all {per_tile}"
    count = "1 tile" if shape.max_tiles == 1 else f"up to {shape.max_tiles} tiles"
    tower = "" if shape.own_tower else f", tower assumed: {TOWER}"
    whole = per_tile * shape.max_tiles
    return whole, (
        f"visual tokens: {kept} on {count} of {shape.patches} patches, {whole} of {shape.patches * shape.max_tiles:,} "
        f"({why}{tower})"
    )


def _assumed_budget(shape: ModelShape) -> tuple[int, int, str]:
    """Dominant and contextual tokens per tile when none are asked for, and why these."""
    hint = "--dominant and --contextual choose others"
    if shape.budget is not None:
        return *shape.budget, "as the checkpoint says"
    if shape.patches == PATCHES:
        budget = named_budget("64" if shape.max_tiles == 1 else "next-160")
        return budget.dominant, budget.contextual, f"assumed, the paper's smallest budget; {hint}"
    budget = budget_for(max(2, round(shape.patches / 9)))  # 64 of 576
    return budget.dominant, budget.contextual, f"assumed, a ninth of a tile as in the paper; {hint}"


def _table(shape: ModelShape, step: Step, gpu: float) -> Table:
    parts: dict[str, Any] = memory_parts(shape, step)
    table = Table()
    table.add_column("part")
    table.add_column("GB", justify="right")
    for part, size in parts.items():
        table.add_row(part, f"{size / GB:.2f}")
    table.add_section()
    table.add_row("peak", f"{sum(parts.values()) / GB:.2f}")
    table.add_row("card", f"{gpu:.2f}")
    return table
