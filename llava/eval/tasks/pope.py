"""POPE: does the picture hold this object, yes or no."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llava.eval.records import Answer, Question, read_jsonl
from llava.eval.tasks.base import (
    OFFICIAL,
    Benchmark,
    Item,
    Ratio,
    Reference,
    TaskScore,
    check_rule,
    join,
    percent,
    require,
    summarise,
)
from llava.eval.tasks.files import (
    EVAL_ZIP,
    field,
    first_line,
    index_labels,
    look_up,
)

CATEGORIES = ("random", "popular", "adversarial")
QUESTIONS = "pope/llava_pope_test.jsonl"
IMAGES = "pope/val2014"
ANNOTATIONS = "pope/coco"
OBTAIN = (
    f"the question file is in {EVAL_ZIP}; coco is output/coco of https://github.com/AoiDragon/POPE at commit e3e39262, "
    "the pictures are http://images.cocodataset.org/zips/val2014.zip, both go to pope"
)

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
    """Headline: mean F1 over the categories asked (random, popular, adversarial: the figure papers report).

    `extra`: `categories` = F1, precision, recall, yes ratio, accuracy and counts of each, the first four also pooled,
    and `strict_accuracy`. Joined by id: the official script pairs answers and labels by position.

    Raises:
        ValueError: ids that do not match, or a reference that is neither yes nor no.
    """
    check_rule(rule, tuple(_PARSERS), "pope")
    items = join(questions, references, answers)
    said = [_PARSERS[rule](item.text) for item in items]
    labels = [_label(item) for item in items]
    scores = [float(word == label) for label, word in zip(labels, said, strict=True)]
    groups: dict[str, list[int]] = {}
    for place, item in enumerate(items):
        groups.setdefault(item.question.category or "all", []).append(place)
    ratios, categories = [], {}
    for name, rows in groups.items():
        pairs = [(said[row] == "yes", labels[row] == "yes") for row in rows]
        categories[name] = {**_figures(pairs), "accuracy": percent([scores[row] for row in rows]), **_counts(pairs)}
        ratios.append(_f1_ratio([items[row].key for row in rows], pairs, 100.0 / len(groups)))
    return summarise(
        "pope",
        items,
        scores,
        rule,
        ratios,
        categories=categories,
        **_figures([(word == "yes", label == "yes") for word, label in zip(said, labels, strict=True)]),
        strict_accuracy=percent([parse_strict(item.text) == label for item, label in zip(items, labels, strict=True)]),
    )


def references(root: Path, questions: Sequence[Question]) -> dict[str, Reference]:
    """Labels by question key."""
    return references_of(root / ANNOTATIONS, questions)


def references_of(folder: Path, questions: Sequence[Question]) -> dict[str, Reference]:
    """Labels of coco_pope_<category>.json for the categories asked, joined by category, picture and question: the ids
    of these files begin at 1 in each, and their order is not that of the question file.

    Raises:
        ValueError: a question without category, a missing or malformed file, or a question that is in none of them.
    """
    without = [question.question_id for question in questions if question.category is None]
    if without:
        raise ValueError(f"pope: question_id {without[0]!r} names no category (random, popular, adversarial)")
    found: dict[str, Reference] = {}
    for category in dict.fromkeys(question.category for question in questions):
        file = require(folder / f"coco_pope_{category}.json", OBTAIN)
        labels = index_labels((_read_label(file, row) for row in read_jsonl(file)), file)
        mine = [question for question in questions if question.category == category]
        found |= look_up(mine, labels, lambda question: (question.image or "", first_line(question.text)), file)
    return found


def _read_label(file: Path, row: Any) -> tuple[tuple[str, str], Reference]:
    key = (field(file, row, "image", str), field(file, row, "text", str).strip())
    return key, {"answer": field(file, row, "label", str)}


def _label(item: Item) -> str:
    label = item.gold().strip().lower()
    if label not in ("yes", "no"):
        raise ValueError(f"question_id {item.key}: expected the reference answer to be yes or no, got {item.gold()!r}")
    return label


def _figures(pairs: Sequence[tuple[bool, bool]]) -> dict[str, float]:
    """F1, precision, recall, yes ratio in percent of (said yes, is yes); 0 where a denominator is 0 (the official
    script divides by zero)."""
    counts = _counts(pairs)
    hits, guessed, true = counts["TP"], counts["TP"] + counts["FP"], counts["TP"] + counts["FN"]
    return {
        "f1": _percentage(2 * hits, guessed + true),
        "precision": _percentage(hits, guessed),
        "recall": _percentage(hits, true),
        "yes_ratio": _percentage(guessed, len(pairs)),
    }


def _counts(pairs: Sequence[tuple[bool, bool]]) -> dict[str, int]:
    """The confusion matrix; what reads as neither yes nor no (strict rule) counts as no."""
    return {
        "TP": sum(said and true for said, true in pairs),
        "FP": sum(said and not true for said, true in pairs),
        "TN": sum(not said and not true for said, true in pairs),
        "FN": sum(not said and true for said, true in pairs),
    }


def _f1_ratio(keys: Sequence[str], pairs: Sequence[tuple[bool, bool]], weight: float) -> Ratio:
    """F1 = 2 TP / (2 TP + FP + FN): an item adds 2 to the numerator if it is a hit, and to the denominator 1 for having
    been called yes and 1 for being yes."""
    above = tuple(2.0 * (said and true) for said, true in pairs)
    below = tuple(float(said) + float(true) for said, true in pairs)
    return Ratio(weight, tuple(keys), above, below)


def _percentage(part: int, whole: int) -> float:
    return 100.0 * part / whole if whole else 0.0


BENCHMARK = Benchmark(
    name="pope",
    title="POPE",
    metric="mean F1 over random, popular and adversarial",
    questions=QUESTIONS,
    images=IMAGES,
    annotations=tuple(f"{ANNOTATIONS}/coco_pope_{name}.json" for name in CATEGORIES),
    obtain=OBTAIN,
    references=references,
    score=score,
)
