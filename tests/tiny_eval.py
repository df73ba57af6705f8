"""The smallest eval root in the public layout: a few questions of each benchmark, written by hand, with the traps of
the real files: ids shared or numbered anew, other order, other wording, nested folders, rotations, no annotations."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

from llava.eval.records import Answer, write_lines
from llava.eval.tasks import TASKS

SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."
TEN_RED = ["red"] * 10


def write_root(root: Path) -> Path:
    """All ten benchmarks below `root`."""
    for write in (_gqa, _pope, _vqav2, _vizwiz, _textvqa, _mme, _mmbench, _seed, _sqa):
        write(root)
    return root


def answer_file(root: Path, task: str, path: str, *texts: str) -> Path:
    """Answers to a benchmark's questions, in reversed order: nothing may be paired by place."""
    questions = TASKS[task].read(root).questions
    made = [Answer(one.question_id, one.text, text, "m") for one, text in zip(questions, texts, strict=True)]
    write_lines(root / path, [one.to_row() for one in made[::-1]])
    return root / path


def jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def dump(path: Path, value: Any) -> None:
    text(path, json.dumps(value, ensure_ascii=False))


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


def picture(path: Path, shade: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), (200, shade, 40)).save(path)


def encoded(shade: int) -> str:
    stream = io.BytesIO()
    Image.new("L", (20, 20), shade).save(stream, "PNG")  # grey, so that who forgets to convert is found out
    return base64.b64encode(stream.getvalue()).decode()


def ask(key: Any, image: str, words: str, category: str = "default", suffix: str = SHORT) -> dict[str, Any]:
    return {"question_id": key, "image": image, "text": f"{words}\n{suffix}", "category": category}


def _gqa(root: Path) -> None:
    rows = [ask("201", "1.jpg", "Is it red?"), ask("202", "1.jpg", "What is it?")]
    jsonl(root / "gqa/llava_gqa_testdev_balanced.jsonl", rows)
    picture(root / "gqa/data/images/1.jpg")
    kinds = {"203": ("yes", "verify", "attr"), "202": ("dog", "query", "obj"), "201": ("yes", "verify", "attr")}
    dump(
        root / "gqa/data/testdev_balanced_questions.json",
        {
            key: {"imageId": "1", "answer": answer, "types": {"structural": one, "semantic": two, "detailed": "x"}}
            for key, (answer, one, two) in kinds.items()
        },
    )


def pope_labels(category: str) -> list[dict[str, Any]]:
    rows = [("cat", "yes"), ("dog", "no"), ("cow", "yes")] if category != "popular" else [("cat", "yes"), ("hen", "no")]
    return [
        {"question_id": n, "image": "COCO_1.jpg", "text": f"Is there a {what} in the image?", "label": label}
        for n, (what, label) in enumerate(rows, start=1)
    ]


def _pope(root: Path) -> None:
    asked = [("cat", "adversarial"), ("dog", "adversarial"), ("cat", "popular"), ("dog", "random"), ("cat", "random")]
    rows = [ask(n, "COCO_1.jpg", f"Is there a {w} in the image?", c) for n, (w, c) in enumerate(asked, start=1)]
    jsonl(root / "pope/llava_pope_test.jsonl", rows)
    picture(root / "pope/val2014/COCO_1.jpg")
    for category in ("random", "popular", "adversarial"):
        jsonl(root / f"pope/coco/coco_pope_{category}.json", pope_labels(category))


def _vqav2(root: Path) -> None:
    rows = [ask(n, "COCO_test2015_000000000001.jpg", f"What {n}?") for n in (11, 12, 13)]
    jsonl(root / "vqav2/llava_vqav2_mscoco_test2015.jsonl", rows)
    jsonl(root / "vqav2/llava_vqav2_mscoco_test-dev2015.jsonl", rows[1:])
    picture(root / "vqav2/test2015/COCO_test2015_000000000001.jpg")


def vqav2_annotations(*keys: int) -> dict[str, Any]:
    answers = [{"answer_id": n, "answer": "red", "answer_confidence": "yes"} for n in range(1, 11)]
    return {"annotations": [{"question_id": key, "answer_type": "other", "answers": answers} for key in keys]}


def _vizwiz(root: Path) -> None:
    images = ["VizWiz_test_00000000.jpg", "VizWiz_test_00000001.jpg"]
    jsonl(root / "vizwiz/llava_test.jsonl", [ask(n, image, "What? ") for n, image in enumerate(images)])
    for image in images:
        picture(root / "vizwiz/test" / image)
    dump(root / "vizwiz/test.json", [{"image": image, "question": "What?"} for image in images[::-1]])


