"""Write the miniature world in LLaVA's own layout: the instruction mix and the question files of eight benchmarks.

    python -m llava.miniature.benchmarks --out playground/data/miniature

Under `--out` (it mirrors playground/data of the public layout):
    llava_miniature_mix.json                     mix665k schema, images below in coco/ gqa/ ocr_vqa/ textvqa/ vg/
    eval/images/*.jpg
    eval/<task>/questions.jsonl                  {"question_id", "image", "text", "category"}
    eval/<task>/answers.json                     {question_id: {"answer", "answers"}}
    world.json                                   what was asked for; written last: a half-written world is redone
Training rows come from one range of seeds and eval questions from another (world.SPLITS).
"""

import json
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Annotated, Any

import typer

from llava.miniature import questions as ask
from llava.miniature.questions import LETTER, PLACES, Asker, Question
from llava.miniature.world import COLORS, GROUNDS, SHAPES, SPLITS, WORDS, Scene, render, sample_scene, split_of

logger = logging.getLogger(__name__)

MIX_FILE = "llava_miniature_mix.json"
JPEG_QUALITY = 92


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


@dataclass(frozen=True)
class Task:
    """One benchmark twin: how to ask one scene. `ask_all` returns the questions of a picture (none: scene unfit)."""

    ask_all: Callable[[Scene, Random], tuple[Question, ...]]
    wants_text: bool | None = None


def _one_of(*askers: Asker) -> Callable[[Scene, Random], tuple[Question, ...]]:
    def asked(scene: Scene, rng: Random) -> tuple[Question, ...]:
        question = rng.choice(askers)(scene, rng)
        return (question,) if question else ()

    return asked


def _pope(scene: Scene, rng: Random) -> tuple[Question, ...]:
    kind = rng.choice(("random", "popular", "adversarial"))
    return ask.present(scene, rng, kind), ask.absent(scene, rng, kind, kind)


def _mme(scene: Scene, rng: Random) -> tuple[Question, ...]:
    return ask.mme_pair(scene, rng, rng.choice(tuple(ask.MME))) or ()


TASKS: dict[str, Task] = {
    "gqa": Task(_one_of(ask.ask_color, ask.ask_shape, ask.ask_left_right, ask.ask_above_below)),
    "pope": Task(_pope),
    "vqav2": Task(_one_of(ask.ask_count, ask.ask_ground, ask.ask_size)),
    "textvqa": Task(_one_of(ask.ask_word, ask.ask_digit), wants_text=True),
    "mme": Task(_mme, wants_text=None),
    "mmbench": Task(_one_of(ask.choose_attribute, ask.choose_place)),
    "seed": Task(_one_of(ask.choose_count, ask.choose_ground, ask.choose_reading)),
    "sqa": Task(_one_of(ask.choose_extreme)),
}


def mix_row(seed: int) -> tuple[dict[str, Any], Scene | None]:
    """One row of the mix, of the kind its seed draws, and the scene to paint for it (None: text only)."""
    rng = Random(f"row-{seed}")
    name = rng.choices([*SOURCES, "text"], [*(source.share for source in SOURCES.values()), TEXT_SHARE])[0]
    if name == "text":
        return {"id": f"{seed:09d}", "conversations": talk(arithmetic(rng, 4))}, None
    source = SOURCES[name]
    scene = sample_scene(seed, source.wants_text)
    asked = ask_some(scene, rng, source.askers, source.turns)
    return picture_row(seed, f"{source.folder}/{seed:09d}.jpg", lines_of(asked, rng)), scene


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
            lines.append((_context(rng) + question.prompt, question.answer))
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
    _write_json(out / file, rows)
    logger.info("%s: %d rows, %d pictures", file, len(rows), len(pictures))


