"""What every benchmark shares: its files, the joined item, the result, and the contract of a scoring function.

A scorer is a pure function of three files' contents. Rows are joined by question id; a question without an answer,
an answer without a question and a question without a reference are errors, never a silent zero.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from llava.eval.question_set import Folder, QuestionSet, read_question_set
from llava.eval.records import Answer, Question, check_ids, key_answers

Reference = Mapping[str, Any]
OFFICIAL = "official"
MINIATURE = "miniature"  # the folder our own world lies in, whatever is above it


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
class Ratio:
    """weight * sum of numerators / sum of denominators over some items.

    Every figure the benchmarks print is a sum of such ratios (a mean, F1 = 2TP / (2TP + FP + FN), MME's acc and acc+
    by category), which is what lets the bootstrap draw items again without knowing the benchmark.
    """

    weight: float
    keys: tuple[str, ...]
    numerators: tuple[float, ...]
    denominators: tuple[float, ...]

    @property
    def value(self) -> float:
        """The ratio over all its items; 0 where nothing is counted (F1 without a positive)."""
        below = sum(self.denominators)
        return self.weight * sum(self.numerators) / below if below else 0.0


def mean_ratio(keys: Sequence[str], scores: Sequence[float], weight: float = 100.0) -> Ratio:
    """weight times the mean of the scores."""
    return Ratio(weight, tuple(keys), tuple(map(float, scores)), (1.0,) * len(keys))


@dataclass(frozen=True)
class TaskScore:
    """Result of one benchmark.

    headline: the figure tables print, the sum of `ratios` (percent; MME: points). accuracy: mean item score in percent.
    n: number of questions. extra: further figures (F1, acc+, per category, ...), `rule` = which parsing rule made them.
    items: question id -> score in 0..1, in the order of the questions.
    """

    name: str
    accuracy: float
    n: int
    extra: dict[str, Any]
    items: dict[str, float]
    ratios: tuple[Ratio, ...]

    @property
    def headline(self) -> float:
        return sum(ratio.value for ratio in self.ratios)


class Scorer(Protocol):
    """`rule` is "official" (the numbers others publish) or one of the benchmark's corrected variants."""

    def __call__(
        self,
        questions: Sequence[Question],
        references: Mapping[str, Reference],
        answers: Sequence[Answer],
        *,
        rule: str = OFFICIAL,
    ) -> TaskScore: ...


@dataclass(frozen=True)
class Benchmark:
    """One benchmark in the public layout. Paths are below the eval root, which is playground/data/eval or another.

    title: column head. metric: what the headline is, in words. questions: the question file. images: the picture
    folder, None where pictures lie in the question file. annotations: what scoring needs beside the question file.
    obtain: where missing files come from. reader: root -> questions and pictures, where they are no JSON lines with a
    folder of pictures. references: (root, questions) -> what is right, by question key; None (or a function that
    returns None) where only a judge or a server knows. score: None where a judge scores. server: who scores where the
    references are not public.
    submit: writes the file a server or the official scorer takes: (root, questions, answers, target) -> path written.
    upload: where that file lies below the root, {name} standing for the run's name. submit_needs: what it is written
    from beside questions and answers.
    """

    name: str
    title: str
    metric: str
    questions: str
    images: str | None
    annotations: tuple[str, ...]
    obtain: str
    reader: Callable[[Path], QuestionSet] | None = None
    references: Callable[[Path, Sequence[Question]], Mapping[str, Reference] | None] | None = None
    score: Scorer | None = None
    submit: Callable[[Path, QuestionSet, Sequence[Answer], Path], Path] | None = None
    upload: str | None = None
    submit_needs: tuple[str, ...] = ()
    server: str | None = None
    max_new_tokens: int = 128

    def read(self, root: Path) -> QuestionSet:
        """The questions and their pictures.

        Raises:
            ValueError: a file is missing (and where to get it), or malformed.
        """
        if self.reader is not None:
            asked = self.reader(root)
            if not isinstance(asked.pictures, Folder):
                return asked
            return replace(asked, pictures=replace(asked.pictures, obtain=remedy(self.obtain, root)))
        assert self.images is not None, f"{self.name}: pictures in the question file need a reader"
        questions, images = (require(root / name, self.obtain) for name in (self.questions, self.images))
        return read_question_set(questions, images, remedy(self.obtain, root))

    def require_files(self, root: Path) -> None:
        """All files are there; annotations may be missing where a server has them.

        Raises:
            ValueError: naming what is missing and where to get it.
        """
        needed = [self.questions, *([self.images] if self.images else []), *self.submit_needs]
        needed += [] if self.server else self.annotations
        missing = [str(root / name) for name in dict.fromkeys(needed) if not (root / name).exists()]
        if missing:
            raise ValueError(f"{self.name}: {', '.join(missing)} not found; {remedy(self.obtain, root)}")


def remedy(obtain: str, root: Path) -> str:
    """Where missing files come from, in words: the public ones, or what writes those of the miniature.

    Args:
        obtain: where the public ones are.
        root: the eval root.
    """
    return _write_miniature(root) or f"{obtain} (the eval root is {root})"


def require(path: Path, obtain: str) -> Path:
    """The path itself, if something is there.

    Raises:
        ValueError: nothing is there; says where to get it.
    """
    if not path.exists():
        raise ValueError(f"{path} not found; {_write_miniature(path) or obtain}")
    return path


def _write_miniature(place: Path) -> str:
    """How to write the miniature world that a place belongs to; "" where it belongs to none."""
    parts = place.parts
    if MINIATURE not in parts:
        return ""
    world = Path(*parts[: len(parts) - parts[::-1].index(MINIATURE)])
    record = world / "world.json"  # where it is, nothing would be written anew
    return f"{f'remove {record} and ' if record.exists() else ''}run python -m llava.miniature.benchmarks --out {world}"


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


def summarise(
    name: str,
    items: Sequence[Item],
    scores: Sequence[float],
    rule: str,
    ratios: Sequence[Ratio] | None = None,
    **extra: Any,
) -> TaskScore:
    """Mean score in percent, with the same per category where the questions name one.

    Args:
        ratios: what the headline is the sum of; default: the mean score.
    """
    per_category = percent_by([item.question.category for item in items], scores)
    if per_category:
        extra["per_category"] = per_category
    keys = [item.key for item in items]
    return TaskScore(
        name=name,
        accuracy=percent(scores),
        n=len(items),
        extra={"rule": rule, **extra},
        items={key: float(score) for key, score in zip(keys, scores, strict=True)},
        ratios=(mean_ratio(keys, scores),) if ratios is None else tuple(ratios),
    )


def percent(values: Sequence[float] | Sequence[bool]) -> float:
    """100 times the mean.

    Raises:
        ValueError: nothing to average.
    """
    if not values:
        raise ValueError("expected at least one question to score, got none")
    return 100.0 * sum(values) / len(values)


def percent_by(groups: Sequence[str | None], scores: Sequence[float] | Sequence[bool]) -> dict[str, float]:
    """`percent` of each group, by name; items without a group count nowhere."""
    grouped: dict[str, list[float]] = {}
    for group, score in zip(groups, scores, strict=True):
        if group is not None:
            grouped.setdefault(group, []).append(float(score))
    return {name: percent(values) for name, values in sorted(grouped.items())}


def check_rule(rule: str, known: Sequence[str], task: str) -> None:
    """`rule` is one of `known`.

    Raises:
        ValueError: naming what the task knows.
    """
    if rule not in known:
        raise ValueError(f"task {task} knows the scoring rules {', '.join(known)}; got {rule!r}")
