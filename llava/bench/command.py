"""`visionzip bench`: how fast, how much memory, and how far from what the device allows.

Every command takes a checkpoint (`--model`) or builds random weights of a public shape (`--shape`), runs all cases in
turn on that one model and writes a record. See docs/measuring.md for what each number means.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
import typer
from rich.console import Console
from typer.core import TyperGroup

from llava.bench.names import BITS, METHODS, PARTS, PATHS

if TYPE_CHECKING:  # what measures is imported by the function that needs it: help must not wait for torch
    from llava.bench.suite import Plan


class _Told(TyperGroup):
    """A caller's mistake is a line and exit status 1, not a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ValueError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(1) from error


app = typer.Typer(help=__doc__, no_args_is_help=True, rich_markup_mode=None, add_completion=False, cls=_Told)

Model = Annotated[str | None, typer.Option(help="Checkpoint folder or hub id.")]
Shape = Annotated[str | None, typer.Option(help="Public checkpoint whose shape gets random weights.")]
Method = Annotated[str, typer.Option(help=f"Comma separated: {', '.join(METHODS)}. dense goes first in any case.")]
Budget = Annotated[str, typer.Option(help="Tokens per tile, comma separated, CLS counted: 32,64,128.")]
Path_ = Annotated[str, typer.Option("--path", help=f"Comma separated: {', '.join(PATHS)}.")]
Out = Annotated[Path, typer.Option(help="Folder of the records.")]
Device = Annotated[str | None, typer.Option(help="cuda or cpu. Default: a GPU if there is one.")]
Dtype = Annotated[
    str | None, typer.Option(help="bfloat16, float16, float32. Default: bfloat16 on a GPU, else float32.")
]
Bits = Annotated[int, typer.Option(help="8 or 4: the language model quantised with bitsandbytes.")]
Layers = Annotated[int | None, typer.Option(help="With --shape: fewer decoder layers, for a small machine.")]
Rounds = Annotated[int, typer.Option(help="Timed rounds; all cases take turns in each.")]


def case_list(method: str, budget: str, path: str) -> list[str]:
    """Every method at every budget on every path that knows it, dense first.

    Raises: ValueError for names that are not known.
    """
    from llava.bench.cases import parse_case

    methods, paths = method.split(","), path.split(",")
    budgets = numbers("--budget", budget) if budget else []
    wanted = [f"dense:{way}" for way in paths if way != "official"] or ["dense"]
    for name in methods:
        if name == "dense":
            continue
        for tokens in budgets:
            ways = [way for way in paths if way == "plain" or name == "visionzip" or _runs(name, tokens, way)]
            if not ways:
                raise ValueError(f"--method {name} runs on none of --path {path}: add a path it knows, or leave it out")
            wanted += [f"{name}:{tokens}:{way}" for way in ways]
        if not budgets:
            raise ValueError(f"--method {name} needs --budget, tokens per tile")
    for text in wanted:
        parse_case(text)
    return list(dict.fromkeys(wanted))  # what is named twice is measured once


def numbers(flag: str, text: str) -> list[int]:
    """Whole numbers above 0, comma separated. Raises: ValueError naming flag and value."""
    found = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in found):
        raise ValueError(f"{flag} {text}: expected whole numbers above 0, comma separated, such as 1,8")
    return [int(part) for part in found]


def _runs(name: str, tokens: int, way: str) -> bool:
    from llava.bench.cases import parse_case

    try:
        parse_case(f"{name}:{tokens}:{way}")
    except ValueError:
        return False
    return True


def _measure(part: str, options: dict[str, Any], out: Path, device: str | None, **load: Any) -> None:
    """One part on one model. load: the suite's keys, and layers."""
    from llava.bench.suite import plans_of
    from llava.model.placement import DTYPES

    if load.get("bits", 16) not in BITS:
        raise ValueError(f"--bits {load['bits']}: expected 16, 8 or 4")
    if load["dtype"] not in (None, *DTYPES):
        raise ValueError(f"--dtype {load['dtype']}: expected one of {', '.join(DTYPES)}")
    place = _where(device)
    layers = load.pop("layers")
    load["dtype"] = load["dtype"] or ("bfloat16" if place.startswith("cuda") else "float32")
    load["sizes"] = None if layers is None else {"num_hidden_layers": layers}
    entry = {key: value for key, value in load.items() if value is not None} | {part: options}
    _run(plans_of({"subjects": [entry]}, part), out, place)


def _run(plans: "list[Plan]", out: Path, device: str, only: str | None = None) -> None:
    from llava.bench.show import tables
    from llava.bench.suite import record_file, run

    console = Console(stderr=True)
    failed = list(run(plans, out, device, lambda line: console.print(line, highlight=False, markup=False), only))
    for plan in plans:
        for part in plan.parts:
            file = record_file(out, plan, part)
            if only in (None, part) and file.is_file():
                for table in tables(file):
                    Console().print(table)
    for line in failed:
        typer.echo(f"error: {line}", err=True)
    if failed:
        raise typer.Exit(1)


def _where(device: str | None) -> str:
    import torch

    return device or ("cuda" if torch.cuda.is_available() else "cpu")


