"""The command `visionzip`."""

import sys
from importlib import import_module

import typer

from llava.bench.plan import plan

app = typer.Typer(
    help="LLaVA with fewer visual tokens. Training and release are modules of their own: see the README.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
evaluation = typer.Typer(help="From answers to tables, and what compression breaks.", no_args_is_help=True)
app.command("plan")(plan)
app.add_typer(evaluation, name="eval")

# Programs of their own, loaded when asked for: (group, name, module, what it does).
PROGRAMS = (
    (evaluation, "grid", "llava.eval.grid", "Run methods and budgets over benchmarks."),
    (evaluation, "report", "llava.eval.report", "Render records as a table, a page and a picture."),
    (evaluation, "diff", "llava.eval.diff", "Show the items two cells answer differently."),
    (app, "bench", "llava.bench.command", "Measure time and memory: latency, encoder, memory, throughput, train, all."),
)


def _forward(group: typer.Typer, name: str, module: str, help_text: str) -> None:
    shown = f"visionzip eval {name}" if group is evaluation else f"visionzip {name}"

    @group.command(
        name,
        help=help_text,
        add_help_option=False,
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )
    def _run(context: typer.Context) -> None:
        import_module(module).app(context.args, prog_name=shown)


for _program in PROGRAMS:
    _forward(*_program)


def main() -> None:
    try:
        app()
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
