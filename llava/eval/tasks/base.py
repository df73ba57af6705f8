"""What every scorer shares: the joined item, the result, and the contract of a scoring function.

A scorer is a pure function of three files' contents. Rows are joined by question id; a question without an answer,
an answer without a question and a question without a reference are errors, never a silent zero.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from llava.eval.records import Answer, Question, check_ids, key_answers

Reference = Mapping[str, Any]
OFFICIAL = "official"


@dataclass(frozen=True)
class Item:
    """One question with what is right (`reference`) and what was said (`text`)."""

    question: Question
    reference: Reference
    text: str

    @property
    def key(self) -> str:
        """The question id as it is compared."""
        return self.question.key

    def gold(self) -> str:
        """The reference's `answer`.

        Raises:
            ValueError: it is missing or no string.
        """
        answer = self.reference.get("answer")
        if not isinstance(answer, str):
            raise ValueError(
                f"question_id {self.key}: expected the reference to hold a string 'answer', got {answer!r}"
            )
        return answer


@dataclass(frozen=True)
class TaskScore:
    """Result of one task.

    accuracy: percent, the headline of the miniature's table. n: number of questions. extra: the task's other figures
    (F1, acc+, per category, ...), `rule` = which parsing rule made them. items: question id -> score in 0..1, in the
    order of the questions.
    """

    name: str
    accuracy: float
    n: int
    extra: dict[str, Any] = field(default_factory=dict)
    items: dict[str, float] = field(default_factory=dict)


class Scorer(Protocol):
    """`score` of a task module. `rule` is "official" (the numbers others publish) or one of the task's corrected
    variants."""

    def __call__(
        self,
        questions: Sequence[Question],
        references: Mapping[str, Reference],
        answers: Sequence[Answer],
        *,
        rule: str = OFFICIAL,
    ) -> TaskScore: ...


def join(questions: Sequence[Question], references: Mapping[str, Reference], answers: Sequence[Answer]) -> list[Item]:
    """Questions, references and answers as one list in the order of the questions.

    References may cover more than the questions (a limited run); answers may not.

    Raises:
        ValueError: ids that do not match, named.
    """
    keys = [question.key for question in questions]
    keyed = list(key_answers(questions, answers))
    check_ids(keys, [key for key, _ in keyed])
    unknown = [key for key in keys if key not in references]
    if unknown:
        raise ValueError(f"no reference answer for {len(unknown)} question ids, first {unknown[:5]}")
    texts = {key: answer.text for key, answer in keyed}
    return [Item(question, references[question.key], texts[question.key]) for question in questions]


def summarise(name: str, items: Sequence[Item], scores: Sequence[float], rule: str, **extra: Any) -> TaskScore:
    """Mean score in percent, with the same per category where the questions name one."""
    by_category: dict[str, list[float]] = {}
    for item, score in zip(items, scores, strict=True):
        if item.question.category is not None:
            by_category.setdefault(item.question.category, []).append(score)
    if by_category:
        extra["per_category"] = {name: percent(values) for name, values in sorted(by_category.items())}
    return TaskScore(
        name=name,
        accuracy=percent(scores),
        n=len(items),
        extra={"rule": rule, **extra},
        items={item.key: float(score) for item, score in zip(items, scores, strict=True)},
    )


def percent(values: Sequence[float] | Sequence[bool]) -> float:
    """100 times the mean.

    Raises:
        ValueError: nothing to average.
    """
    if not values:
        raise ValueError("expected at least one question to score, got none")
    return 100.0 * sum(values) / len(values)


def check_rule(rule: str, known: Sequence[str], task: str) -> None:
    """`rule` is one of `known`.

    Raises:
        ValueError: naming what the task knows.
    """
    if rule not in known:
        raise ValueError(f"task {task} knows the scoring rules {', '.join(known)}; got {rule!r}")
