"""`visionzip bench`: how fast, how much memory, and how far from what the device allows.

Every command takes a checkpoint (`--model`) or builds random weights of a public shape (`--shape`), runs all cases in
turn on that one model and writes a record. See docs/measuring.md for what each number means.
"""

import inspect
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
import typer
from rich.console import Console
from typer.core import TyperGroup

from llava.bench.names import ATTENTION, BITS, INSIDE, METHODS, PARTS, PATHS
from llava.options import sharing

if TYPE_CHECKING:  # what measures is imported by the function that needs it: help must not wait for torch
    from llava.bench.sheet import Sheet
    from llava.bench.suite import Plan


class _Told(TyperGroup):
    """A caller's mistake is a line and exit status 1, not a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ValueError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(1) from error
        except KeyboardInterrupt as stop:
            typer.echo("stopped; parts that were done have their records, and bench all goes on behind them", err=True)
            raise typer.Exit(130) from stop


app = typer.Typer(help=__doc__, no_args_is_help=True, rich_markup_mode=None, add_completion=False, cls=_Told)

Method = Annotated[str, typer.Option(help=f"Comma separated: {', '.join(METHODS)}. dense goes first in any case.")]
Budget = Annotated[str, typer.Option(help="Tokens per tile, comma separated, CLS counted: 32,64,128.")]
Path_ = Annotated[str, typer.Option("--path", help=f"Comma separated: {', '.join(PATHS)}.")]
Rounds = Annotated[int, typer.Option(help="Timed rounds; all cases take turns in each.")]
Text = Annotated[int, typer.Option(help="Text tokens of the prompt.")]
NewTokens = Annotated[int, typer.Option(help="Tokens of the answer.")]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is measured, on what, and where the records go."""

    model: Annotated[str | None, typer.Option(help="Checkpoint folder or hub id.")] = None
    shape: Annotated[str | None, typer.Option(help="Public checkpoint whose shape gets random weights.")] = None
    layers: Annotated[int | None, typer.Option(help="With --shape: fewer decoder layers; the tower stays whole.")] = (
        None
    )
    dtype: Annotated[
        str | None, typer.Option(help="bfloat16, float16, float32. Default: bfloat16 on a GPU, else float32.")
    ] = None
    bits: Annotated[int, typer.Option(help="8 or 4: the language model quantised with bitsandbytes.")] = 16
    attention: Annotated[str, typer.Option(help=f"Of the language model: {', '.join(ATTENTION)}.")] = "sdpa"
    device: Annotated[str | None, typer.Option(help="cuda or cpu. Default: a GPU if there is one.")] = None
    out: Annotated[Path, typer.Option(help="Folder of the records.")] = Path("results/bench")


def case_list(method: str, budget: str, path: str) -> list[str]:
    """Every method at every budget on every path that knows it, dense first; says what is left out.

    Raises: ValueError for names that are not known, or a budget that is none.
    """
    methods, paths = _known("--method", method, METHODS), _known("--path", path, PATHS)
    budgets = numbers("--budget", budget) if budget else []
    wanted = [f"dense:{way}" for way in paths if way != "official"] or ["dense"]
    for name in methods:
        if name == "dense":
            continue
        for tokens in budgets:
            lacking = {way: reason for way in paths if (reason := _why_not(name, tokens, way))}
            ways = [way for way in paths if way not in lacking]
            if not ways:
                raise ValueError(f"--method {name} runs on none of --path {path}: add a path it knows, or leave it out")
            for way, reason in lacking.items():
                typer.echo(f"left out: {name}-{tokens} {way} ({reason})", err=True)
            wanted += [f"{name}:{tokens}:{way}" for way in ways]
        if not budgets:
            raise ValueError(f"--method {name} needs --budget, tokens per tile")
    return list(dict.fromkeys(wanted))  # what is named twice is measured once


def numbers(flag: str, text: str) -> list[int]:
    """Whole numbers above 0, comma separated. Raises: ValueError naming flag and value."""
    found = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in found):
        raise ValueError(f"{flag} {text}: expected whole numbers above 0, comma separated, such as 1,8")
    return [int(part) for part in found]


def _known(flag: str, text: str, names: Sequence[str]) -> list[str]:
    """Names, comma separated. Raises: ValueError naming flag and the one that is not known."""
    given = [name.strip() for name in text.split(",")]
    for name in given:
        if name not in names:
            raise ValueError(f"{flag} {name}: expected some of {', '.join(names)}, comma separated")
    return given


