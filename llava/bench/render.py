"""Records of `visionzip bench` as tables in README.md and docs/measuring.md, and as pictures.

    python -m llava.bench.render --records results/cpu results/gpu

The pages hold markers `<!-- bench-cpu:start -->` ... `<!-- bench-cpu:end -->` and the same with bench-gpu (both pages),
bench-goals and bench-published (docs); what lies between them is rewritten. Nothing there is typed by hand.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from llava.bench.frontier import Joined, join
from llava.bench.goals import NEXT_7B, goal_sheet
from llava.bench.headline import encoder_headline, first_token_headline
from llava.bench.published_speed import published_sheets
from llava.bench.report import fill
from llava.bench.sheet import Sheet, on_gpu
from llava.bench.show import SHEETS, read_record, sheets

app = typer.Typer(help=__doc__, rich_markup_mode=None, add_completion=False)

MINIATURE = "llava-mini-v1.5"
ACCURACY, PUBLISHED = Path("results/miniature/table.csv"), Path("configs/paper")
MORE_THAN_A_PAIR = 2  # two bars say nothing that a table does not
Say = Callable[[str], None]


@dataclass(frozen=True)
class Folder:
    """The records of one device. role: "cpu" or "gpu". records: by file, models in order of name, parts in SHEETS'."""

    role: str
    records: Mapping[Path, Mapping[str, Any]]

    def of(self, kind: str) -> dict[str, Mapping[str, Any]]:
        """Records of a kind by the name of their model in the suite."""
        found = {file: record for file, record in self.records.items() if record["kind"] == kind}
        return {model_name(file): record for file, record in found.items()}

    @property
    def missing(self) -> str:
        """What stands where there is no record."""
        return f"not measured: no {self.role.upper()} record; run `bash scripts/bench/{self.role}.sh`"


def model_name(file: Path) -> str:
    """The model's name in the suite, from `NAME.PART.json`."""
    return file.name.removesuffix(".json").rpartition(".")[0]


def read_folder(role: str, folder: Path) -> Folder:
    """Raises: ValueError for a file that is no record, or one that another kind of device made."""
    kinds = list(SHEETS)
    records = {file: read_record(file) for file in folder.glob("*.json")}
    for file, record in records.items():
        if on_gpu(record) != (role == "gpu"):
            raise ValueError(
                f"{file} was made on {record['stamp']['device']}; records of a {role.upper()} are expected in {folder}"
            )
    ordered = sorted(records, key=lambda file: (model_name(file), kinds.index(records[file]["kind"])))
    return Folder(role, {file: records[file] for file in ordered})


def all_tables(folder: Folder) -> str:
    """Every table of a folder, under the names of its models."""
    if not folder.records:
        return folder.missing
    parts, last = [], ""
    for file in folder.records:
        if model_name(file) != last:
            last = model_name(file)
            parts.append(f"#### {last}")
        parts += [sheet.to_markdown() for sheet in sheets(file)]
    return "\n\n".join(parts)


def first_model(folder: Folder) -> str | None:
    """The model of a folder's headline: LLaVA-NeXT-7B, else an unquantised one of random weights (a public shape)."""
    latency = folder.of("latency")
    if not latency:
        return None

    def order(name: str) -> tuple[bool, bool, bool, str]:
        subject = latency[name]["subject"]
        return (name != NEXT_7B, subject["bits"] != 16, subject["weights"] != "random", name)

    return min(latency, key=order)


def headline(folder: Folder, pictures: Sequence[str]) -> str:
    """A folder's first figures, of one model: encoder where it was measured, first token, answers; pictures below."""
    name = first_model(folder)
    if name is None:
        return folder.missing
    encoder = folder.of("encoder").get(name)
    tables = [] if encoder is None else [encoder_headline(encoder)]
    tables.append(first_token_headline(folder.of("latency")[name], folder.of("throughput").get(name)))
    shown = [f"![{Path(picture).stem.replace('-', ' ')}]({picture})" for picture in pictures]
    return "\n\n".join([*(table.to_markdown() for table in tables), *shown])


def verdict(goals: Sheet) -> str:
    """One line on how many goals are met; a goal has several figures where it is measured in several places."""
    name, found = goals.columns.index("goal"), goals.columns.index("verdict")
    verdicts: dict[str, set[str]] = {}
    for row in goals.rows:
        verdicts.setdefault(row[name], set()).add(row[found])
    words = ["met in part" if len(own) > 1 else next(iter(own)) for own in verdicts.values()]
    kinds = ("met", "met in part", "not met", "not measured")
    counts = [f"{words.count(kind)} {kind}" for kind in kinds if kind in words]
    return f"Of {len(words)} goals set beforehand: {', '.join(counts)}; see docs/measuring.md."


