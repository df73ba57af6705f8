"""Options of the programs that ask a judge."""

from typing import Annotated

import typer

Temperature = Annotated[float, typer.Option("--temperature", help="The judge's.")]
Workers = Annotated[int, typer.Option("--workers", help="Calls to the judge at a time.")]
PriceIn = Annotated[float | None, typer.Option("--price-in", help="Price of a million prompt tokens.")]
PriceOut = Annotated[float | None, typer.Option("--price-out", help="Price of a million completion tokens.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the estimate of what judging takes and stop.")]
