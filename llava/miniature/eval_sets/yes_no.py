"""Twins that ask for yes or no: POPE and MME."""

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from llava.miniature import questions as ask
from llava.miniature.eval_sets.scenes import Asked, ask_scenes, scenes_of
from llava.miniature.files import paint, write_lines
from llava.miniature.forms import shortly
from llava.miniature.questions import YES_NO, Question
from llava.miniature.world import DIGITS, GROUNDS, Scene
from llava.utils import write_text

POPE_KINDS = ("random", "popular", "adversarial")
Pair = tuple[str, str]  # a question to be answered yes, one to be answered no


def write_pope(folder: Path, count: int, workers: int) -> None:
    """One question file with ids that run through all three categories; a label file a category, with ids of its own,
    in another order and with a few rows that are not asked."""
    asked = ask_scenes("pope", count, ask_pope)
    here = folder / "pope"
    lines: list[dict[str, Any]] = []
    for kind in POPE_KINDS:
        mine = [one for one in asked if one.questions[0].category == kind]
        for one in mine:
            for question in one.questions:
                row = {"image": _pope_image(one.scene), "text": question.prompt, "category": kind}
                lines.append({"question_id": len(lines), **row})
        write_lines(here / "coco" / f"coco_pope_{kind}.json", _pope_labels(mine, kind))
    paint([(here / "val2014" / _pope_image(one.scene), one.scene) for one in asked], workers)
    write_lines(here / "llava_pope_test.jsonl", lines)


def ask_pope(scene: Scene, rng: Random) -> tuple[Question, ...]:
    """A thing that is there and one that is not, both of a category drawn by chance."""
    kind = rng.choice(POPE_KINDS)
    return ask.present(scene, rng, kind), ask.absent(scene, rng, kind, kind)


def _pope_image(scene: Scene) -> str:
    return f"COCO_val2014_{scene.seed:012d}.jpg"


def _pope_labels(asked: list[Asked], kind: str) -> list[dict[str, Any]]:
    rows = [
        {"image": _pope_image(one.scene), "text": question.text, "label": question.answer}
        for one in asked
        for question in one.questions
    ]
    rng = Random(f"pope-labels-{kind}")
    for one in asked[::8]:
        more = ask.absent(one.scene, rng, "random", kind)
        if more.text not in {question.text for question in one.questions}:
            rows.append({"image": _pope_image(one.scene), "text": more.text, "label": more.answer})
    rng.shuffle(rows)
    return [{"question_id": number, **row} for number, row in enumerate(rows, 1)]


def write_mme(folder: Path, count: int, workers: int) -> None:
    """All fourteen categories by turns, two questions a picture; which of them comes first is chance.

    As in the public files the labels' wording ends in "Please answer yes or no."; the question file has the
    short-answer suffix instead.
    """
    names = tuple(MME_CATEGORIES)
    lines: list[dict[str, Any]] = []
    pictures = []
    release = folder / "MME" / "MME_Benchmark_release_version"
    for scene in scenes_of("mme"):
        category = names[len(pictures) % len(names)]
        rng = Random(f"mme-{scene.seed}")
        pair = MME_CATEGORIES[category](scene, rng)
        if pair is None:
            continue
        file = f"{scene.seed:012d}"
        inner = category in MME_NESTED
        image = f"{category}/images/{file}.jpg" if inner else f"{category}/{file}.jpg"
        gold = "".join(f"{text} {YES_NO}\t{answer}\n" for text, answer in zip(pair, ("Yes", "No"), strict=True))
        write_text(release / category / ("questions_answers_YN" if inner else "") / f"{file}.txt", gold)
        for text in rng.sample(pair, 2):
            row = {"question_id": image, "image": image}
            lines.append({**row, "text": shortly(text), "category": category})
        pictures.append((release / image, scene))
        if len(lines) >= count:
            break
    else:
        raise ValueError(f"mme: its test scenes gave only {len(lines)} questions; ask for fewer than {count}")
    paint(pictures, workers)
    write_lines(folder / "MME" / "llava_mme.jsonl", lines)


def _ground(scene: Scene, rng: Random) -> Pair | None:
    wrong = rng.choice([ground for ground in GROUNDS if ground != scene.ground])
    return f"Is the background {scene.ground}?", f"Is the background {wrong}?"


def _above(scene: Scene, rng: Random) -> Pair | None:
    pair = ask.pair_apart(scene, rng, axis=1)
    if pair is None:
        return None
    upper, lower = sorted(pair, key=lambda thing: thing.center[1])
    text = "Is the {} above the {}?"
    return text.format(upper.shape, lower.shape), text.format(lower.shape, upper.shape)


def _number_shown(scene: Scene, rng: Random) -> Pair | None:
    if scene.digit is None:
        return None
    wrong = rng.choice([digit for digit in DIGITS if digit != scene.digit.text])
    return f"Is the number shown {scene.digit.text}?", f"Is the number shown {wrong}?"


def _count_of_color(scene: Scene, rng: Random) -> Pair | None:
    color = rng.choice(scene.things).color
    return _count(rng, f"{color} objects", sum(thing.color == color for thing in scene.things))


def _count_of_shape(scene: Scene, rng: Random) -> Pair | None:
    shape = rng.choice(scene.things).shape
    return _count(rng, ask.plural(shape), sum(thing.shape == shape for thing in scene.things))


def _count(rng: Random, what: str, total: int) -> Pair:
    other = rng.choice([number for number in (total - 1, total + 1) if number >= 1])
    return f"Is the number of {what} {total}?", f"Is the number of {what} {other}?"


# Perception, then cognition. What the world has no likeness of (faces, film posters, code) asks about things in it.
MME_CATEGORIES: dict[str, Callable[[Scene, Random], Pair | None]] = {
    "existence": ask.MME["existence"],
    "count": ask.MME["count"],
    "position": ask.MME["position"],
    "color": ask.MME["color"],
    "posters": ask.MME["OCR"],
    "celebrity": ask.MME["existence"],
    "scene": _ground,
    "landmark": ask.MME["position"],
    "artwork": ask.MME["color"],
    "OCR": ask.MME["OCR"],
    "commonsense_reasoning": _above,
    "numerical_calculation": _count_of_color,
    "text_translation": _number_shown,
    "code_reasoning": _count_of_shape,
}
# These keep pictures in images/ and answers in questions_answers_YN/.
MME_NESTED = ("artwork", "celebrity", "landmark", "posters", "scene")