def plots_of(folder: Folder, accuracy: Path, say: Say) -> dict[str, Callable[[Path], None]]:
    """The pictures a folder's records give, by file name, each a function that draws it. say: told what is left out."""
    drawn: dict[str, Callable[[Path], None]] = {}
    for name, record in folder.of("latency").items():
        if len(record["cases"]) > MORE_THAN_A_PAIR:
            drawn[f"{folder.role}-{name}-stages.png"] = partial(_draw, "draw_stages", record)
            drawn[f"{folder.role}-{name}-tokens.png"] = partial(_draw, "draw_tokens", record)
    for name, record in folder.of("scaling").items():
        drawn[f"{folder.role}-{name}-scaling.png"] = partial(_draw, "draw_scaling", record)
    if not folder.records:
        return drawn
    subjects = [(record["subject"], record) for record in folder.of("latency").values()]
    trained = [record for subject, record in subjects if (subject["name"], subject["bits"]) == (MINIATURE, 16)]
    if not trained or not accuracy.is_file():
        what = f"latency record of {MINIATURE}" if not trained else f"{accuracy}"
        say(f"{folder.role}: no picture of speed against accuracy, there is no {what}")
        return drawn
    joined = join(trained[0], accuracy)
    if joined.left_out:
        names = ", ".join(joined.left_out)
        say(f"{folder.role}: either speed or accuracy is missing, so not in their picture: {names}")
    if joined.points:
        drawn[f"{folder.role}-frontier.png"] = partial(_draw_frontier, joined, trained[0])
    return drawn


def _draw(function: str, record: Mapping[str, Any], path: Path) -> None:
    getattr(_plots(), function)(record, path)


def _draw_frontier(joined: Joined, record: Mapping[str, Any], path: Path) -> None:
    plots = _plots()
    device = record["stamp"]["device"] if on_gpu(record) else "CPU"
    caption = f"{record['subject']['name']}: speed on {device}, accuracy on held-out scenes"
    plots.draw_frontier([plots.Point(*point) for point in joined.points], path, caption)


def _plots() -> Any:
    try:
        return import_module("llava.bench.plots")
    except ModuleNotFoundError as error:
        raise ValueError(f"pictures need {error.name}: pip install {error.name}, or leave out --plots") from error


def pages(
    page: str, readme: str, cpu: Folder, gpu: Folder, published: Path, pictures: Mapping[str, Sequence[str]]
) -> tuple[str, str]:
    """The docs page and README with everything between the markers anew. pictures: links for README, by role.

    Raises: ValueError for a marker that is not there once, or a record or table that does not fit.
    """
    records = [*cpu.records.values(), *gpu.records.values()]
    goals = goal_sheet(records)
    page = fill(page, "bench-goals", goals.to_markdown())
    beside = "\n\n".join(sheet.to_markdown() for sheet in published_sheets(published, records))
    page = fill(page, "bench-published", beside)
    for folder in (cpu, gpu):
        page = fill(page, f"bench-{folder.role}", all_tables(folder))
        readme = fill(readme, f"bench-{folder.role}", headline(folder, pictures.get(folder.role, [])))
    return page, fill(readme, "bench-goals", verdict(goals))


def links(drawn: Mapping[str, Any], folder: Folder, plots: Path, readme: Path) -> list[str]:
    """README's pictures of a folder: stages of its first model, and speed against accuracy."""
    wanted = [f"{folder.role}-{first_model(folder)}-stages.png", f"{folder.role}-frontier.png"]
    place = os.path.relpath(plots, readme.parent)
    return [f"{Path(place, name).as_posix()}" for name in wanted if name in drawn]


@app.command(epilog="Example: python -m llava.bench.render --records results/cpu results/gpu --plots results/plots")
def render(
    records: Annotated[tuple[Path, Path], typer.Option(help="Two folders: CPU records and GPU records.")] = (
        Path("results/cpu"),
        Path("results/gpu"),
    ),
    page: Annotated[Path, typer.Option(help="Docs page to rewrite.")] = Path("docs/measuring.md"),
    readme: Annotated[Path, typer.Option(help="README to rewrite.")] = Path("README.md"),
    plots: Annotated[Path, typer.Option(help="Folder of the pictures.")] = Path("results/plots"),
    accuracy: Annotated[Path, typer.Option(help="Table of accuracies of the miniature.")] = ACCURACY,
    published: Annotated[Path, typer.Option(help="Folder of published tables.")] = PUBLISHED,
) -> None:
    """Rewrite tables and pictures from records. What has no record says so."""
    cpu, gpu = read_folder("cpu", records[0]), read_folder("gpu", records[1])
    if not cpu.records and not gpu.records:
        raise ValueError(f"--records {records[0]} {records[1]}: no record in either; the pages were left as they are")
    shown = {}
    for folder in (cpu, gpu):
        drawn = plots_of(folder, accuracy, lambda line: typer.echo(line, err=True))
        for name, draw in drawn.items():
            draw(plots / name)
        shown[folder.role] = links(drawn, folder, plots, readme)
    texts = pages(page.read_text(encoding="utf-8"), readme.read_text(encoding="utf-8"), cpu, gpu, published, shown)
    for file, text in zip((page, readme), texts, strict=True):
        file.write_text(text, encoding="utf-8")
    typer.echo(f"{page}, {readme}: {len(cpu.records)} CPU and {len(gpu.records)} GPU records")


def main() -> None:
    try:
        app(prog_name="python -m llava.bench.render")
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
