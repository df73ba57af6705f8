"""What compression breaks: the items two cells answered differently, with the pictures and the tokens that were kept.

    visionzip eval diff results/miniature/cells/dense results/miniature/cells/visionzip-16 --task pope \
        --data playground/data/miniature/eval --out runs/diff

Writes diff.html (question, reference, both answers, and the picture with dropped patches darkened) and diff.json.
"""

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image

from llava.eval.cells import Items, Record, read_items, read_record, record_file
from llava.eval.kept import KeptTokens
from llava.eval.records import Question
from llava.eval.tasks import TASKS
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
<p>{summary} Patches that were not kept are darkened; what merged tokens stand for is not shown.</p>
<table>
<tr>{heads}</tr>
{body}
</table>
</body>
</html>
"""
HALF = 0.5  # an item flips when it crosses half of its score


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
    """One of the two cells: its record and items of a benchmark."""

    record: Record
    items: Items


def read_side(cell: Path, task: str) -> Side:
    """The record and items of a benchmark of a cell folder (<out>/cells/<cell>).

    Raises:
        ValueError: no such record, or its items were not kept.
    """
    out, name = cell.parent.parent, cell.name
    if cell.parent.name != "cells" or not record_file(out, name, task).exists():
        raise ValueError(f"{cell}: expected a folder <records>/cells/<cell> with {task}.json in it")
    items = read_items(out, name, task)
    if items is None:
        raise ValueError(f"{cell}: the items of {task} were not kept ({out / 'items' / name / task}.json is missing)")
    return Side(read_record(record_file(out, name, task)), items)


def render_html(
    task: str,
    sides: tuple[Side, Side],
    found: Sequence[Flip],
    questions: Mapping[str, Question],
    golds: Mapping[str, str],
    pictures: Mapping[str, tuple[Image.Image, ...]],
    limit: int,
) -> str:
    """The page.

    Args:
        found: every item that differs; the first `limit` of them get a row.
        pictures: image name -> what to show for it, one picture a cell; text-only items have none.
    """
    names = [side.record.cell for side in sides]
    lost = sum(flip.lost for flip in found)
    summary = (
        f"{len(found)} of {len(sides[0].items.ids)} items differ: {lost} only {names[0]} has right, "
        f"{len(found) - lost} only {names[1]}." + (f" The first {limit} are shown." if len(found) > limit else "")
    )
    drawn = found[:limit]
    body = "\n".join(_row(flip, questions[flip.id], golds[flip.id], pictures.get(flip.image, ())) for flip in drawn)
    title = html.escape(f"{TASKS[task].title}: {names[0]} and {names[1]}")
    seen, said = ([f"{name} {what}" for name in names] for what in ("sees", "says"))
    heads = "".join(f"<th>{html.escape(head)}</th>" for head in (*seen, "question", "reference", *said))
    return _PAGE.format(title=title, summary=html.escape(summary), heads=heads, body=body)


def _row(flip: Flip, question: Question, gold: str, shown: tuple[Image.Image, ...]) -> str:
    images = [f'<td><img alt="{html.escape(flip.image)}" src="{_data_url(picture)}"></td>' for picture in shown]
    images += ["<td>-</td>"] * (2 - len(images))
    words = html.escape(question.text).replace("\n", "<br>")
    answers = "".join(
        f'<td class="{"right" if score >= HALF else "wrong"}">{html.escape(said) or "(empty)"}</td>'
        for said, score in zip(flip.said, flip.scores, strict=True)
    )
    return f"<tr>{''.join(images)}<td>{words}</td><td>{html.escape(gold)}</td>{answers}</tr>"


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
    sides = read_side(cells[0], task), read_side(cells[1], task)
    found = flips(sides[0].items, sides[1].items)
    benchmark = TASKS[task]
    benchmark.require_files(data)
    asked = benchmark.read(data)
    questions = {question.key: question for question in asked.questions}
    references = (benchmark.references(data, asked.questions) if benchmark.references else None) or {}
    drawn = found[:limit]
    missing = [flip.id for flip in drawn if flip.id not in questions]
    if missing:
        raise ValueError(f"{data}: question {missing[0]} of {task} is not there; name the data the cells were asked on")
    names = sorted({flip.image for flip in drawn if questions[flip.id].image is not None})
    opened = {name: asked.pictures.open(name) for name in names}
    seen = [
        KeptTokens.of(side.record, device, model).draw(list(opened.values()))
        for side, model in zip(sides, models, strict=True)
    ]
    pictures = {name: tuple(one[index] for one in seen) for index, name in enumerate(opened)}
    golds = {flip.id: gold_of(references.get(flip.id, {})) for flip in drawn}
    folder = out / task
    write_text(folder / "diff.html", render_html(task, sides, found, questions, golds, pictures, limit))
    write_text(folder / "diff.json", json.dumps([asdict(flip) for flip in found], indent=1, ensure_ascii=False) + "\n")
    return found


def main(
    first: Annotated[Path, typer.Argument(help="Folder of cell A: <records>/cells/<cell>.")],
    second: Annotated[Path, typer.Argument(help="Folder of cell B.")],
    task: Annotated[list[str], typer.Option(help="Benchmark; repeatable.")],
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
            if name not in TASKS:
                raise ValueError(f"--task {name}: known are {', '.join(TASKS)}")
            found = compare(name, (first, second), data, out, limit, device, (first_model, second_model))
            lost = sum(flip.lost for flip in found)
            typer.echo(
                f"{name}: {len(found)} items differ, {lost} only {first.name} has right, {len(found) - lost} only "
                f"{second.name}; {out / name / 'diff.html'}"
            )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


app = typer.Typer(add_completion=False, rich_markup_mode=None)
app.command(epilog=EXAMPLE)(main)

if __name__ == "__main__":
    app()
