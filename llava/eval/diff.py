"""What compression breaks: the items two cells answered differently, with the pictures and the tokens that were kept.

    visionzip eval diff results/miniature/cells/dense results/miniature/cells/visionzip-16 --task pope \
        --data playground/data/miniature/eval --out runs/diff

Writes diff.html (question, reference, both answers, and the picture with dropped patches darkened) and diff.json. Tasks
of lmms-eval (mmmu, lmms:pope) are shown without pictures: theirs are on the hub, and no record names them.
"""

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image

from llava.eval.bootstrap import in_common
from llava.eval.cells import Items, Record, read_items, read_record, record_file
from llava.eval.judge.benchmarks import BENCHMARKS, JUDGED
from llava.eval.kept import KeptTokens
from llava.eval.lmms_records import TITLES, read_questions
from llava.utils import write_text

EXAMPLE = (
    "Example: visionzip eval diff results/miniature/cells/dense results/miniature/cells/visionzip-16 "
    "--task pope --data playground/data/miniature/eval --out runs/diff"
)
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font-family: sans-serif }}
table {{ border-collapse: collapse }}
th, td {{ text-align: left; vertical-align: top; padding: 4px 8px; border-top: 1px solid #ccc }}
th {{ position: sticky; top: 0; background: #fff }}
.right {{ color: #060 }}
.wrong {{ color: #a00 }}
img {{ width: 200px }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{summary}</p>
<table>
<tr>{heads}</tr>
{body}
</table>
</body>
</html>
"""
HALF = 0.5  # an item flips when it crosses half of its score
DRAWN = "Patches that were not kept are darkened; what merged tokens stand for is not shown."
NOT_DRAWN = "Pictures are not shown: lmms-eval's data are on the hub."


@dataclass(frozen=True)
class Flip:
    """An item that is right in one cell and wrong in the other. said, scores: of A, then of B."""

    id: str
    image: str
    said: tuple[str, str]
    scores: tuple[float, float]

    @property
    def lost(self) -> bool:
        """Right in A, wrong in B."""
        return self.scores[0] > self.scores[1]


def flips(first: Items, second: Items) -> list[Flip]:
    """The items whose score crosses one half, in question order.

    Raises:
        ValueError: the two were not asked the same questions.
    """
    if (first.ids, first.images) != (second.ids, second.images):
        raise ValueError("the two cells were asked different questions; run both on the same files")
    return [
        Flip(key, image, said=(a, b), scores=(x, y))
        for key, image, a, b, x, y in zip(
            first.ids, first.images, first.said, second.said, first.scores, second.scores, strict=True
        )
        if (x >= HALF) != (y >= HALF)
    ]


@dataclass(frozen=True)
class Side:
    """One of the two cells: its record and items of a benchmark. out: the folder of all records."""

    record: Record
    items: Items
    out: Path


@dataclass(frozen=True)
class Shown:
    """What the page says of the items beside the answers, by item; "?" and nothing where it is not there.

    pictures: image name -> what to show for it, one picture a cell; text-only items have none. note: on the pictures.
    """

    questions: Mapping[str, str]
    golds: Mapping[str, str]
    pictures: Mapping[str, tuple[Image.Image, ...]]
    note: str


def read_side(cell: Path, task: str) -> Side:
    """The record and items of a benchmark of a cell folder (<out>/cells/<cell>).

    Raises:
        ValueError: no such record, or its items were not kept.
    """
    out, name = cell.parent.parent, cell.name
    if cell.parent.name != "cells" or not record_file(out, name, task).exists():
        there = ", ".join(sorted(file.stem for file in cell.glob("*.json"))) or "no record"
        raise ValueError(f"{cell}: expected a folder <records>/cells/<cell> with {task}.json in it, found {there}")
    items = read_items(out, name, task)
    if items is None:
        raise ValueError(f"{cell}: the items of {task} were not kept ({out / 'items' / name / task}.json is missing)")
    return Side(read_record(record_file(out, name, task)), items, out)


def names_of(first: Path, second: Path) -> tuple[str, str]:
    """What two cell folders are called: by their cells; with their records' folders where those are called the same,
    as two splits of one total are."""
    if first.name != second.name:
        return first.name, second.name
    return f"{first.name} in {first.parent.parent.name}", f"{second.name} in {second.parent.parent.name}"


def render_html(task: str, sides: tuple[Side, Side], found: Sequence[Flip], shown: Shown, limit: int) -> str:
    """The page.

    Args:
        found: every item that differs; the first `limit` of them get a row.
    """
    names = names_of(*(side.out / "cells" / side.record.cell for side in sides))
    lost = sum(flip.lost for flip in found)
    summary = (
        f"{len(found)} of {len(sides[0].items.ids)} items differ: {lost} only {names[0]} has right, "
        f"{len(found) - lost} only {names[1]}."
        + (f" The first {limit} are shown." if len(found) > limit else "")
        + (
            " Right is half of the best judgement or more; items not judged in both are left out."
            if task in JUDGED
            else ""
        )
        + f" {shown.note}"
    )
    drawn = found[:limit]
    body = "\n".join(_row(flip, shown) for flip in drawn)
    name = BENCHMARKS[task].title if task in BENCHMARKS else TITLES.get(task, task)
    title = html.escape(f"{name}: {names[0]} and {names[1]}")
    seen, said = ([f"{name} {what}" for name in names] for what in ("sees", "says"))
    heads = "".join(f"<th>{html.escape(head)}</th>" for head in (*seen, "question", "reference", *said))
    return _PAGE.format(title=title, summary=html.escape(summary), heads=heads, body=body)


def _row(flip: Flip, shown: Shown) -> str:
    pictures = shown.pictures.get(flip.image, ())
    images = [f'<td><img alt="{html.escape(flip.image)}" src="{_data_url(picture)}"></td>' for picture in pictures]
    images += ["<td>-</td>"] * (2 - len(images))
    texts = (shown.questions.get(flip.id, f"item {flip.id}"), shown.golds.get(flip.id, "?"))
    words = "".join(f"<td>{_lines(text)}</td>" for text in texts)
    answers = "".join(
        f'<td class="{"right" if score >= HALF else "wrong"}">{_lines(said) or "(empty)"}</td>'
        for said, score in zip(flip.said, flip.scores, strict=True)
    )
    return f"<tr>{''.join(images)}{words}{answers}</tr>"


def _lines(text: str) -> str:
    return html.escape(text).replace("\n", "<br>")


def _data_url(picture: Image.Image) -> str:
    stream = io.BytesIO()
    picture.save(stream, format="JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


def gold_of(reference: Mapping[str, Any]) -> str:
    """A reference in words: the answer, or the human answers without repetition."""
    if "answer" in reference:
        return str(reference["answer"])
    return " / ".join(dict.fromkeys(map(str, reference.get("answers") or ["?"])))


def compare(
    task: str,
    cells: tuple[Path, Path],
    data: Path,
    out: Path,
    limit: int,
    device: str | None,
    models: tuple[str | None, str | None] = (None, None),
) -> list[Flip]:
    """Find the flips of one benchmark and write the page; at most `limit` of them are drawn.

    Args:
        models: where the checkpoints of A and B lie; None as their records say.
    """
    first, second = (read_side(cell, task) for cell in cells)
    if task in JUDGED:  # a reply without a score leaves its item out, in one cell and not in the other
        ours, theirs = in_common([first.items, second.items])
        first, second = replace(first, items=ours), replace(second, items=theirs)
    sides = first, second
    found = flips(sides[0].items, sides[1].items)
    shown = (
        _from_files(task, data, found[:limit], sides, device, models) if task in BENCHMARKS else _from_lmms(task, sides)
    )
    folder = out / task
    write_text(folder / "diff.html", render_html(task, sides, found, shown, limit))
    write_text(folder / "diff.json", json.dumps([asdict(flip) for flip in found], indent=1, ensure_ascii=False) + "\n")
    return found


def _from_files(
    task: str,
    data: Path,
    drawn: Sequence[Flip],
    sides: tuple[Side, Side],
    device: str | None,
    models: tuple[str | None, str | None],
) -> Shown:
    """Of a benchmark in the public layout."""
    benchmark = BENCHMARKS[task]
    benchmark.require_files(data)
    asked = benchmark.read(data)
    questions = {question.key: question for question in asked.questions}
    references = (benchmark.references(data, asked.questions) if benchmark.references else None) or {}
    missing = [flip.id for flip in drawn if flip.id not in questions]
    if missing:
        raise ValueError(f"{data}: question {missing[0]} of {task} is not there; name the data the cells were asked on")
    names = sorted({flip.image for flip in drawn if questions[flip.id].image is not None})
    opened = {name: asked.pictures.open(name) for name in names}
    seen = [
        KeptTokens.of(side.record, device, model).draw(list(opened.values()))
        for side, model in zip(sides, models, strict=True)
    ]
    return Shown(
        questions={flip.id: questions[flip.id].text for flip in drawn},
        golds={flip.id: gold_of(references.get(flip.id, {})) for flip in drawn},
        pictures={name: tuple(one[index] for one in seen) for index, name in enumerate(opened)},
        note=DRAWN,
    )


def _from_lmms(task: str, sides: tuple[Side, Side]) -> Shown:
    """Of a task of lmms-eval: prompts and references as its samples had them."""
    kept = read_questions(sides[1].out, task) or read_questions(sides[0].out, task)
    prompts, golds = ({key: asked[place] for key, asked in kept.items()} for place in (0, 1))
    return Shown(prompts, golds, pictures={}, note=NOT_DRAWN)


def main(
    first: Annotated[Path, typer.Argument(help="Folder of cell A: <records>/cells/<cell>.")],
    second: Annotated[Path, typer.Argument(help="Folder of cell B.")],
    task: Annotated[list[str], typer.Option(help="Benchmark, or a column of lmms-eval such as mmmu; repeatable.")],
    out: Annotated[Path, typer.Option(help="Folder for <task>/diff.html and diff.json.")],
    data: Annotated[Path, typer.Option(help="The eval root the cells were asked on.")] = Path("playground/data/eval"),
    limit: Annotated[int, typer.Option(help="Draw at most so many items.")] = 100,
    device: Annotated[str | None, typer.Option(help="Default: a GPU if there is one.")] = None,
    first_model: Annotated[str | None, typer.Option(help="Checkpoint of A, if not where its record says.")] = None,
    second_model: Annotated[str | None, typer.Option(help="Checkpoint of B, if not where its record says.")] = None,
) -> None:
    """Show the items two cells answer differently."""
    try:
        for name in task:
            found = compare(name, (first, second), data, out, limit, device, (first_model, second_model))
            lost, names = sum(flip.lost for flip in found), names_of(first, second)
            typer.echo(
                f"{name}: {len(found)} items differ, {lost} only {names[0]} has right, {len(found) - lost} only "
                f"{names[1]}; {out / name / 'diff.html'}"
            )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


app = typer.Typer(add_completion=False, rich_markup_mode=None)
app.command(epilog=EXAMPLE)(main)

if __name__ == "__main__":
    app()
