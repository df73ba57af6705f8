"""Twins whose answers are the letter of an option: ScienceQA, MMBench, MMBench-CN, SEED."""

import io
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd

from llava.miniature import questions as ask
from llava.miniature.eval_sets.scenes import Asked, ask_scenes, one_of, seeds_of
from llava.miniature.files import encode, paint, write_json, write_lines
from llava.miniature.forms import HINT_SHARE, hint_of
from llava.miniature.questions import Question
from llava.miniature.world import SPLITS
from llava.utils import write_text

ROTATION = 1_000_000  # added to a question's index for each place its options are rotated by
# Families as (category, l2-category) of MMBench and as (number, name) of SEED's types: of pictures, of videos.
MMBENCH_CATEGORIES = {
    "attribute": ("attribute_recognition", "finegrained_perception (instance-level)"),
    "place": ("object_localization", "finegrained_perception (instance-level)"),
    "extreme": ("spatial_relationship", "relation_reasoning"),
}
SEED_TYPES = {
    "Scene Understanding": 1,
    "Instances Counting": 5,
    "Text Understanding": 9,
    "Action Recognition": 10,
    "Action Prediction": 11,
    "Procedure Understanding": 12,
}
SEED_OF_FAMILY = {"ground": (1, 10), "count": (5, 11), "word": (9, 12), "number": (9, 12)}
MMBENCH_COLUMNS = (
    *("index", "question", "hint", "A", "B", "C", "D", "answer"),
    *("category", "image", "source", "l2-category", "comment", "split"),
)


ask_sqa = one_of(ask.choose_extreme)
ask_mmbench = one_of(ask.choose_attribute, ask.choose_place)
ask_seed = one_of(ask.choose_count, ask.choose_ground, ask.choose_reading)


def turned(question: Question, turn: int) -> tuple[tuple[str, ...], str]:
    """The options rotated by `turn` places to the left, and the letter that is right then."""
    options = (*question.options[turn:], *question.options[:turn])
    return options, "ABCD"[options.index(question.options["ABCD".index(question.answer)])]


def write_sqa(folder: Path, count: int, workers: int) -> None:
    """test: `count` questions with a picture, every fifth with a hint, and one without after every fourth of them."""
    here = folder / "scienceqa"
    rows, problems, pictures = [], {}, []
    text_only = iter(seeds_of("sqa")[::-1])
    for number, one in enumerate(ask_scenes("sqa", count, ask_sqa), 1):
        asked: list[tuple[int, Question, bool]] = [(one.scene.seed, one.questions[0], True)]
        if number % 4 == 0:
            seed = next(text_only)
            asked.append((seed, ask.choose_named(Random(f"sqa-{seed}")), False))
        for seed, question, pictured in asked:
            hint = hint_of(one.scene) if pictured and number % 5 == 0 else ""
            rows.append(_sqa_row(str(seed), question, pictured, hint))
            problems[str(seed)] = _sqa_problem(question, pictured, hint)
        pictures.append((here / "images" / "test" / str(one.scene.seed) / "image.png", one.scene))
    paint(pictures, workers)
    write_json(here / "llava_test_CQM-A.json", rows)
    write_json(here / "problems.json", problems)
    write_json(here / "pid_splits.json", {"train": [], "val": [], "test": [row["id"] for row in rows]})


def _sqa_row(identity: str, question: Question, pictured: bool, hint: str) -> dict[str, Any]:
    text = "\n".join([*([f"Context: {hint}"] if hint else []), question.text, *_lettered(question)])
    return {
        "id": identity,
        **({"image": f"{identity}/image.png"} if pictured else {}),
        "conversations": [
            {"from": "human", "value": f"<image>\n{text}" if pictured else text},
            {"from": "gpt", "value": question.answer},
        ],
    }


