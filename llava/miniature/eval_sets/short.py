"""Twins whose answers are a word or a phrase: VQAv2, GQA, VizWiz, TextVQA."""

from pathlib import Path
from random import Random
from typing import Any

from llava.miniature import forms
from llava.miniature import questions as ask
from llava.miniature.eval_sets.scenes import ask_scenes, each, one_of, ten_people
from llava.miniature.files import paint, write_json, write_lines
from llava.miniature.forms import UNANSWERABLE, mistakes
from llava.miniature.questions import Question
from llava.miniature.world import DIGITS, Scene

UNANSWERABLE_SHARE = 0.15
# Question family -> (question_type, answer_type) of VQAv2's annotations.
VQA_TYPES = {"count": ("how many", "number"), "ground": ("what is the", "other"), "size": ("is the", "other")}
# The same for GQA's types: structural, semantic, detailed.
GQA_TYPES = {"attribute": ("query", "attr", "directOf"), "relation": ("choose", "rel", "relChooser")}


ask_vqav2 = one_of(ask.ask_count, ask.ask_ground, ask.ask_size)
ask_gqa = one_of(ask.ask_color, ask.ask_shape, ask.ask_left_right, ask.ask_above_below)


def write_vqav2(folder: Path, count: int, workers: int) -> None:
    """test-dev2015 with its annotations, and test2015: all ids a submission must hold, some of them not asked."""
    asked = ask_scenes("vqav2", count, ask_vqav2)
    here = folder / "vqav2"
    lines, more, annotations = [], [], []
    for scene, question in each(asked):
        image = f"COCO_test2015_{scene.seed:012d}.jpg"
        identity = scene.seed * 1000
        rng = Random(f"vqav2-people-{scene.seed}")
        lines.append(_line(identity, image, question.prompt))
        more.append(_line(identity + 1, image, ask.present(scene, rng).prompt))
        said = ten_people(rng, question.answer, mistakes(question.answer))
        kind, answer_type = VQA_TYPES[question.category]
        annotations.append({
            "question_id": identity,
            "image_id": scene.seed,
            "question_type": kind,
            "answer_type": answer_type,
            "multiple_choice_answer": question.answer,
            "answers": [
                {"answer_id": number, "answer": answer, "answer_confidence": "yes"}
                for number, answer in enumerate(said, 1)
            ],
        })
    paint([(here / "test2015" / line["image"], one.scene) for line, one in zip(lines, asked, strict=True)], workers)
    write_lines(here / "llava_vqav2_mscoco_test-dev2015.jsonl", lines)
    write_lines(
        here / "llava_vqav2_mscoco_test2015.jsonl", sorted(lines + more, key=lambda line: int(line["question_id"]))
    )
    write_json(here / "v2_mscoco_test-dev2015_annotations.json", {"annotations": annotations})


def write_gqa(folder: Path, count: int, workers: int) -> None:
    """testdev_balanced; ids are strings of digits."""
    asked = ask_scenes("gqa", count, ask_gqa)
    here = folder / "gqa"
    lines, annotations = [], {}
    for scene, question in each(asked):
        image, identity = f"n{scene.seed}", f"20{scene.seed}"
        lines.append(_line(identity, f"{image}.jpg", question.prompt))
        structural, semantic, detailed = GQA_TYPES[question.category]
        annotations[identity] = {
            "imageId": image,
            "question": question.text,
            "answer": question.answer,
            "fullAnswer": f"It is {question.answer}.",
            "isBalanced": True,
            "types": {"structural": structural, "semantic": semantic, "detailed": detailed},
        }
    paint([(here / "data" / "images" / f"n{one.scene.seed}.jpg", one.scene) for one in asked], workers)
    write_lines(here / "llava_gqa_testdev_balanced.jsonl", lines)
    write_json(here / "data" / "testdev_balanced_questions.json", annotations)


