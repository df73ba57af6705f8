"""Rows of the miniature's twins of lmms-eval's data sets, with the columns of the public ones.

The scenes and questions of GQA, POPE, MME, VQAv2, TextVQA, MMBench, SEED and ScienceQA are those of the twins in
LLaVA's layout (eval_sets), so that both roads ask the same things; MMMU, DocVQA, ChartQA and OCRBench have test scenes
of their own.
"""

import io
from collections.abc import Iterator
from random import Random
from typing import Any

from llava.miniature import questions as ask
from llava.miniature.eval_sets.choice import (
    MMBENCH_CATEGORIES,
    ROTATION,
    SEED_OF_FAMILY,
    ask_mmbench,
    ask_seed,
    ask_sqa,
    turned,
)
from llava.miniature.eval_sets.scenes import Asked, ask_scenes, each, scenes_of, ten_people
from llava.miniature.eval_sets.short import GQA_TYPES, VQA_TYPES, ask_gqa, ask_to_read, ask_vqav2, ocr_tokens
from llava.miniature.eval_sets.yes_no import MME_CATEGORIES, ask_pope
from llava.miniature.files import JPEG_QUALITY
from llava.miniature.forms import hint_of, mistakes
from llava.miniature.questions import YES_NO, Asker, Question
from llava.miniature.world import SPLITS, Scene, render, sample_scene

Row = dict[str, Any]

# Test seeds of the sets that have no twin in LLaVA's layout; eval_sets uses the first ones of the split.
OWN_SEEDS = {
    name: SPLITS["test"][500_000 + 10_000 * i : 510_000 + 10_000 * i]
    for i, name in enumerate(("mmmu", "docvqa", "chartqa", "ocrbench"))
}
ABSENT = "nan"  # what the public MMBench says for an option or a hint that is not there
OCR_TYPES = (
    "Regular Text Recognition",
    "Irregular Text Recognition",
    "Artistic Text Recognition",
    "Handwriting Recognition",
    "Digit String Recognition",
    "Non-Semantic Text Recognition",
    "Scene Text-centric VQA",
    "Doc-oriented VQA",
    "Key Information Extraction",
    "Handwritten Mathematical Expression Recognition",
)
MMMU_SUBJECTS = ("Art", "Accounting", "Biology", "Pharmacy", "History", "Agriculture")


def picture(scene: Scene) -> dict[str, Any]:
    """A cell of an image column: a JPEG and its name."""
    held = io.BytesIO()
    render(scene).save(held, "JPEG", quality=JPEG_QUALITY)
    return {"bytes": held.getvalue(), "path": f"{scene.seed:012d}.jpg"}


def pope_rows(count: int) -> list[Row]:
    """Rows of the three categories mixed, as the public set has them under one split."""
    return [
        {
            "id": str(number),
            "question_id": str(number + 1),
            "question": question.text,
            "answer": question.answer,
            "image_source": f"COCO_val2014_{scene.seed:012d}",
            "image": picture(scene),
            "category": question.category,
        }
        for number, (scene, question) in enumerate(each(ask_scenes("pope", count, ask_pope)))
    ]


def gqa_instructions(count: int) -> list[Row]:
    """The questions; their pictures are in a configuration of their own."""
    rows = []
    for scene, question in each(_gqa(count)):
        structural, semantic, detailed = GQA_TYPES[question.category]
        rows.append({
            "id": f"20{scene.seed}",
            "imageId": f"n{scene.seed}",
            "question": question.text,
            "answer": question.answer,
            "fullAnswer": f"It is {question.answer}.",
            "isBalanced": True,
            "groups": {"global": question.category, "local": question.category},
            "entailed": "",
            "equivalent": f"['20{scene.seed}']",
            "types": {"structural": structural, "semantic": semantic, "detailed": detailed},
            "semanticStr": "",
        })
    return rows


def gqa_images(count: int) -> list[Row]:
    """Each picture once, in another order than the questions."""
    return [{"id": f"n{one.scene.seed}", "image": picture(one.scene)} for one in reversed(_gqa(count))]


def _gqa(count: int) -> list[Asked]:
    return ask_scenes("gqa", count, ask_gqa)