def _sqa_problem(question: Question, pictured: bool, hint: str) -> dict[str, Any]:
    return {
        "question": question.text,
        "choices": list(question.options),
        "answer": "ABCD".index(question.answer),
        "hint": hint,
        "image": "image.png" if pictured else None,
        "subject": "natural science" if pictured else "language science",
        "topic": "physics" if pictured else "vocabulary",
        "grade": "grade2",
        "split": "test",
    }


def write_mmbench(folder: Path, count: int, workers: int) -> None:
    """dev, every question with all rotations of its options: half as many questions as elsewhere, twice the rows."""
    asked = ask_scenes("mmbench", -(-count // 2), ask_mmbench)
    _write_table(folder / "mmbench" / "mmbench_dev_20230712.tsv", asked, workers)


def write_mmbench_cn(folder: Path, count: int, workers: int) -> None:
    """dev in the Chinese file's layout. Some questions have three options.

    Its text stays English, which is all the miniature's model reads; the program that asks adds the Chinese suffix.
    """
    asked = ask_scenes("mmbench_cn", -(-count // 2), one_of(ask.choose_attribute, ask.choose_place, ask.choose_extreme))
    _write_table(folder / "mmbench_cn" / "mmbench_dev_cn_20231003.tsv", asked, workers)


def _write_table(path: Path, asked: Sequence[Asked], workers: int) -> None:
    """All questions as they are, then all rotated by one, and so on. A picture lies in the first row of its question;
    the others name that row."""
    pictures = encode([one.scene for one in asked], workers)
    rows = []
    for turn in range(4):
        for one, picture in zip(asked, pictures, strict=True):
            if turn < len(one.questions[0].options):
                rows.append(_mmbench_row(one, turn, picture))
    written = io.StringIO()
    pd.DataFrame(rows, columns=list(MMBENCH_COLUMNS)).to_csv(written, sep="\t", index=False)
    write_text(path, written.getvalue())


def _mmbench_row(one: Asked, turn: int, picture: str) -> dict[str, Any]:
    """The row whose options are rotated by `turn` places to the left; turn 0 holds the picture."""
    (question,), scene = one.questions, one.scene
    index = scene.seed - SPLITS["test"].start
    options, answer = turned(question, turn)
    category, group = MMBENCH_CATEGORIES[question.category]
    hinted = Random(f"mmbench-hint-{scene.seed}").random() < HINT_SHARE
    return {
        "index": index + turn * ROTATION,
        "question": question.text,
        "hint": hint_of(scene) if hinted else None,
        **dict(zip("ABCD", options, strict=False)),
        "answer": answer,
        "category": category,
        "image": index if turn else picture,
        "source": "miniature",
        "l2-category": group,
        "split": "dev",
    }


def write_seed(folder: Path, count: int, workers: int) -> None:
    """Pictures and, for every fourth scene, videos, of which the public layout keeps the middle frame."""
    asked = ask_scenes("seed", count, ask_seed)
    here = folder / "seed_bench"
    lines, annotations, pictures = [], [], []
    for one in asked:
        (question,), seed = one.questions, one.scene.seed
        video = seed % 4 == 0
        kind = SEED_OF_FAMILY[question.category][video]
        image = f"SEED-Bench-video-image/{kind}_{seed}.png" if video else f"SEED-Bench-image/{seed}_{seed}"
        lines.append({"question_id": str(seed), "image": image, "text": question.prompt, "category": str(kind)})
        annotations.append({
            "question_id": str(seed),
            "question": question.text,
            **{f"choice_{letter}": option for letter, option in zip("abcd", question.options, strict=True)},
            "answer": question.answer,
            "data_id": f"{seed}.mp4" if video else f"{seed}_{seed}",
            "data_type": "video" if video else "image",
            "question_type_id": kind,
        })
        pictures.append((here / image, one.scene))
    paint(pictures, workers)
    write_lines(here / "llava-seed-bench.jsonl", lines)
    write_json(here / "SEED-Bench.json", {"question_type": SEED_TYPES, "questions": annotations})


def _lettered(question: Question) -> list[str]:
    return [f"{letter}. {option}" for letter, option in zip("ABCD", question.options, strict=False)]
