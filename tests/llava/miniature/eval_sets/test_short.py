"""VQAv2, GQA, VizWiz and TextVQA: public files and keys, joins, and gold answers looked up in the scene again."""

from collections import Counter

import pytest

from llava.miniature.world import SHAPES, Scene, sample_scene

SHORT = "Answer the question using a single word or phrase."
KEYS = {"question_id", "image", "text", "category"}


def look(scene: Scene, question: str) -> str | None:
    """The answer by words of the question alone; None for a kind not looked up here."""
    words = question.removesuffix("?").split()
    if question.startswith("What color is the"):
        return next((thing.color for thing in scene.things if thing.shape == words[-1]), "unanswerable")
    if question == "How many objects are there?":
        return str(len(scene.things))
    if question.startswith("How many") and words[3] == "objects":
        return str(sum(thing.color == words[2] for thing in scene.things))
    if question == "What is the background?":
        return scene.ground
    if question == "What word is written on the sign?":
        return scene.word.text if scene.word else "unanswerable"
    if question == "What number is shown?":
        return scene.digit.text if scene.digit else "unanswerable"
    return None


def common(said):
    return Counter(said).most_common(1)[0][0]


def test_vqav2(root, lines, whole):
    asked = lines("vqav2/llava_vqav2_mscoco_test-dev2015.jsonl")
    every = lines("vqav2/llava_vqav2_mscoco_test2015.jsonl")
    annotations = {
        row["question_id"]: row for row in whole("vqav2/v2_mscoco_test-dev2015_annotations.json")["annotations"]
    }
    assert len(asked) == len(annotations) >= 40
    assert [row for row in every if row["question_id"] in annotations] == asked and len(every) > len(asked)
    assert len({row["question_id"] for row in every}) == len(every)
    looked = 0
    for row in asked:
        assert set(row) == KEYS and row["text"].endswith("\n" + SHORT)
        label = annotations[row["question_id"]]
        assert row["image"] == f"COCO_test2015_{label['image_id']:012d}.jpg"
        assert (root / "vqav2/test2015" / row["image"]).is_file()
        assert set(label) == {
            "question_id", "image_id", "question_type", "answer_type", "multiple_choice_answer", "answers",
        }  # fmt: skip
        assert [answer["answer_id"] for answer in label["answers"]] == list(range(1, 11))
        assert {frozenset(answer) for answer in label["answers"]} == {
            frozenset(("answer_id", "answer", "answer_confidence"))
        }
        assert common(answer["answer"] for answer in label["answers"]) == label["multiple_choice_answer"]
        assert row["text"].lower().startswith(label["question_type"])
        gold = look(sample_scene(label["image_id"]), row["text"].split("\n")[0])
        looked += gold is not None
        assert gold in (None, label["multiple_choice_answer"])
    assert looked > 10
    assert any(len({answer["answer"] for answer in label["answers"]}) > 1 for label in annotations.values())


def test_gqa(root, lines, whole):
    asked, annotations = (
        lines("gqa/llava_gqa_testdev_balanced.jsonl"),
        whole("gqa/data/testdev_balanced_questions.json"),
    )
    assert {row["question_id"] for row in asked} == set(annotations) and len(asked) >= 40
    looked = 0
    for row in asked:
        label = annotations[row["question_id"]]
        assert set(row) == KEYS and row["text"] == f"{label['question']}\n{SHORT}"
        assert set(label) == {"imageId", "question", "answer", "fullAnswer", "isBalanced", "types"}
        assert label["isBalanced"] is True and set(label["types"]) == {"structural", "semantic", "detailed"}
        assert row["image"] == f"{label['imageId']}.jpg" and (root / "gqa/data/images" / row["image"]).is_file()
        gold = look(sample_scene(int(label["imageId"][1:])), label["question"])
        looked += gold is not None
        assert gold in (None, label["answer"])
    assert looked > 5


def test_vizwiz(root, lines, whole):
    asked, annotations = lines("vizwiz/llava_test.jsonl"), {row["image"]: row for row in whole("vizwiz/test.json")}
    assert len({row["image"] for row in asked}) == len(asked) == len(annotations) >= 40
    for row in asked:
        label = annotations[row["image"]]
        assert set(row) == KEYS
        assert row["text"].split("\n") == [
            label["question"],
            "When the provided information is insufficient, respond with 'Unanswerable'.",
            SHORT,
        ]
        assert set(label) == {"image", "question", "answers", "answer_type", "answerable"}
        assert len(label["answers"]) == 10
        assert all(set(said) == {"answer", "answer_confidence"} for said in label["answers"])
        assert (root / "vizwiz/test" / row["image"]).is_file()
        said = common(answer["answer"] for answer in label["answers"])
        assert (said == "unanswerable") == (label["answerable"] == 0) == (label["answer_type"] == "unanswerable")
        scene = sample_scene(int(row["image"].removesuffix(".jpg").rsplit("_", 1)[1]))
        assert look(scene, label["question"]) in (None, said)
    kinds = Counter(label["answer_type"] for label in annotations.values())
    assert set(kinds) == {"unanswerable", "number", "other"} and kinds["unanswerable"] < len(asked) / 2


def test_textvqa(root, lines, whole):
    asked = lines("textvqa/llava_textvqa_val_v051_ocr.jsonl")
    labels = whole("textvqa/TextVQA_0.5.1_val.json")["data"]
    annotations = {(row["image_id"], row["question"]): row for row in labels}
    assert len(annotations) == len(labels) == len(asked) >= 40
    assert len({label["question_id"] for label in labels}) == len(labels)
    shared = right = 0
    for row in asked:
        question, tokens, suffix = row["text"].split("\n")
        assert set(row) == KEYS and suffix == SHORT and tokens.startswith("Reference OCR token: ")
        label = annotations[row["question_id"], question.lower()]
        assert set(label) == {
            *("question_id", "question", "image_id", "answers", "image_classes"),
            *("flickr_original_url", "set_name"),
        }
        assert row["image"] == f"{row['question_id']}.jpg" and (root / "textvqa/train_images" / row["image"]).is_file()
        gold = look(sample_scene(int(label["image_id"], 16), wants_text=True), question)
        assert len(label["answers"]) == 10 and common(label["answers"]) == gold
        right += gold.upper() in tokens.removeprefix("Reference OCR token: ").split(", ")
        shared += sum(other["question_id"] == row["question_id"] for other in asked) == 2
    assert shared > 0, "some pictures are asked about twice under one id"
    assert 0.4 < right / len(asked) < 0.9, "the OCR system is right mostly, not always"


@pytest.mark.parametrize("shape", SHAPES)
def test_who_looks_badly_names_the_same_kind(shape: str) -> None:
    from llava.miniature.forms import mistakes

    assert set(mistakes(shape)) == set(SHAPES) - {shape}
    assert mistakes("3") == ["2", "4"] and mistakes("0") == ["1"]