def write_vizwiz(folder: Path, count: int, workers: int) -> None:
    """test, one question a picture; some ask about what is not there. test.json holds the answers here."""
    asked = ask_scenes("vizwiz", count, ask_blindly)
    here = folder / "vizwiz"
    lines, annotations = [], []
    for number, (scene, question) in enumerate(each(asked)):
        image = f"VizWiz_test_{scene.seed:08d}.jpg"
        lines.append(_line(number, image, forms.with_permission(question)))
        annotations.append(_vizwiz_annotation(scene, question, image))
    paint([(here / "test" / row["image"], one.scene) for row, one in zip(annotations, asked, strict=True)], workers)
    write_lines(here / "llava_test.jsonl", lines)
    write_json(here / "test.json", annotations)


def ask_blindly(scene: Scene, rng: Random) -> tuple[Question, ...]:
    """Ask as somebody who does not see the picture: now and then about a thing or a writing that is not in it."""
    if rng.random() >= UNANSWERABLE_SHARE:
        return one_of(ask.ask_color, ask.ask_shape, ask.ask_ground, ask.ask_count, ask.ask_word, ask.ask_digit)(
            scene, rng
        )
    question = forms.ask_the_unanswerable(scene, rng)
    return (question,) if question else ()


def _vizwiz_annotation(scene: Scene, question: Question, image: str) -> dict[str, Any]:
    rng = Random(f"vizwiz-people-{scene.seed}")
    if question.category == UNANSWERABLE:
        guesses = ["no", "red", "nothing"] if "color" in question.text else ["no", "blank", "nothing"]
        kind, said = UNANSWERABLE, ten_people(rng, UNANSWERABLE, guesses, most=3)
    else:
        kind = "number" if question.answer in DIGITS else "other"
        said = ten_people(rng, question.answer, [*mistakes(question.answer), UNANSWERABLE])
    sure = rng.choices(("yes", "maybe", "no"), (8, 2, 1), k=10)
    return {
        "image": image,
        "question": question.text,
        "answers": [
            {"answer": answer, "answer_confidence": confidence} for answer, confidence in zip(said, sure, strict=True)
        ],
        "answer_type": kind,
        "answerable": int(kind != UNANSWERABLE),
    }


def write_textvqa(folder: Path, count: int, workers: int) -> None:
    """val of TextVQA 0.5.1; the question file's ids are those of the pictures, some of which are asked about twice."""
    asked = ask_scenes("textvqa", count, ask_to_read, wants_text=True)
    here = folder / "textvqa"
    lines, annotations = [], []
    for scene, question in each(asked):
        image = f"{scene.seed:016x}"
        lines.append(_line(image, f"{image}.jpg", forms.with_tokens(question, ocr_tokens(scene))))
        rng = Random(f"textvqa-people-{scene.seed}-{question.category}")
        annotations.append({
            "question_id": 34_602 + len(annotations),
            "question": question.text.lower(),
            "image_id": image,
            "answers": ten_people(rng, question.answer, mistakes(question.answer)),
            "image_classes": ["Signage"],
            "flickr_original_url": "",
            "set_name": "val",
        })
    paint([(here / "train_images" / f"{one.scene.seed:016x}.jpg", one.scene) for one in asked], workers)
    write_lines(here / "llava_textvqa_val_v051_ocr.jsonl", lines)
    write_json(here / "TextVQA_0.5.1_val.json", {"data": annotations})


def ask_to_read(scene: Scene, rng: Random) -> tuple[Question, ...]:
    """The word or the digit of the picture, in every third picture that has both the other one too."""
    asked = one_of(ask.ask_word, ask.ask_digit)(scene, rng)
    if asked and scene.digit and scene.seed % 3 == 0:
        other = (ask.ask_digit if asked[0].category == "word" else ask.ask_word)(scene, rng)
        asked += (other,) if other else ()
    return asked


def ocr_tokens(scene: Scene) -> list[str]:
    """What an OCR system says of a twin's picture."""
    return forms.read_tokens(scene, Random(f"textvqa-ocr-{scene.seed}"))


def _line(identity: str | int, image: str, text: str) -> dict[str, Any]:
    return {"question_id": identity, "image": image, "text": text, "category": "default"}
