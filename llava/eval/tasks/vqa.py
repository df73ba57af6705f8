"""VQAv2, VizWiz and TextVQA: soft accuracy against ten human answers."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from llava.eval.records import Answer, Question
from llava.eval.tasks.base import (
    OFFICIAL,
    Item,
    Reference,
    TaskScore,
    check_rule,
    join,
    percent,
    percent_by,
    summarise,
)
from llava.eval.tasks.vqa_text import normalise

FIXED = "fixed"
_HUMANS = 10
_ENOUGH = 3  # so many agreeing humans make an answer fully right
_RULES: dict[str, Callable[[str], str]] = {OFFICIAL: normalise, FIXED: partial(normalise, periods=0)}


def soft_accuracy(text: str, humans: Sequence[str], clean: Callable[[str], str] = normalise) -> float:
    """Mean over the ten humans of min(1, agreeing others / 3), all answers normalised. -> 0..1

    Raises:
        ValueError: not ten human answers (the rule is defined for ten; repeat a single answer ten times).
    """
    if len(humans) != _HUMANS:
        raise ValueError(f"soft accuracy is defined over {_HUMANS} human answers, got {len(humans)}")
    said = clean(text)
    agreeing = sum(clean(human) == said for human in humans)
    others_agree = min(1.0, agreeing / _ENOUGH)  # seen from a human who does not agree
    agreeing_others = min(1.0, max(agreeing - 1, 0) / _ENOUGH)  # seen from one who does
    return ((_HUMANS - agreeing) * others_agree + agreeing * agreeing_others) / _HUMANS


def human_answers(file: Path, row: Any) -> list[str]:
    """The ten answers of a row of an annotation file, written as strings or as {"answer": ...}.

    Raises:
        ValueError: not ten, or not texts; the file is named.
    """
    found = [a.get("answer") if isinstance(a, dict) else a for a in row.get("answers") or []]
    texts = [answer for answer in found if isinstance(answer, str)]
    if len(texts) != len(found) or len(texts) != _HUMANS:
        raise ValueError(f"{file}: expected {_HUMANS} human answers, got {len(found)} in {str(row)[:200]}")
    return texts


def human_label(file: Path, row: Any) -> Reference:
    """The ten answers of a row, and the type VQAv2 and VizWiz give each question.

    Raises:
        ValueError: see `human_answers`.
    """
    return {"answers": human_answers(file, row), "answer_type": row.get("answer_type")}


def _humans(item: Item, name: str) -> Sequence[str]:
    """The reference's `answers`, or its single `answer` ten times."""
    answers = item.reference.get("answers")
    if answers is None:
        return [item.gold()] * _HUMANS
    if not isinstance(answers, list) or len(answers) != _HUMANS or not all(isinstance(a, str) for a in answers):
        raise ValueError(
            f"{name}: question_id {item.key}: expected 'answers' to be {_HUMANS} strings (repeat a single answer "
            f"{_HUMANS} times), got {answers!r}"
        )
    return answers


def vqa_scorer(name: str) -> Callable[..., TaskScore]:
    """A scoring function by soft accuracy. `extra["fixed_accuracy"]`: all periods dropped instead of the first 32;
    `extra["per_answer_type"]` where the references name types."""

    def score(
        questions: Sequence[Question],
        references: Mapping[str, Reference],
        answers: Sequence[Answer],
        *,
        rule: str = OFFICIAL,
    ) -> TaskScore:
        check_rule(rule, tuple(_RULES), name)
        items = join(questions, references, answers)
        scores = {
            which: [soft_accuracy(item.text, _humans(item, name), clean) for item in items]
            for which, clean in _RULES.items()
        }
        others = {f"{which}_accuracy": percent(values) for which, values in scores.items() if which != rule}
        types = percent_by([item.reference.get("answer_type") for item in items], scores[rule])
        more = {**others, "per_answer_type": types} if types else others
        return summarise(name, items, scores[rule], rule, **more)

    return score
