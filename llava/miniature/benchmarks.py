"""Write the miniature world in LLaVA's own layout: the instruction mix and the benchmark twins.

    python -m llava.miniature.benchmarks --out playground/data/miniature

Under `--out` (it mirrors playground/data of the public layout):
    llava_miniature_mix.json                     mix665k schema, images below in coco/ gqa/ ocr_vqa/ textvqa/ vg/
    eval/                                        mirrors playground/data/eval, see eval_sets
    world.json                                   what was asked for; written last: a half-written world is redone
Training rows come from one range of seeds and eval questions from another (world.SPLITS).
"""

import json
import logging
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Annotated, Any

import typer

from llava.miniature import questions as ask
from llava.miniature.eval_sets import EVAL_SETS, write_eval
from llava.miniature.files import paint, write_json
from llava.miniature.forms import in_wordings
from llava.miniature.questions import Asker, Question, choose_named
from llava.miniature.world import SPLITS, Scene, sample_scene, split_of

logger = logging.getLogger(__name__)

MIX_FILE = "llava_miniature_mix.json"
JUDGED_SETS = ("llavabench", "mmvet")  # which write_eval writes beside its own and does not name


@dataclass(frozen=True)
class Source:
    """One kind of training row: where its pictures lie and what it asks."""

    folder: str
    askers: tuple[Asker, ...]
    wants_text: bool | None
    share: float
    turns: int = 9


# Folders of the public mix; shares are roughly those of the public mix, reading a little more.
VQA = (ask.ask_existence, ask.ask_verify, ask.ask_count, ask.ask_count, ask.ask_ground, ask.ask_size, ask.ask_color)
GQA = (ask.ask_color, ask.ask_shape, ask.ask_left_right, ask.ask_above_below, ask.ask_verify)
READING = (ask.ask_word, ask.ask_digit, ask.ask_verify, ask.ask_count, ask.ask_existence)
REGION = (ask.ask_place, ask.ask_size, ask.ask_left_right, ask.ask_above_below)
CHOICE = (
    ask.choose_attribute,
    ask.choose_attribute,
    ask.choose_place,
    ask.choose_reading,
    ask.choose_ground,
    ask.choose_count,
    ask.choose_extreme,
    ask.choose_extreme,
)
SOURCES = {
    "vqa": Source("coco/train2017", VQA, None, 0.26),
    "choice": Source("coco/train2017", CHOICE, None, 0.27, turns=5),
    "gqa": Source("gqa/images", GQA, None, 0.18),
    "ocr_vqa": Source("ocr_vqa/images", READING, True, 0.08),
    "textvqa": Source("textvqa/train_images", READING, True, 0.08),
    "vg": Source("vg/VG_100K", REGION, None, 0.09),
}
TEXT_SHARE = 0.04


def mix_row(seed: int) -> tuple[dict[str, Any], Scene | None]:
    """One row of the mix, of the kind its seed draws, and the scene to paint for it (None: text only).

    Half of the rows ask in the wordings of the public question files. The public mix has few of them, but a small
    projector tuned without them takes such questions for others afterwards (LOG.md, 2026-11-27).
    """
    rng = Random(f"row-{seed}")
    name = rng.choices([*SOURCES, "text"], [*(source.share for source in SOURCES.values()), TEXT_SHARE])[0]
    if name == "text":
        return {"id": f"{seed:09d}", "conversations": talk(arithmetic(rng, 4))}, None
    source = SOURCES[name]
    scene = sample_scene(seed, source.wants_text)
    asked = ask_some(scene, rng, source.askers, source.turns)
    lines = in_wordings(asked, scene, rng) if rng.random() < 0.5 else lines_of(asked, rng)
    return picture_row(seed, f"{source.folder}/{seed:09d}.jpg", lines), scene


def ask_some(scene: Scene, rng: Random, askers: Sequence[Asker], turns: int) -> list[Question]:
    """At most `turns` different questions, at least one: a scene does not allow every question."""
    asked: list[Question] = []
    for _ in range(turns * 4):
        question = rng.choice(askers)(scene, rng)
        if question is not None and question.text not in {other.text for other in asked}:
            asked.append(question)
        if len(asked) == turns:
            break
    # say, two equal things and nothing else: no relation, no place
    return asked or [Question("ground", "What is the background?", scene.ground)]


