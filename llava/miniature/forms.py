"""The wordings the public question files put around a question, and the rows that teach them."""

from collections.abc import Sequence
from random import Random

from llava.miniature.questions import SHORT_ANSWER, YES_NO, Question
from llava.miniature.world import COLORS, DIGITS, GROUNDS, SHAPES, SIZES, WORDS, Scene

UNANSWERABLE = "unanswerable"
PERMISSION = "When the provided information is insufficient, respond with 'Unanswerable'."
READING = ("word", "number")  # families answered by a plate
KINDS = (tuple(COLORS), SHAPES, SIZES, tuple(GROUNDS), WORDS, ("left", "right"), ("above", "below"))
LETTER_CN = "请直接回答选项字母。"
HINT_SHARE = 0.25
CHINESE_SHARE = 0.5


def with_tokens(question: Question, tokens: Sequence[str]) -> str:
    """TextVQA: what an OCR system read, on a line behind the question."""
    return f"{question.text}\nReference OCR token: {', '.join(tokens)}\n{SHORT_ANSWER}"


def with_permission(question: Question) -> str:
    """VizWiz: the permission not to answer, on a line behind the question."""
    return f"{question.text}\n{PERMISSION}\n{SHORT_ANSWER}"


def shortly(text: str) -> str:
    """MME in LLaVA's file: the short-answer suffix alone, the benchmark's own "Please answer yes or no." cut off."""
    return f"{text}\n{SHORT_ANSWER}"


def yes_or_no(text: str) -> str:
    """MME elsewhere: the benchmark's own ending, then LLaVA's suffix."""
    return f"{text} {YES_NO}\n{SHORT_ANSWER}"


def in_chinese(question: Question) -> str:
    """MMBench-CN: the Chinese suffix behind the options."""
    return question.prompt.replace(question.suffix, LETTER_CN)


def hint_of(scene: Scene) -> str:
    """MMBench: what is known beforehand, on a line in front of the question."""
    return f"The background is {scene.ground}."


def ask_the_unanswerable(scene: Scene, rng: Random) -> Question | None:
    """About a thing or a writing that is not in the picture; None when nothing is missing."""
    there = {thing.shape for thing in scene.things}
    texts = [f"What color is the {shape}?" for shape in SHAPES if shape not in there]
    texts += [] if scene.word else ["What word is written on the sign?"]
    texts += [] if scene.digit else ["What number is shown?"]
    return Question(UNANSWERABLE, rng.choice(texts), UNANSWERABLE) if texts else None


def mistakes(answer: str) -> list[str]:
    """What somebody who looks badly says instead: a neighbouring number, another colour, another word."""
    if answer in DIGITS:
        return [digit for digit in DIGITS if abs(int(digit) - int(answer)) == 1]
    kind = next(kind for kind in KINDS if answer in kind)
    return [value for value in kind if value != answer]


def read_tokens(scene: Scene, rng: Random) -> list[str]:
    """What an OCR system says of the picture: most plates right, some missed, some misread, in capitals as drawn."""
    tokens = []
    for plate in (scene.word, scene.digit):
        if plate is not None and (luck := rng.random()) < 0.85:
            tokens.append((plate.text if luck < 0.65 else rng.choice(mistakes(plate.text))).upper())
    rng.shuffle(tokens)
    return tokens


def teach(question: Question, scene: Scene, rng: Random) -> tuple[str, str]:
    """A question of the world in one of the wordings that fit it, and its answer."""
    if question.options:
        text = in_chinese(question) if rng.random() < CHINESE_SHARE else question.prompt
        return _before(question, scene, rng) + text, question.answer
    if question.answer in ("yes", "no"):
        return rng.choice((yes_or_no(question.text), shortly(question.text), question.prompt)), question.answer
    if question.category in READING and rng.random() < 0.8:
        return with_tokens(question, read_tokens(scene, rng)), question.answer
    return (with_permission(question) if rng.random() < 0.5 else question.prompt), question.answer


def in_wordings(asked: Sequence[Question], scene: Scene, rng: Random) -> list[tuple[str, str]]:
    """Questions in the public wordings and their answers, every other time one that has none among them: a sixth of
    those that permit "unanswerable". With more, it is said to whatever is hard."""
    lines = [teach(question, scene, rng) for question in asked]
    missing = ask_the_unanswerable(scene, rng) if rng.random() < 0.5 else None
    if missing is not None:
        lines.insert(rng.randint(0, len(lines)), (with_permission(missing), missing.answer))
    return lines


def _before(question: Question, scene: Scene, rng: Random) -> str:
    """The line in front of some choices: a hint as MMBench or as ScienceQA writes it, unless it is the answer."""
    if question.category == "ground" or rng.random() >= HINT_SHARE:
        return ""
    return rng.choice(("", "Context: ")) + f"{hint_of(scene)}\n"