@app.command(epilog="Example: visionzip bench latency --shape liuhaotian/llava-v1.6-vicuna-7b --budget 32,128")
def latency(
    model: Model = None,
    shape: Shape = None,
    method: Method = "visionzip",
    budget: Budget = "64",
    path: Path_ = "plain",
    text: Annotated[int, typer.Option(help="Text tokens of the prompt.")] = 60,
    new_tokens: Annotated[int, typer.Option(help="Tokens of the answer.")] = 32,
    rounds: Rounds = 10,
    out: Out = Path("results/bench"),
    device: Device = None,
    dtype: Dtype = None,
    bits: Bits = 16,
    layers: Layers = None,
) -> None:
    """Seconds to the first token and to the whole answer, by stage, beside the floor."""
    options = {
        "cases": case_list(method, budget, path),
        "text": text,
        "new_tokens": new_tokens,
        "rounds": rounds,
    }
    load = {"model": model, "shape": shape, "dtype": dtype, "bits": bits, "layers": layers}
    _measure("latency", options, out, device, **load)


@app.command(epilog="Example: visionzip bench encoder --shape liuhaotian/llava-v1.5-7b --layers 1 --tiles 1,5")
def encoder(
    model: Model = None,
    shape: Shape = None,
    tiles: Annotated[str, typer.Option(help="Tiles encoded at a time, comma separated.")] = "1,5",
    budget: Annotated[int, typer.Option(help="VisionZip's tokens per tile, CLS counted.")] = 64,
    rounds: Rounds = 10,
    out: Out = Path("results/bench"),
    device: Device = None,
    dtype: Dtype = None,
    bits: Bits = 16,
    layers: Layers = None,
) -> None:
    """The encoder alone, five ways: seconds and peak memory beside the blocks that must run."""
    options = {"tiles": numbers("--tiles", tiles), "budget": budget, "rounds": rounds}
    load = {"model": model, "shape": shape, "dtype": dtype, "bits": bits, "layers": layers}
    _measure("encoder", options, out, device, **load)


@app.command(epilog="Example: visionzip bench memory --shape liuhaotian/llava-v1.5-13b --budget 64 --bits 4")
def memory(
    model: Model = None,
    shape: Shape = None,
    method: Method = "visionzip",
    budget: Budget = "64",
    path: Path_ = "plain",
    text: Annotated[int, typer.Option(help="Text tokens of the prompt.")] = 60,
    new_tokens: Annotated[int, typer.Option(help="Tokens of the answer.")] = 32,
    out: Out = Path("results/bench"),
    device: Device = None,
    dtype: Dtype = None,
    bits: Bits = 16,
    layers: Layers = None,
) -> None:
    """Weights, activations and cache of one answer, peak and steady."""
    options = {"cases": case_list(method, budget, path), "text": text, "new_tokens": new_tokens}
    load = {"model": model, "shape": shape, "dtype": dtype, "bits": bits, "layers": layers}
    _measure("memory", options, out, device, **load)


@app.command(
    epilog="Example: visionzip bench throughput --model llava-v1.5-7b --budget 64 --batch-sizes 1,8 --workers 8"
)
def throughput(
    model: Model = None,
    shape: Shape = None,
    method: Method = "visionzip",
    budget: Budget = "64",
    path: Path_ = "plain",
    questions: Annotated[int, typer.Option(help="Pictures, one question each.")] = 32,
    new_tokens: Annotated[int, typer.Option(help="Tokens of an answer; 2: yes or no and the end.")] = 2,
    batch_sizes: Annotated[str, typer.Option(help="Questions together, comma separated.")] = "1",
    workers: Annotated[int, typer.Option(help="Processes that load and tile pictures.")] = 0,
    rounds: Rounds = 3,
    out: Out = Path("results/bench"),
    device: Device = None,
    dtype: Dtype = None,
    bits: Bits = 16,
    layers: Layers = None,
) -> None:
    """Many pictures with short answers, from file to answer, as in POPE."""
    options = {
        "cases": case_list(method, budget, path),
        "questions": questions,
        "new_tokens": new_tokens,
        "batch_sizes": numbers("--batch-sizes", batch_sizes),
        "workers": workers,
        "rounds": rounds,
    }
    load = {"model": model, "shape": shape, "dtype": dtype, "bits": bits, "layers": layers}
    _measure("throughput", options, out, device, **load)


@app.command(epilog="Example: visionzip bench train --shape liuhaotian/llava-v1.5-7b --budget 64 --rows 8")
def train(
    model: Model = None,
    shape: Shape = None,
    method: Method = "visionzip",
    budget: Budget = "64",
    rows: Annotated[int, typer.Option(help="Rows of a micro batch.")] = 4,
    text: Annotated[int, typer.Option(help="Text tokens of a row.")] = 250,
    rounds: Rounds = 5,
    out: Out = Path("results/bench"),
    device: Device = None,
    dtype: Dtype = None,
    layers: Layers = None,
) -> None:
    """A projector-only training step: seconds and peak memory."""
    options = {"cases": case_list(method, budget, "plain"), "rows": rows, "text": text, "rounds": rounds}
    _measure("train", options, out, device, model=model, shape=shape, dtype=dtype, layers=layers)


@app.command("all", epilog="Example: visionzip bench all --config configs/bench/gpu.yaml --out results/gpu")
def everything(
    config: Annotated[Path, typer.Option(help="Suite: models and the parts to measure.")],
    out: Out = Path("results/bench"),
    device: Device = None,
    only: Annotated[str | None, typer.Option(help=f"One part: {', '.join(PARTS)}.")] = None,
) -> None:
    """All parts of a suite; what has its record already is not run again."""
    from llava.bench.suite import read_suite

    _run(read_suite(config), out, _where(device), only)


def main() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    app(prog_name="visionzip bench")


if __name__ == "__main__":
    main()