def lines_of(asked: Sequence[Question], rng: Random, again: float = 0.0) -> list[tuple[str, str]]:
    """(human, assistant) pairs. Options state their answer format each time; short questions state it first, as in the
    public mix, and later with probability `again`."""
    lines = []
    for number, question in enumerate(asked):
        if question.options:
            lines.append((question.prompt, question.answer))
        else:
            stated = number == 0 or (again > 0 and rng.random() < again)
            lines.append((question.prompt if stated else question.text, question.answer))
    return lines


def picture_row(seed: int, image: str, lines: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """A row of the public schema that shows its picture with the first line."""
    (first, answer), *rest = lines
    return {"id": f"{seed:09d}", "image": image, "conversations": talk([(f"<image>\n{first}", answer), *rest])}


def write_mix(out: Path, file: str, seeds: range, split: str, workers: int) -> None:
    """Write `out/file` and its pictures, one row a seed.

    Raises: ValueError when a seed is not of the split: training rows must never share scenes with another split.
    """
    for seed in (seeds[0], seeds[-1]):
        if split_of(seed) != split:
            raise ValueError(
                f"seed {seed} belongs to split {split_of(seed)!r}, not to {split!r}; choose seeds in {SPLITS[split]}"
            )
    rows, pictures = [], []
    for seed in seeds:
        row, scene = mix_row(seed)
        rows.append(row)
        if scene is not None:
            pictures.append((out / row["image"], scene))
    paint(pictures, workers)
    write_json(out / file, rows)
    logger.info("%s: %d rows, %d pictures", file, len(rows), len(pictures))


def write_world(out: Path, rows: int, questions: int, workers: int) -> bool:
    """Write everything under `out`; False when it was there already with the same numbers.

    The mix and the eval sets are two parts, each noted in world.json when it is complete: a part that is noted with the
    same numbers is left alone.
    """
    shares = {name: source.share for name, source in SOURCES.items()}
    wanted = {
        "mix": {"rows": rows, "sources": shares, "wordings": "half public"},
        "eval": {"questions": questions, "sets": list(EVAL_SETS), "wordings": "public"},  # some had their own once
    }
    record = out / "world.json"
    done = json.loads(record.read_text()) if record.exists() else {}
    if done == wanted:
        logger.info("%s is complete; nothing to do", out)
        return False
    if done.get("mix") != wanted["mix"]:
        record.unlink(missing_ok=True)
        for stale in sorted({source.folder.split("/")[0] for source in SOURCES.values()}):
            shutil.rmtree(out / stale, ignore_errors=True)
        write_mix(out, MIX_FILE, SPLITS["tune"][:rows], "tune", workers)
    write_json(record, {"mix": wanted["mix"]})
    write_eval(out, questions, workers)
    for name in JUDGED_SETS:
        logger.info("eval set %s: done", name)
    write_json(record, wanted)
    return True


def talk(lines: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    """(human, assistant) pairs as a conversation of the public schema."""
    return [
        {"from": speaker, "value": value}
        for human, assistant in lines
        for speaker, value in (("human", human), ("gpt", assistant))
    ]


def option_drill(rng: Random, count: int) -> list[tuple[str, str]]:
    """`count` text-only turns: find the option that was named, say its letter."""
    return [(question.prompt, question.answer) for question in (choose_named(rng) for _ in range(count))]


def arithmetic(rng: Random, count: int) -> list[tuple[str, str]]:
    """`count` text-only turns: sums whose answers stay one digit."""
    turns = []
    for _ in range(count):
        first = rng.randint(0, 5)
        second = rng.randint(0, 9 - first)
        turns.append((f"How many are {first} and {second}?", str(first + second)))
    return turns


def main(
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("playground/data/miniature"),
    rows: Annotated[int, typer.Option(help="Rows of the instruction mix.")] = 8_000,
    questions: Annotated[int, typer.Option(help="Questions a benchmark twin.")] = 200,
    workers: Annotated[int, typer.Option(help="Processes that paint.")] = 2,
) -> None:
    """Write the miniature world: instruction mix, pictures and benchmark twins.

    Example: python -m llava.miniature.benchmarks --out playground/data/miniature
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    write_world(out, rows, questions, workers)


if __name__ == "__main__":
    typer.run(main)