def _textvqa(root: Path) -> None:
    words = ["What Brand is it?\nReference OCR token: A, B", "what year is it?\nReference OCR token: A, B"]
    rows = [ask("0a1b", "0a1b.jpg", line) for line in words]
    jsonl(root / "textvqa/llava_textvqa_val_v051_ocr.jsonl", rows)
    picture(root / "textvqa/train_images/0a1b.jpg")
    data = [("What year is it?", ["1999"] * 10), ("What brand is it?", TEN_RED)]
    labels = [
        {"question_id": 34602 + n, "question": question, "image_id": "0a1b", "answers": answers}
        for n, (question, answers) in enumerate(data)
    ]
    dump(root / "textvqa/TextVQA_0.5.1_val.json", {"data": labels})


def _mme(root: Path) -> None:
    pictures = [("posters", "posters/images/tt1.jpg", "posters/questions_answers_YN"), ("OCR", "OCR/0001.png", "OCR")]
    release = root / "MME/MME_Benchmark_release_version"
    rows = []
    for category, image, labels in pictures:
        # the release writes two blanks in places, and its own suffix; LLaVA's file has neither
        text(
            release / labels / f"{Path(image).stem}.txt",
            "Is it  a film? Please answer yes or no.\tYes\nIs it a map?  Please answer yes or no.\tNo\n",
        )
        picture(release / image)
        rows += [ask(image, image, words, category) for words in ("Is it a map?", "Is it a film?")]
    jsonl(root / "MME/llava_mme.jsonl", rows)


MMBENCH_COLUMNS = "index question hint A B C D answer category image source l2-category comment split".split()


def mmbench_rows() -> list[list[str]]:
    more = ["src", "l2", "", "dev"]
    return [
        ["7", "What?", "Look.", "cat", "dog", "", "", "B", "animal", encoded(10), *more],
        ["8", "Where?", "", "None", "left", "right", "", "A", "place", encoded(20), *more],
        ["1000007", "What?", "Look.", "dog", "cat", "", "", "A", "animal", "7", *more],
        ["1000008", "Where?", "", "left", "right", "None", "", "C", "place", encoded(20), *more],
    ]


def write_mmbench(file: Path, rows: list[list[str]]) -> None:
    text(file, "".join("\t".join(row) + "\n" for row in [MMBENCH_COLUMNS, *rows]))


def _mmbench(root: Path) -> None:
    write_mmbench(root / "mmbench/mmbench_dev_20230712.tsv", mmbench_rows())
    write_mmbench(root / "mmbench_cn/mmbench_dev_cn_20231003.tsv", mmbench_rows())


def _seed(root: Path) -> None:
    folders = {"101": "SEED-Bench-image/101", "v7": "SEED-Bench-video-image/10_v7.png"}
    picture(root / "seed_bench/SEED-Bench-video-image/10_v7.png")
    picture(root / "seed_bench/101.png")
    (root / "seed_bench/SEED-Bench-image").mkdir(parents=True)
    (root / "seed_bench/101.png").rename(root / "seed_bench/SEED-Bench-image/101")  # pictures without an ending
    rows = [ask(key, image, "What?\nA. a\nB. b\nC. c\nD. d", suffix=LETTER) for key, image in folders.items()]
    jsonl(root / "seed_bench/llava-seed-bench.jsonl", rows)
    labels = [
        {"question_id": key, "answer": "A", "data_type": kind, "question_type_id": number}
        for key, kind, number in (("v7", "video", 10), ("v8", "video", 10), ("101", "image", 1))
    ]
    types = {"Scene Understanding": 1, "Action Recognition": 10}
    dump(root / "seed_bench/SEED-Bench.json", {"question_type": types, "questions": labels})


def _sqa(root: Path) -> None:
    turns = [{"from": "human", "value": "<image>\nContext: c\nWhat?\nA. a\nB. b"}, {"from": "gpt", "value": "B"}]
    plain = [{"from": "human", "value": "Which?\nA. a\nB. b\nC. c"}, {"from": "gpt", "value": "C"}]
    rows = [{"id": "4", "conversations": plain}, {"id": "5", "image": "5/image.png", "conversations": turns}]
    dump(root / "scienceqa/llava_test_CQM-A.json", rows)
    picture(root / "scienceqa/images/test/5/image.png")
    problems = {
        "4": {"choices": ["a", "b", "c"], "answer": 2, "image": None},
        "5": {"choices": ["a", "b"], "answer": 1, "image": "image.png"},
        "6": {"choices": ["a", "b"], "answer": 0, "image": None},
    }
    dump(root / "scienceqa/problems.json", problems)
    dump(root / "scienceqa/pid_splits.json", {"train": ["6"], "test": ["4", "5"]})