def mme_rows(count: int) -> list[Row]:
    """All fourteen categories by turns; the two questions of a picture share their question id."""
    rows: list[Row] = []
    names = tuple(MME_CATEGORIES)
    for scene in scenes_of("mme"):
        category = names[len(rows) // 2 % len(names)]
        pair = MME_CATEGORIES[category](scene, Random(f"mme-{scene.seed}"))
        if pair is None:
            continue
        shown = {"question_id": f"{category}/{scene.seed:012d}.jpg", "image": picture(scene), "category": category}
        for text, answer in zip(pair, ("Yes", "No"), strict=True):
            rows.append({**shown, "question": f"{text} {YES_NO}", "answer": answer})
        if len(rows) >= count:
            break
    return rows


def textvqa_rows(count: int) -> list[Row]:
    """Questions in lower case with ten answers and the words an OCR system read."""
    rows: list[Row] = []
    for scene, question in each(ask_scenes("textvqa", count, ask_to_read, wants_text=True)):
        rng = Random(f"textvqa-people-{scene.seed}-{question.category}")
        rows.append({
            "image_id": f"{scene.seed:016x}",
            "question_id": 34_602 + len(rows),
            "question": question.text.lower(),
            "question_tokens": question.text.lower().rstrip("?").split(),
            "image": picture(scene),
            "image_width": scene.size[0],
            "image_height": scene.size[1],
            "flickr_original_url": "",
            "flickr_300k_url": "",
            "answers": ten_people(rng, question.answer, mistakes(question.answer)),
            "image_classes": ["Signage"],
            "set_name": "val",
            "ocr_tokens": ocr_tokens(scene),
        })
    return rows


def vqav2_rows(count: int) -> list[Row]:
    """Ten answers each, as dicts."""
    rows = []
    for scene, question in each(ask_scenes("vqav2", count, ask_vqav2)):
        said = ten_people(Random(f"vqav2-people-{scene.seed}"), question.answer, mistakes(question.answer))
        kind, answer_type = VQA_TYPES[question.category]
        rows.append({
            "question_type": kind,
            "multiple_choice_answer": question.answer,
            "answers": [
                {"answer": answer, "answer_confidence": "yes", "answer_id": number}
                for number, answer in enumerate(said, 1)
            ],
            "image_id": scene.seed,
            "answer_type": answer_type,
            "question_id": scene.seed * 1000,
            "question": question.text,
            "image": picture(scene),
        })
    return rows


def scienceqa_rows(count: int) -> list[Row]:
    """Questions with a picture; every third has a hint."""
    rows = []
    for number, (scene, question) in enumerate(each(ask_scenes("sqa", count, ask_sqa))):
        rows.append({
            "image": picture(scene),
            "question": question.text,
            "choices": list(question.options),
            "answer": "ABCD".index(question.answer),
            "hint": hint_of(scene) if number % 3 == 0 else "",
            "task": "closed choice",
            "grade": "grade2",
            "subject": "natural science",
            "topic": "physics",
            "category": "Position",
            "skill": "Find what is closest to a side",
            "lecture": "",
            "solution": "",
        })
    return rows


def mmbench_rows(count: int) -> list[Row]:
    """Every question with all rotations of its options, which is what circular evaluation groups by the index."""
    asked = ask_scenes("mmbench", count, ask_mmbench)
    rows = [(one.scene, one.questions[0], turn) for turn in range(4) for one in asked]
    return [_mmbench_row(scene, question, turn) for scene, question, turn in rows if turn < len(question.options)]


def _mmbench_row(scene: Scene, question: Question, turn: int) -> Row:
    options, answer = turned(question, turn)
    category, group = MMBENCH_CATEGORIES[question.category]
    return {
        "index": scene.seed - SPLITS["test"].start + turn * ROTATION,
        "question": question.text,
        "hint": hint_of(scene) if scene.seed % 4 == 0 else ABSENT,
        "answer": answer,
        **{letter: options[i] if i < len(options) else ABSENT for i, letter in enumerate("ABCD")},
        "category": category,
        "image": picture(scene),
        "source": "miniature",
        "L2-category": group,
        "comment": ABSENT,
        "split": "dev",
    }


def seed_rows(count: int) -> list[Row]:
    """Pictures and, for every fourth scene, a video: frames in one list. The miniature's videos have one frame."""
    rows = []
    for scene, question in each(ask_scenes("seed", count, ask_seed)):
        video = scene.seed % 4 == 0
        rows.append({
            "answer": question.answer,
            **{f"choice_{letter}": option for letter, option in zip("abcd", question.options, strict=True)},
            "data_id": f"{scene.seed}.mp4" if video else f"{scene.seed}_{scene.seed}",
            "data_type": "video" if video else "image",
            "question": question.text,
            "question_id": str(scene.seed),
            "question_type_id": SEED_OF_FAMILY[question.category][video],
            "image": [picture(scene)],
            "segment": [0, 1] if video else [],
        })
    return rows


def mmmu_rows(count: int) -> list[Row]:
    """By turns: a choice about one picture, a choice about the second of two, an open question."""
    scenes = _scenes("mmmu")
    rows: list[Row] = []
    while len(rows) < count:
        number = len(rows)
        subject = MMMU_SUBJECTS[number % len(MMMU_SUBJECTS)]
        shown = [next(scenes) for _ in range(2 if number % 3 == 1 else 1)]
        asker = ask.ask_ground if number % 3 == 2 else ask.choose_ground
        question = asker(shown[-1], Random(f"mmmu-{shown[-1].seed}"))
        assert question is not None  # every scene has a ground
        marks = " ".join(f"<image {place}>" for place in range(1, len(shown) + 1))
        text = f"{marks} {question.text}" if len(shown) == 1 else f"{marks} In <image 2>: {question.text}"
        rows.append({
            "id": f"validation_{subject}_{number + 1}",
            "question": text,
            "options": repr(list(question.options)),
            "explanation": "",
            **{f"image_{i}": picture(shown[i - 1]) if i <= len(shown) else None for i in range(1, 8)},
            "img_type": "['Paintings']",
            "answer": question.answer,
            "topic_difficulty": "Easy",
            "question_type": "multiple-choice" if question.options else "open",
            "subfield": subject,
        })
    return rows


def docvqa_rows(count: int) -> list[Row]:
    """The word on the sign; some rows accept a second spelling."""
    return [
        {
            "questionId": str(49_153 + number),
            "question": question.text,
            "question_types": ["layout"],
            "image": picture(scene),
            "docId": scene.seed,
            "ucsf_document_id": f"mini{scene.seed}",
            "ucsf_document_page_no": "1",
            "answers": [question.answer.upper(), *([f"the {question.answer}"] if number % 2 else [])],
            "data_split": "val",
        }
        for number, (scene, question) in enumerate(_asked("docvqa", count, ask.ask_word))
    ]


def chartqa_rows(count: int) -> list[Row]:
    """Counts and names, by turns of the human and the augmented part."""
    return [
        {
            "type": "human_test" if number % 2 == 0 else "augmented_test",
            "question": question.text,
            "answer": question.answer,
            "image": picture(scene),
        }
        for number, (scene, question) in enumerate(_asked("chartqa", count, ask.ask_count, ask.ask_ground))
    ]


def ocrbench_rows(count: int) -> list[Row]:
    """The ten kinds by turns, the word on the sign in each."""
    return [
        {
            "dataset": "HME100k" if OCR_TYPES[number % 10].startswith("Handwritten Math") else "miniature",
            "question": question.text,
            "question_type": OCR_TYPES[number % 10],
            "answer": [question.answer],
            "image": picture(scene),
        }
        for number, (scene, question) in enumerate(_asked("ocrbench", count, ask.ask_word))
    ]


def _scenes(name: str) -> Iterator[Scene]:
    return (sample_scene(seed, wants_text=True) for seed in OWN_SEEDS[name])


def _asked(name: str, count: int, *askers: Asker) -> list[tuple[Scene, Question]]:
    """`count` scenes of the set, asked by the askers in turn; a scene that does not allow the question is left out."""
    found: list[tuple[Scene, Question]] = []
    for scene in _scenes(name):
        question = askers[len(found) % len(askers)](scene, Random(f"{name}-{scene.seed}"))
        if question is not None:
            found.append((scene, question))
        if len(found) == count:
            break
    return found