def _why_not(name: str, tokens: int, way: str) -> str | None:
    """Why a method at a budget has no such path. Raises: ValueError for a budget that is none for it at all."""
    from llava.bench.cases import Case
    from visionzip import budget_for

    try:
        budget = budget_for(tokens)
    except ValueError as error:
        raise ValueError(f"--budget {tokens}: {error}") from error
    try:
        Case(name, budget, way)
    except ValueError as error:
        return str(error)
    return None


def _measure(
    options: Options, parts: dict[str, dict[str, Any]], only: str | None = None, *, again: bool = True
) -> None:
    """These parts, with what they are given, on one model. again: also what has its record already."""
    from llava.bench.suite import plans_of
    from llava.model.placement import DTYPES

    if options.bits not in BITS:
        raise ValueError(f"--bits {options.bits}: expected 16, 8 or 4")
    if options.attention not in ATTENTION:
        raise ValueError(f"--attention {options.attention}: expected one of {', '.join(ATTENTION)}")
    if options.dtype not in (None, *DTYPES):
        raise ValueError(f"--dtype {options.dtype}: expected one of {', '.join(DTYPES)}")
    if (options.model is None) == (options.shape is None):
        raise ValueError("expected either --model, a checkpoint, or --shape, a public checkpoint's name")
    if options.layers is not None and options.shape is None:
        raise ValueError("--layers: a checkpoint has the layers it has; expected it together with --shape")
    place = _where(options.device)
    entry = {
        "model": options.model,
        "shape": options.shape,
        "dtype": options.dtype or ("bfloat16" if place.startswith("cuda") else "float32"),
        "bits": options.bits,
        "attention": options.attention,
        "sizes": None if options.layers is None else {"num_hidden_layers": options.layers},
    }
    given = {key: value for key, value in entry.items() if value is not None}
    _run(plans_of({"subjects": [given | parts]}, "command line"), options.out, place, only, again=again)


def _run(plans: "list[Plan]", out: Path, device: str, only: str | None = None, *, again: bool = False) -> None:
    from llava.bench.show import sheets
    from llava.bench.suite import record_file, run

    console = Console(stderr=True)

    def report(line: str) -> None:
        console.print(line, highlight=False, markup=False)

    failed = list(run(plans, out, device, report, only, again=again))
    not_now = {(failure.name, failure.part) for failure in failed}
    for plan in plans:
        for part in plan.parts if (plan.name, None) not in not_now else ():
            if only in (None, part) and (plan.name, part) not in not_now:
                for sheet in sheets(record_file(out, plan, part)):
                    _print(sheet)
    for failure in failed:
        typer.echo(f"error: {failure}", err=True)
    if failed:
        raise typer.Exit(1)


def _print(sheet: "Sheet") -> None:
    """A table that fits the terminal; into a file or a pipe, which have no width, as markdown."""
    screen = Console()
    if screen.is_terminal:
        screen.print(sheet.to_rich())
    else:
        typer.echo(f"{sheet.to_markdown()}\n")


def _where(device: str | None) -> str:
    import torch

    return device or ("cuda" if torch.cuda.is_available() else "cpu")


@app.command(epilog="Example: visionzip bench latency --shape liuhaotian/llava-v1.6-vicuna-7b --budget 32,128")
@sharing(Options)
def latency(
    options: Options,
    *,
    method: Method = "visionzip",
    budget: Budget = "64",
    path: Path_ = "plain",
    text: Text = 60,
    new_tokens: NewTokens = 32,
    rounds: Rounds = 10,
) -> None:
    """Seconds to the first token and to the whole answer, by stage, beside the floor."""
    cases = case_list(method, budget, path)
    _measure(options, {"latency": {"cases": cases, "text": text, "new_tokens": new_tokens, "rounds": rounds}})


@app.command(epilog="Example: visionzip bench encoder --shape liuhaotian/llava-v1.5-7b --layers 1 --tiles 1,5")
@sharing(Options)
def encoder(
    options: Options,
    *,
    tiles: Annotated[str, typer.Option(help="Tiles encoded at a time, comma separated.")] = "1,5",
    budget: Annotated[int, typer.Option(help="VisionZip's tokens per tile, CLS counted.")] = 64,
    rounds: Rounds = 10,
) -> None:
    """The encoder alone, five ways: seconds and peak memory beside the blocks that must run."""
    _measure(options, {"encoder": {"tiles": numbers("--tiles", tiles), "budget": budget, "rounds": rounds}})


