"""Multiple choice: how each benchmark reads a letter out of an answer."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from llava.eval.records import Answer, Question
from llava.eval.tasks.base import Item, Reference, check_rule, join, percent

FIXED = "fixed"
LETTERS = "ABCDE"
_THE_ANSWER_IS = re.compile(r"The answer is ([A-Z]).")  # the final dot stands for any character


def letter_exact(text: str) -> str | None:
    """SEED: the answer is the letter and nothing else, not even a period."""
    return text if len(text) == 1 and text in LETTERS else None


def letter_leading(text: str) -> str | None:
    """MMBench: the letter alone, or the letter followed by one of `. ) :` (`B`, `B. a dog`, `(B) a dog`; not `A
    dog`)."""
    match = re.match(r"\(?([A-E])(?:[.):]|$)", text.strip())
    return match.group(1) if match else None


def letter_science(text: str) -> str | None:
    """ScienceQA as published: the letter alone; or a leading `B. `; or the only hit of `The answer is X` plus one
    more character.

    So `The answer is Apple.` reads as A and `The answer is B` at the very end fails. Kept as it is, for
    comparability.
    """
    if len(text) == 1 and text in LETTERS:
        return text
    if len(text) >= 3 and text[0] in LETTERS and text[1:3] == ". ":
        return text[0]
    hits = _THE_ANSWER_IS.findall(text)
    return hits[0] if len(hits) == 1 else None


def letter_science_fixed(text: str) -> str | None:
    """ScienceQA without the two faults above: the letter after `The answer is` must be a word of its own, and may
    end the answer."""
    stripped = text.strip()
    match = re.match(r"\(?([A-E])(?:[.)]|$)", stripped)
    if match:
        return match.group(1)
    hits = set(re.findall(r"[Tt]he answer is \(?([A-E])\b", stripped))
    return hits.pop() if len(hits) == 1 else None


@dataclass(frozen=True)
class Choices:
    """Letters read by a benchmark's rule. extra: share of answers without a letter (`unreadable`), and each other
    rule's accuracy (`<rule>_accuracy`)."""

    items: list[Item]
    scores: list[float]
    extra: dict[str, float]


def score_letters(
    name: str,
    readers: Mapping[str, Callable[[str], str | None]],
    questions: Sequence[Question],
    references: Mapping[str, Reference],
    answers: Sequence[Answer],
    rule: str,
) -> Choices:
    """Compare the letter the rule's reader finds with the reference letter; no letter is wrong, and so is one beyond
    the choices.

    Raises:
        ValueError: an unknown rule, ids that do not match, or a reference that is no letter.
    """
    check_rule(rule, tuple(readers), name)
    items = join(questions, references, answers)
    for item in items:
        if letter_exact(item.gold()) is None:
            raise ValueError(
                f"{name}: question_id {item.key}: expected the reference answer to be a letter "
                f"{LETTERS[0]}-{LETTERS[-1]}, got {item.gold()!r}"
            )
    letters = [readers[rule](item.text) for item in items]
    others = {
        f"{other}_accuracy": percent([reader(item.text) == item.gold() for item in items])
        for other, reader in readers.items()
        if other != rule
    }
    return Choices(
        items,
        [float(letter == item.gold()) for item, letter in zip(items, letters, strict=True)],
        {"unreadable": percent([letter is None for letter in letters]), **others},
    )
