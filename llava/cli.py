"""The command `visionzip`."""

import sys

import typer

from llava.bench.plan import plan

app = typer.Typer(
    help="LLaVA with fewer visual tokens. Training, evaluation and release are modules of their own: see the README.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.callback()
def _root() -> None:
    """Keeps `plan` a command of its own while it is the only one."""


app.command("plan")(plan)


def main() -> None:
    try:
        app()
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
