"""POPE and MME: public files and keys, joins that cannot go by place, labels true of the scene."""

from collections import Counter
from pathlib import Path

from llava.miniature.eval_sets.yes_no import MME_CATEGORIES, MME_NESTED
from llava.miniature.world import sample_scene

SHORT = "Answer the question using a single word or phrase."
YES_NO = "Please answer yes or no."


def test_pope(root, lines):
    asked = lines("pope/llava_pope_test.jsonl")
    assert [row["question_id"] for row in asked] == list(range(len(asked))) and len(asked) >= 40
    labels = {}
    for kind in ("random", "popular", "adversarial"):
        rows = lines(f"pope/coco/coco_pope_{kind}.json")
        assert [row["question_id"] for row in rows] == list(range(1, len(rows) + 1))
        for row in rows:
            assert set(row) == {"question_id", "image", "text", "label"}
            assert (kind, row["image"], row["text"]) not in labels
            labels[kind, row["image"], row["text"]] = row["label"]
            name = row["text"].removesuffix(" in the image?").split(" ", 3)[3]
            scene = sample_scene(int(row["image"].removesuffix(".jpg").rsplit("_", 1)[1]))
            assert (row["label"] == "yes") == (name in {thing.name for thing in scene.things})
        mine = [(row["image"], row["text"].removesuffix(f"\n{SHORT}")) for row in asked if row["category"] == kind]
        assert mine and mine != [(row["image"], row["text"]) for row in rows][: len(mine)], "not by place"
    keys = [(row["category"], row["image"], row["text"].removesuffix(f"\n{SHORT}")) for row in asked]
    assert len(labels) > len(keys) == len(set(keys)), "the label files hold rows nobody asks"
    assert Counter(labels[key] for key in keys) == {"yes": len(keys) // 2, "no": len(keys) // 2}
    for row in asked:
        assert set(row) == {"question_id", "image", "text", "category"}
        assert (root / "pope/val2014" / row["image"]).is_file() and row["image"].startswith("COCO_val2014_")


def test_mme(root, lines):
    asked = lines("MME/llava_mme.jsonl")
    release = root / "MME" / "MME_Benchmark_release_version"
    assert {row["category"] for row in asked} == set(MME_CATEGORIES) == {path.name for path in release.iterdir()}
    assert len(MME_CATEGORIES) == 14
    orders = []
    for first, second in zip(asked[::2], asked[1::2], strict=True):
        assert first["question_id"] == second["question_id"] and first["image"] == second["image"]
        category, stem = first["category"], Path(first["image"]).stem
        nested = category in MME_NESTED
        assert first["question_id"] == first["image"]
        assert first["image"] == f"{category}/{'images/' if nested else ''}{stem}.jpg"
        assert (release / first["image"]).is_file()
        labels = release / category / ("questions_answers_YN" if nested else "") / f"{stem}.txt"
        gold = dict(line.split("\t") for line in labels.read_text().splitlines())
        assert sorted(gold.values()) == ["No", "Yes"] and all(text.endswith(f"? {YES_NO}") for text in gold)
        for row in (first, second):
            assert set(row) == {"question_id", "image", "text", "category"}
            assert row["text"].split("\n")[1] == SHORT
        orders.append(gold[f"{first['text'].splitlines()[0]} {YES_NO}"])
    assert set(orders) == {"Yes", "No"}, "either answer comes first at times"


def test_mme_labels_are_true_of_the_scene(root, lines):
    release = root / "MME" / "MME_Benchmark_release_version"
    checked = Counter()
    for file in release.rglob("*.txt"):
        scene = sample_scene(int(file.stem))
        category = file.relative_to(release).parts[0]
        for line in file.read_text().splitlines():
            text, label = line.split("\t")
            words = text.removesuffix(f"? {YES_NO}").split()
            names = {thing.shape: thing for thing in scene.things}
            true = {
                "numerical_calculation": lambda w, s: sum(t.color == w[4] for t in s.things) == int(w[-1]),
                "code_reasoning": lambda w, s: (
                    sum(t.shape == w[4].removesuffix("s").removesuffix("se") for t in s.things) == int(w[-1])
                    or sum(f"{t.shape}es" == w[4] for t in s.things) == int(w[-1])
                ),
                "text_translation": lambda w, s: s.digit.text == w[-1],
                "scene": lambda w, s: s.ground == w[-1],
                "OCR": lambda w, s: s.word.text == w[-1],
                "commonsense_reasoning": lambda w, s, n=names: n[w[2]].center[1] < n[w[-1]].center[1],
                "artwork": lambda w, s, n=names: n[w[2]].color == w[-1],
            }.get(category)
            if true is not None:
                assert true(words, scene) == (label == "Yes"), (file, line)
                checked[category] += 1
    assert len(checked) == 7
