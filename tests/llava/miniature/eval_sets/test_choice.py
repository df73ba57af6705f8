"""ScienceQA, MMBench and SEED: public files and keys, joins, rotations, and letters true of the scene."""

import base64
import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from llava.miniature.world import SPLITS, render, sample_scene

LETTER = "Answer with the option's letter from the given choices directly."
PLAIN = 1_000_000  # indices below are questions as they are; above, their rotations
TABLES = ("mmbench/mmbench_dev_20230712.tsv", "mmbench_cn/mmbench_dev_cn_20231003.tsv")


def test_sqa(root, whole):
    rows, problems = whole("scienceqa/llava_test_CQM-A.json"), whole("scienceqa/problems.json")
    assert whole("scienceqa/pid_splits.json")["test"] == [row["id"] for row in rows]
    assert set(problems) == {row["id"] for row in rows}
    pictured = [row for row in rows if "image" in row]
    assert len(pictured) == 40 and len(rows) == 50
    assert sum(bool(problem["hint"]) for problem in problems.values()) == 8
    for row in rows:
        problem, (human, assistant) = problems[row["id"]], row["conversations"]
        assert set(problem) == {
            "question", "choices", "answer", "hint", "image", "subject", "topic", "grade", "split",
        }  # fmt: skip
        lettered = "\n".join(f"{letter}. {choice}" for letter, choice in zip("ABCDE", problem["choices"], strict=False))
        context = f"Context: {problem['hint']}\n" if problem["hint"] else ""
        text = f"{context}{problem['question']}\n{lettered}"
        assert human == {"from": "human", "value": f"<image>\n{text}" if "image" in row else text}
        assert assistant == {"from": "gpt", "value": "ABCDE"[problem["answer"]]}
        assert problem["split"] == "test" and problem["image"] == ("image.png" if "image" in row else None)
        gold = problem["choices"][problem["answer"]]
        if "image" not in row:
            assert problem["question"] == f"Which option is {gold}?"
            continue
        assert row["image"] == f"{row['id']}/image.png"
        with Image.open(root / "scienceqa/images/test" / row["image"]) as picture:
            assert picture.format == "PNG"
        side = problem["question"].removesuffix("?").split()[-1]
        assert problem["hint"] in ("", f"The background is {sample_scene(int(row['id'])).ground}.")
        axis, sign = {"left": (0, 1), "right": (0, -1), "top": (1, 1), "bottom": (1, -1)}[side]
        things = sample_scene(int(row["id"])).things
        assert min(things, key=lambda thing: sign * thing.center[axis]).shape == gold


@pytest.mark.parametrize("name", TABLES)
def test_mmbench(root, name):
    table = pd.read_csv(root / name, sep="\t")
    assert list(table.columns) == [
        *("index", "question", "hint", "A", "B", "C", "D", "answer"),
        *("category", "image", "source", "l2-category", "comment", "split"),
    ]
    plain = table[table["index"] < PLAIN].set_index("index")
    assert table["index"].is_unique and len(plain) == 20 and 0 < table["hint"].notna().mean() < 1
    turned = {}
    for row in table.to_dict("records"):
        first = plain.loc[row["index"] % PLAIN]
        options = [row[letter] for letter in "ABCD" if isinstance(row[letter], str)]
        assert [isinstance(row[letter], str) for letter in "ABCD"[: len(options)]] == [True] * len(options)
        assert row["question"] == first["question"] and row[row["answer"]] == first[first["answer"]]
        turned.setdefault(row["index"] % PLAIN, set()).add(tuple(options))
        if row["index"] >= PLAIN:
            assert row["image"] == str(row["index"] % PLAIN), "pictures lie in the first row of a question only"
    for index, row in plain.iterrows():
        options = next(iter(turned[index]))
        assert len(turned[index]) == len(options), "every option stands in every place once"
        scene = sample_scene(SPLITS["test"].start + int(index))
        with Image.open(io.BytesIO(base64.b64decode(row["image"]))) as picture:
            assert np.abs(np.asarray(picture, float) - np.asarray(render(scene), float)).mean() < 8
        if row["question"].startswith("What color"):
            shape = row["question"].removesuffix("?").split()[-1]
            assert {thing.color for thing in scene.things if thing.shape == shape} == {row[row["answer"]]}


def test_a_missing_option_is_an_empty_cell(root):
    table = pd.read_csv(root / TABLES[1], sep="\t")
    assert table["C"].notna().all() and table["D"].isna().any()


def test_seed(root, lines, whole):
    asked, file = lines("seed_bench/llava-seed-bench.jsonl"), whole("seed_bench/SEED-Bench.json")
    labels = {row["question_id"]: row for row in file["questions"]}
    assert set(file) == {"question_type", "questions"} and len(asked) == len(labels) == 40
    assert {row["data_type"] for row in labels.values()} == {"image", "video"}
    for row in asked:
        label = labels[row["question_id"]]
        assert set(row) == {"question_id", "image", "text", "category"}
        assert set(label) == {
            *("question_id", "question", "choice_a", "choice_b", "choice_c", "choice_d", "answer"),
            *("data_id", "data_type", "question_type_id"),
        }
        options = [label[f"choice_{letter}"] for letter in "abcd"]
        lettered = [f"{letter}. {option}" for letter, option in zip("ABCD", options, strict=True)]
        assert row["text"].split("\n") == [label["question"], *lettered, LETTER]
        assert label["question_type_id"] in file["question_type"].values()
        assert (label["question_type_id"] >= 10) == (label["data_type"] == "video")
        folder = {"image": "SEED-Bench-image", "video": "SEED-Bench-video-image"}[label["data_type"]]
        assert row["image"].split("/")[0] == folder
        if label["data_type"] == "image":
            assert row["image"].endswith(f"/{label['data_id']}")
        with Image.open(root / "seed_bench" / row["image"]) as picture:
            assert picture.size == sample_scene(int(row["question_id"])).size
        if label["question"] == "What is the background?":
            assert options["ABCD".index(label["answer"])] == sample_scene(int(row["question_id"])).ground
