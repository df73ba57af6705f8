"""Options of the programs that ask a judge."""

from typing import Annotated

import typer

Temperature = Annotated[float, typer.Option("--temperature", help="The judge's.")]
Workers = Annotated[int, typer.Option("--workers", help="Calls at a time.")]
PriceIn = Annotated[float | None, typer.Option("--price-in", help="Per million prompt tokens.")]
PriceOut = Annotated[float | None, typer.Option("--price-out", help="Per million completion tokens.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the estimate and stop.")]
