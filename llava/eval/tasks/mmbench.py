"""MMBench and MMBench-CN: option letter, every rotation of the options right. Tables of questions and pictures: see
mmbench_table.py."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from llava.eval.question_set import QuestionSet
from llava.eval.records import Answer, Question, merge_answers
from llava.eval.tasks.base import (
    OFFICIAL,
    Benchmark,
    Reference,
    TaskScore,
    mean_ratio,
    percent,
    percent_by,
    require,
    summarise,
)
from llava.eval.tasks.choice import letter_leading, score_letters
from llava.eval.tasks.mmbench_table import read_letters, read_questions, write_submission

ROTATION = 1_000_000  # rotation k of question i is row i + k * ROTATION
SERVER = "https://mmbench.opencompass.org.cn"
DEV = "mmbench/mmbench_dev_20230712.tsv"
DEV_CN = "mmbench_cn/mmbench_dev_cn_20231003.tsv"


def obtain(file: str) -> str:
    """Where a table comes from."""
    name = Path(file).name
    return f"get https://download.openmmlab.com/mmclassification/datasets/mmbench/{name} and put it at {file}"


def score(
    questions: Sequence[Question],
    references: Mapping[str, Reference],
    answers: Sequence[Answer],
    *,
    rule: str = OFFICIAL,
    name: str = "mmbench",
) -> TaskScore:
    """Headline: share of questions whose every rotation is right, among the rotations asked (circular). `accuracy` and
    `plain_accuracy`: over rows. `circular_per_category`, `n_circular`."""
    found = score_letters(name, {OFFICIAL: letter_leading}, questions, references, answers, rule)
    groups: dict[str, list[int]] = {}
    for place, item in enumerate(found.items):
        groups.setdefault(original(item.question.question_id), []).append(place)
    firsts = [found.items[rows[0]] for rows in groups.values()]
    right = [float(all(found.scores[row] for row in rows)) for rows in groups.values()]
    extra: dict[str, Any] = {**found.extra, "plain_accuracy": percent(found.scores), "n_circular": len(groups)}
    per_category = percent_by([item.question.category for item in firsts], right)
    if per_category:
        extra["circular_per_category"] = per_category
    ratio = mean_ratio([item.key for item in firsts], right)
    return summarise(name, found.items, found.scores, rule, (ratio,), **extra)


def original(question_id: str | int) -> str:
    """The question a row rotates the options of."""
    text = str(question_id)
    return str(int(text) % ROTATION) if text.isdigit() else text


def _read(file: str, lang: str, root: Path) -> QuestionSet:
    return read_questions(require(root / file, obtain(file)), lang)


def _references(file: str, root: Path, _questions: Sequence[Question]) -> dict[str, Reference] | None:
    table = require(root / file, obtain(file))
    letters = read_letters(table)
    missing = [key for key, letter in letters.items() if not letter]
    if len(missing) == len(letters):
        return None
    if missing:
        raise ValueError(f"{table} has no reference for {len(missing)} rows, first index {missing[0]}")
    return {key: {"answer": letter} for key, letter in letters.items()}


def _submit(file: str, root: Path, asked: QuestionSet, answers: Sequence[Answer], target: Path) -> Path:
    return write_submission(require(root / file, obtain(file)), merge_answers(asked.questions, [answers]), target)


def _benchmark(name: str, title: str, file: str, lang: str) -> Benchmark:
    return Benchmark(
        name=name,
        title=title,
        metric="circular accuracy on dev",
        questions=file,
        images=None,
        annotations=(),
        obtain=obtain(file),
        reader=partial(_read, file, lang),
        references=partial(_references, file),
        score=partial(score, name=name),
        submit=partial(_submit, file),
        upload=f"{Path(file).parent}/answers_upload/{Path(file).stem}/{{name}}.xlsx",
        server=SERVER,
        max_new_tokens=1024,
    )


BENCHMARK = _benchmark("mmbench", "MMB", DEV, "en")
BENCHMARK_CN = _benchmark("mmbench_cn", "MMB-CN", DEV_CN, "cn")