def write_task(out: Path, name: str, count: int, first_seed: int, workers: int) -> None:
    """Write eval/<name> with at least `count` questions from test scenes."""
    task = TASKS[name]
    questions, answers, pictures = [], {}, []
    for seed in _seeds("test", first_seed):
        scene = sample_scene(seed, task.wants_text)
        asked = task.ask_all(scene, Random(f"{name}-{seed}"))
        for question in asked:
            number = len(questions)
            image = f"{name}_{seed:09d}.jpg"
            text = "Context: N/A\n" + question.prompt if name == "sqa" else question.prompt
            questions.append({"question_id": number, "image": image, "text": text, "category": question.category})
            answers[str(number)] = {"answer": question.answer, "answers": [question.answer] * 10}
        if asked:
            pictures.append((out / "eval" / "images" / f"{name}_{seed:09d}.jpg", scene))
        if len(questions) >= count:
            break
    paint(pictures, workers)
    folder = out / "eval" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "questions.jsonl").write_text("".join(json.dumps(question) + "\n" for question in questions))
    _write_json(folder / "answers.json", answers)
    logger.info("eval/%s: %d questions, %d pictures", name, len(questions), len(pictures))


def write_world(out: Path, rows: int, questions: int, workers: int) -> bool:
    """Write everything under `out`; False when it was there already with the same numbers."""
    wanted = {"rows": rows, "questions": questions, "sources": {k: asdict(v)["share"] for k, v in SOURCES.items()}}
    done = out / "world.json"
    if done.exists() and json.loads(done.read_text()) == wanted:
        logger.info("%s is complete; nothing to do", out)
        return False
    for stale in ("eval", *sorted({source.folder.split("/")[0] for source in SOURCES.values()})):
        shutil.rmtree(out / stale, ignore_errors=True)
    done.unlink(missing_ok=True)
    write_mix(out, MIX_FILE, SPLITS["tune"][:rows], "tune", workers)
    for place, name in enumerate(TASKS):
        write_task(out, name, questions, place * 10_000, workers)
    _write_json(done, wanted)
    return True


def _seeds(split: str, first: int) -> Iterator[int]:
    yield from SPLITS[split][first : first + 10_000]
    raise ValueError(f"10000 scenes of split {split!r} from {first} on gave too few questions; ask for fewer")


def paint(pictures: Iterable[tuple[Path, Scene]], workers: int) -> None:
    """Write each scene as a JPEG; folders are made."""
    jobs = list(pictures)
    for folder in {path.parent for path, _ in jobs}:
        folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(workers) as pool:
        for done, _ in enumerate(pool.map(_paint, jobs, chunksize=64)):
            if done and done % 2000 == 0:
                logger.info("painted %d of %d pictures", done, len(jobs))


def _paint(job: tuple[Path, Scene]) -> None:
    path, scene = job
    render(scene).save(path, quality=JPEG_QUALITY)


def talk(lines: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    """(human, assistant) pairs as a conversation of the public schema."""
    return [
        {"from": speaker, "value": value}
        for human, assistant in lines
        for speaker, value in (("human", human), ("gpt", assistant))
    ]


def option_drill(rng: Random, count: int) -> list[tuple[str, str]]:
    """`count` text-only turns: find the option that was named, say its letter."""
    turns = []
    for _ in range(count):
        words = rng.sample([*COLORS, *SHAPES, *GROUNDS, *WORDS, *PLACES], rng.choice((3, 4)))
        named = rng.choice(words)
        question = Question("option", f"Which option is {named}?", "ABCD"[words.index(named)], tuple(words), LETTER)
        turns.append((question.prompt, question.answer))
    return turns


def _context(rng: Random) -> str:
    return "Context: N/A\n" if rng.random() < 0.3 else ""


def arithmetic(rng: Random, count: int) -> list[tuple[str, str]]:
    """`count` text-only turns: sums whose answers stay one digit."""
    turns = []
    for _ in range(count):
        first = rng.randint(0, 5)
        second = rng.randint(0, 9 - first)
        turns.append((f"How many are {first} and {second}?", str(first + second)))
    return turns


def _write_json(path: Path, value: Any) -> None:
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(value, indent=1) + "\n")
    partial.replace(path)


def main(
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("playground/data/miniature"),
    rows: Annotated[int, typer.Option(help="Rows of the instruction mix.")] = 8_000,
    questions: Annotated[int, typer.Option(help="Questions a benchmark twin.")] = 200,
    workers: Annotated[int, typer.Option(help="Processes that paint.")] = 2,
) -> None:
    """Write the miniature world: instruction mix, pictures and eval question files.

    Example: python -m llava.miniature.benchmarks --out playground/data/miniature
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    write_world(out, rows, questions, workers)


if __name__ == "__main__":
    typer.run(main)