@app.command(epilog="Example: visionzip bench memory --shape liuhaotian/llava-v1.5-13b --budget 64 --bits 4")
@sharing(Options)
def memory(
    options: Options,
    *,
    method: Method = "visionzip",
    budget: Budget = "64",
    path: Path_ = "plain",
    text: Text = 60,
    new_tokens: NewTokens = 32,
) -> None:
    """Weights, activations and cache of one answer, peak and steady."""
    cases = case_list(method, budget, path)
    _measure(options, {"memory": {"cases": cases, "text": text, "new_tokens": new_tokens}})


@app.command(
    epilog="Example: visionzip bench throughput --model llava-v1.5-7b --budget 64 --batch-sizes 1,8 --workers 8"
)
@sharing(Options)
def throughput(
    options: Options,
    *,
    method: Method = "visionzip",
    budget: Budget = "64",
    path: Path_ = "plain",
    questions: Annotated[int, typer.Option(help="Pictures, one question each.")] = 32,
    new_tokens: Annotated[int, typer.Option(help="Tokens of an answer; 2: yes or no and the end.")] = 2,
    batch_sizes: Annotated[str, typer.Option(help="Questions together, comma separated.")] = "1",
    workers: Annotated[int, typer.Option(help="Processes that load and tile pictures.")] = 0,
    rounds: Rounds = 3,
) -> None:
    """Many pictures with short answers, from file to answer, as in POPE."""
    given: dict[str, Any] = {
        "cases": case_list(method, budget, path),
        "questions": questions,
        "new_tokens": new_tokens,
        "batch_sizes": numbers("--batch-sizes", batch_sizes),
        "workers": workers,
        "rounds": rounds,
    }
    _measure(options, {"throughput": given})


@app.command(epilog="Example: visionzip bench train --shape liuhaotian/llava-v1.5-7b --budget 64 --rows 8 --bits 4")
@sharing(Options)
def train(
    options: Options,
    *,
    method: Method = "visionzip",
    budget: Budget = "64",
    rows: Annotated[int, typer.Option(help="Rows of a micro batch.")] = 4,
    text: Annotated[int, typer.Option(help="Text tokens of a row.")] = 250,
    supervised: Annotated[int, typer.Option(help="How many of these have a label.")] = 100,
    rounds: Rounds = 5,
) -> None:
    """A projector-only training step: seconds and peak memory."""
    cases = case_list(method, budget, "plain")
    given: dict[str, Any] = {"cases": cases, "rows": rows, "text": text, "supervised": supervised, "rounds": rounds}
    _measure(options, {"train": given})


@app.command("all", epilog="Example: visionzip bench all --config configs/bench/gpu.yaml --out results/gpu")
@sharing(Options)
def everything(
    options: Options,
    *,
    config: Annotated[
        Path | None, typer.Option(help="Suite: models and the parts to measure, in place of --model or --shape.")
    ] = None,
    method: Method = "visionzip",
    budget: Budget = "64",
    path: Path_ = "plain",
    only: Annotated[str | None, typer.Option(help=f"One part: {', '.join(PARTS)}.")] = None,
) -> None:
    """All parts of a suite or of one model. What this commit has measured on this device already is not run again."""
    if only not in (None, *PARTS):
        raise ValueError(f"--only {only}: expected one of {', '.join(PARTS)}")
    if config is None:
        _measure(options, all_parts(method, budget, path), only, again=False)
        return
    from llava.bench.suite import read_suite

    if options.model or options.shape:
        raise ValueError(f"--config {config} names its models itself; expected no --model and no --shape beside it")
    _run(read_suite(config), options.out, _where(options.device), only)


def all_parts(method: str, budget: str, path: str) -> Mapping[str, dict[str, Any]]:
    """Every part at its own defaults: the cases where there are any, the encoder at the first budget."""
    from llava.bench.suite import PARTS as programs

    cases = case_list(method, budget, path)
    parts: dict[str, dict[str, Any]] = {part: {} for part in PARTS}
    for part in (part for part in PARTS if "cases" in inspect.signature(programs[part]).parameters):
        parts[part] = {"cases": cases}
    trained = ",".join(name for name in method.split(",") if name not in INSIDE) or "dense"
    parts["train"] = {"cases": case_list(trained, budget, "plain")}
    parts["encoder"] = {"budget": numbers("--budget", budget)[0]}
    return parts


def main() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    app(prog_name="visionzip bench")


if __name__ == "__main__":
    main()
