"""MME: two yes/no questions for each picture; acc counts questions, acc+ counts pictures with both right."""

from collections.abc import Mapping, Sequence

from llava.eval.records import Answer, Question
from llava.eval.tasks.base import OFFICIAL, Item, Reference, TaskScore, check_rule, join, percent, summarise

_PREFIX = 4  # letters of the answer the official reader looks at
_QUESTIONS = 2


def parse(text: str) -> str:
    """The official reading: yes or no if either occurs in the first four letters (yes wins), else "other", which is
    wrong."""
    head = text.lower()[:_PREFIX]
    return "yes" if "yes" in head else "no" if "no" in head else "other"


def score(
    questions: Sequence[Question],
    references: Mapping[str, Reference],
    answers: Sequence[Answer],
    *,
    rule: str = OFFICIAL,
) -> TaskScore:
    """Accuracy over questions; `extra` holds `acc_plus` over pictures, and `score` = sum over categories of acc +
    acc+ (at most 200 a category, the figure MME tables print), with `category_score`.

    The two questions of a picture are found by category and image, not by their place in the file.

    Raises:
        ValueError: ids that do not match, or a picture that has not exactly two questions in its category.
    """
    check_rule(rule, (OFFICIAL,), "mme")
    items = join(questions, references, answers)
    scores = [float(parse(item.text) == item.gold().strip().lower()) for item in items]
    pairs: dict[tuple[str, str], list[float]] = {}
    for item, correct in zip(items, scores, strict=True):
        pairs.setdefault(_picture(item), []).append(correct)
    odd = [image for image, correct in pairs.items() if len(correct) != _QUESTIONS]
    if odd:
        raise ValueError(
            f"mme: expected {_QUESTIONS} questions for each picture, got {len(pairs[odd[0]])} for image "
            f"{odd[0][1]!r} of category {odd[0][0]!r} ({len(odd)} such pictures; an odd limit "
            f"cuts a pair)"
        )
    both = {picture: float(all(correct)) for picture, correct in pairs.items()}
    category_score = {
        category: percent([value for picture, pair in pairs.items() if picture[0] == category for value in pair])
        + percent([value for picture, value in both.items() if picture[0] == category])
        for category in sorted({category for category, _ in pairs})
    }
    return summarise(
        "mme",
        items,
        scores,
        rule,
        acc_plus=percent(list(both.values())),
        score=sum(category_score.values()),
        category_score=category_score,
    )


def _picture(item: Item) -> tuple[str, str]:
    if item.question.image is None:
        raise ValueError(f"mme: question_id {item.key} has no image")
    return item.question.category or "all", item.question.image
