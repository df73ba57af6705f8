"""POPE: does the picture hold this object, yes or no."""

import re
from collections.abc import Mapping, Sequence

from llava.eval.records import Answer, Question
from llava.eval.tasks.base import OFFICIAL, Item, Reference, TaskScore, check_rule, join, percent, summarise

STRICT = "strict"
_NO_WORDS = frozenset({"No", "no", "not"})


def parse_official(text: str) -> str:
    """The official reading: "no" if a word before the first period is exactly `No`, `no` or `not`, else "yes".

    Words are cut at single blanks after commas are dropped. So `NO`, `Nope`, `No` before a line break and the empty
    answer all read as yes. Kept as it is, for comparability.
    """
    words = text.split(".", 1)[0].replace(",", "").split(" ")
    return "yes" if _NO_WORDS.isdisjoint(words) else "no"


def parse_strict(text: str) -> str | None:
    """The first word if it is yes or no in any case, else None (counted as wrong)."""
    match = re.match(r"\W*(yes|no)\b", text, flags=re.IGNORECASE)
    return match.group(1).lower() if match else None


_PARSERS = {OFFICIAL: parse_official, STRICT: parse_strict}


def score(
    questions: Sequence[Question],
    references: Mapping[str, Reference],
    answers: Sequence[Answer],
    *,
    rule: str = OFFICIAL,
) -> TaskScore:
    """Accuracy; `extra` holds F1, precision, recall and yes ratio pooled, `f1_mean` = mean F1 over categories (the
    number papers report over random, popular and adversarial), and `strict_accuracy`.

    Joined by id: the official script pairs answers and labels by position.

    Raises:
        ValueError: ids that do not match, or a reference that is neither yes nor no.
    """
    check_rule(rule, tuple(_PARSERS), "pope")
    items = join(questions, references, answers)
    said = [_PARSERS[rule](item.text) for item in items]
    scores = [float(word == _label(item)) for item, word in zip(items, said, strict=True)]
    strict = percent([parse_strict(item.text) == _label(item) for item in items])
    groups: dict[str, list[int]] = {}
    for index, item in enumerate(items):
        groups.setdefault(item.question.category or "all", []).append(index)
    f1s = [_figures([items[i] for i in rows], [said[i] for i in rows])["f1"] for rows in groups.values()]
    return summarise(
        "pope",
        items,
        scores,
        rule,
        **_figures(items, said),
        f1_mean=sum(f1s) / len(f1s),
        strict_accuracy=strict,
    )


def _label(item: Item) -> str:
    label = item.gold().strip().lower()
    if label not in ("yes", "no"):
        raise ValueError(f"question_id {item.key}: expected the reference answer to be yes or no, got {item.gold()!r}")
    return label


def _figures(items: Sequence[Item], said: Sequence[str | None]) -> dict[str, float]:
    """F1, precision, recall, yes ratio in percent; 0 where a denominator is 0 (the official script divides by
    zero)."""
    pairs = [(word == "yes", _label(item) == "yes") for item, word in zip(items, said, strict=True)]
    hits = sum(guess and truth for guess, truth in pairs)
    guessed, true = sum(guess for guess, _ in pairs), sum(truth for _, truth in pairs)
    return {
        "f1": _ratio(2 * hits, guessed + true),
        "precision": _ratio(hits, guessed),
        "recall": _ratio(hits, true),
        "yes_ratio": _ratio(guessed, len(pairs)),
    }


def _ratio(part: int, whole: int) -> float:
    return 100.0 * part / whole if whole else 0.0
