"""GQA: exact match of the short answer."""

from collections.abc import Mapping, Sequence

from llava.eval.records import Answer, Question
from llava.eval.tasks.base import OFFICIAL, Reference, TaskScore, check_rule, join, summarise


def normalise(text: str) -> str:
    """What LLaVA's conversion submits: final periods dropped, lower case."""
    return text.rstrip(".").lower()


def score(
    questions: Sequence[Question],
    references: Mapping[str, Reference],
    answers: Sequence[Answer],
    *,
    rule: str = OFFICIAL,
) -> TaskScore:
    """Share of answers that equal the reference after `normalise` (only the prediction is normalised, as in the
    official scorer)."""
    check_rule(rule, (OFFICIAL,), "gqa")
    items = join(questions, references, answers)
    return summarise("gqa", items, [float(normalise(item.text) == item.gold()) for item in items], rule)
