"""Miniature twins of the judged benchmarks, in their public layouts.

Under `out` (which mirrors playground/data/eval):
    llava-bench-in-the-wild/questions.jsonl      {"question_id", "image", "category" (conv, detail, complex), "text"}
    llava-bench-in-the-wild/context.jsonl        {"id", "image", "caption"}: the picture in words, for the judge
    llava-bench-in-the-wild/answers_gpt4.jsonl   LLaVA's answer lines with what is right, in GPT-4's place
    llava-bench-in-the-wild/rule.json            {"llava_bench_<category>": {"role", "prompt"}}
    llava-bench-in-the-wild/images/*.jpg
    mm-vet/llava-mm-vet.jsonl                    {"question_id", "image", "text"}
    mm-vet/mm-vet.json                           {"v1_<id>": {"imagename", "question", "answer", "imagesource",
                                                              "capability"}}
    mm-vet/images/*.jpg
Unlike the public questions these end in the short-answer line: the tiny model answers in a word, and a judge can tell
a right word from a wrong one. Scenes are of the test split, away from those of the other twins.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from llava.miniature import questions as ask
from llava.miniature.files import paint, write_json, write_lines
from llava.miniature.questions import Asker, Question
from llava.miniature.world import SPLITS, Scene, sample_scene

BENCH, VET = "llava-bench-in-the-wild", "mm-vet"
BENCH_SEEDS, VET_SEEDS = SPLITS["test"][500_000:600_000], SPLITS["test"][600_000:700_000]
SEEDS_EACH = 1_000  # of one `seed`

CATEGORIES: dict[str, tuple[Asker, ...]] = {
    "conv": (ask.ask_color, ask.ask_shape),
    "detail": (ask.ask_count, ask.ask_ground),
    "complex": (ask.ask_left_right, ask.ask_above_below),
}
# what a question needs, in MM-Vet's words joined by `_`
CAPABILITIES: dict[str, tuple[Asker, ...]] = {
    "rec": (ask.ask_color, ask.ask_shape, ask.ask_count),
    "ocr": (ask.ask_word, ask.ask_digit),
    "rec_spat": (ask.ask_left_right, ask.ask_above_below, ask.ask_place),
}
_RULE = (
    "Compare the answers of the two AI assistants to the question about the picture that the context describes. {what} "
    "Write two numbers from 1 to 10 on the first line, parted by a blank: the score of Assistant 1, then that of "
    "Assistant 2. Explain them on the lines that follow, without favouring the answer that stands first."
)
_WHAT = {
    "conv": "Score whether each names what is in the picture.",
    "detail": "Score whether each is exact about what is in the picture.",
    "complex": "Score whether each places the things in the picture rightly.",
}


def write_judged(
    out: Path, seed: int = 0, bench_questions: int = 24, vet_questions: int = 40, workers: int = 1
) -> None:
    """Write both twins below `out`, replacing files of the same names.

    Args:
        seed: 0 to 99; another one shows other scenes.
        bench_questions: a multiple of 3: every picture is asked one question of each category.

    Raises:
        ValueError: a number that does not fit.
    """
    if not 0 <= seed < len(BENCH_SEEDS) // SEEDS_EACH:
        raise ValueError(f"expected a seed of 0 to {len(BENCH_SEEDS) // SEEDS_EACH - 1}, got {seed}")
    if bench_questions < 1 or bench_questions % len(CATEGORIES) or vet_questions < 1:
        raise ValueError(
            f"expected bench_questions to be a multiple of {len(CATEGORIES)} and vet_questions at least 1; got "
            f"{bench_questions} and {vet_questions}"
        )
    chosen = slice(seed * SEEDS_EACH, (seed + 1) * SEEDS_EACH)
    _write_bench(out / BENCH, BENCH_SEEDS[chosen], bench_questions // len(CATEGORIES), workers)
    _write_vet(out / VET, VET_SEEDS[chosen], vet_questions, workers)


def caption(scene: Scene) -> str:
    """The picture in sentences, for a judge that does not see it."""
    width, height = scene.size
    things = [
        f"a {thing.size} {thing.name} at {100 * thing.center[0] / width:.0f}% of the width and "
        f"{100 * thing.center[1] / height:.0f}% of the height"
        for thing in scene.things
    ]
    written = [f'A sign says "{scene.word.text}".'] if scene.word else []
    written += [f"A plate shows the number {scene.digit.text}."] if scene.digit else []
    shown = f"The background is {scene.ground}. There are {len(things)} objects: {'; '.join(things)}."
    return " ".join([shown, *written])


def _write_bench(folder: Path, seeds: range, pictures: int, workers: int) -> None:
    asked: list[tuple[str, str, Question]] = []
    contexts: list[dict[str, str]] = []
    painted = []
    for scene, of_scene in _pictures(seeds, pictures, _one_of_each):
        image = f"{len(contexts) + 1:03d}.jpg"
        painted.append((folder / "images" / image, scene))
        contexts.append({"id": image.removesuffix(".jpg"), "image": image, "caption": caption(scene)})
        asked += [(image, category, question) for category, question in of_scene.items()]
    paint(painted, workers)
    questions = [
        {"question_id": number, "image": image, "category": category, "text": question.prompt}
        for number, (image, category, question) in enumerate(asked)
    ]
    answers = [
        {
            "question_id": number,
            "prompt": question.prompt,
            "text": question.answer,
            "answer_id": f"reference-{number:03d}",
            "model_id": "reference",
            "metadata": {},
        }
        for number, (_, _, question) in enumerate(asked)
    ]
    rules = {
        f"llava_bench_{name}": {"role": "Assistant", "prompt": _RULE.format(what=what)} for name, what in _WHAT.items()
    }
    write_lines(folder / "questions.jsonl", questions)
    write_lines(folder / "context.jsonl", contexts)
    write_lines(folder / "answers_gpt4.jsonl", answers)
    write_json(folder / "rule.json", rules)


def _write_vet(folder: Path, seeds: range, count: int, workers: int) -> None:
    questions, references, painted = [], {}, []
    for number, (scene, of_scene) in enumerate(_pictures(seeds, count, _one_capability)):
        ((capabilities, question),) = of_scene.items()
        name = f"v1_{number}"
        image = f"{name}.jpg"
        painted.append((folder / "images" / image, scene))
        questions.append({"question_id": number, "image": image, "text": question.prompt})
        references[name] = {
            "imagename": image,
            "question": question.prompt,
            "answer": question.answer,
            "imagesource": f"miniature world, scene {scene.seed}",
            "capability": capabilities.split("_"),
        }
    paint(painted, workers)
    write_lines(folder / "llava-mm-vet.jsonl", questions)
    write_json(folder / "mm-vet.json", references)


def _pictures(
    seeds: range, count: int, ask_scene: Callable[[Scene], dict[str, Question]]
) -> Iterator[tuple[Scene, dict[str, Question]]]:
    """The first `count` scenes that allow what `ask_scene` asks (it returns nothing for the others)."""
    found = 0
    for seed in seeds:
        scene = sample_scene(seed)
        questions = ask_scene(scene)
        if questions:
            yield scene, questions
            found += 1
        if found == count:
            return
    raise ValueError(f"{len(seeds)} scenes allow only {found} of {count} pictures; ask for fewer questions")


def _one_of_each(scene: Scene) -> dict[str, Question]:
    rng = Random(f"llavabench-{scene.seed}")
    asked = {name: rng.choice(askers)(scene, rng) for name, askers in CATEGORIES.items()}
    questions = {name: question for name, question in asked.items() if question is not None}
    return questions if len(questions) == len(asked) else {}


def _one_capability(scene: Scene) -> dict[str, Question]:
    rng = Random(f"mmvet-{scene.seed}")
    name = rng.choice(tuple(CAPABILITIES))
    question = rng.choice(CAPABILITIES[name])(scene, rng)
    return {} if question is None else {name: question}
