"""LLaVA-Bench (in the wild): a judge compares the model's answer with GPT-4's and gives both a score of 1 to 10.

Protocol of the public `eval_gpt_review_bench`: the judge reads the picture's description, the question, GPT-4's answer
as the first assistant, the model's as the second, and the instruction of the question's category from rule.json, which
is the benchmark's data and is read, not shipped. The two scores are the first line of the review. The result is 100
times the mean of the model's scores over the mean of GPT-4's. Differences: rows are joined by id, not by place; a
review without two scores is asked for again and at last left out and counted, where the public program scores it -1.
"""

import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava.eval.judge.cache import Cache
from llava.eval.judge.client import Judge, Request
from llava.eval.judge.judging import (
    Estimate,
    Judgement,
    JudgeResult,
    cache_file,
    describe,
    estimate,
    judge_all,
    slug,
    write_result,
)
from llava.eval.records import check_ids, read_jsonl, read_questions, write_lines
from llava.provenance import sha256_file

logger = logging.getLogger(__name__)

TASK = "llavabench"
JUDGE = "gpt-4-0314"
TEMPERATURE = 0.2
MAX_TOKENS = 1024
TOP = 10.0  # the best score
OVERALL = "all"
SYSTEM = "You are a helpful and precise assistant for checking the quality of the answer."  # as published
_PREFIX = "llava_bench_"
_SOURCE = {
    "rule": "rule.json is llava/eval/table/rule.json of the public LLaVA repository",
    "": "get it from the dataset liuhaotian/llava-bench-in-the-wild of the Hugging Face hub",
}

Scores = tuple[float, float]  # GPT-4's, the model's


@dataclass(frozen=True)
class Files:
    """The public files, in the public program's words. reference: GPT-4's answers; answers: the model's."""

    question: Path
    context: Path
    rule: Path
    reference: Path
    answers: Path

    def all(self) -> tuple[Path, ...]:
        return self.question, self.context, self.rule, self.reference, self.answers


@dataclass(frozen=True)
class Pair:
    """One question with both answers, and the text the judge gets."""

    question_id: str | int
    category: str
    ids: tuple[str | int, str | int]
    content: str


@dataclass(frozen=True)
class Means:
    """Mean scores (0 to 10) of a category. percent: 100 * model / reference."""

    n: int
    reference: float
    model: float

    @property
    def percent(self) -> float:
        """Raises: ValueError: every score of the reference is 0."""
        if self.reference == 0:
            raise ValueError(f"all {self.n} scores of the reference answers are 0; there is nothing to compare with")
        return 100 * self.model / self.reference


def judge_llavabench(root: Path, answers_file: Path, out: Path, judge: Judge) -> JudgeResult:
    """Judge an answer file of LLaVA-Bench.

    Args:
        root: the public folder llava-bench-in-the-wild, with rule.json in it.
        out: folder for `<answers>_<judge>.jsonl` (reviews in the public layout), `<answers>_<judge>.json` (the
        result with its stamp) and cache/judgements.jsonl.

    Returns:
        score = 100 * mean(items) / mean(extra["reference_items"]): the model's scores / 10 over GPT-4's / 10, by
        question id.

    Raises:
        ValueError: a missing or malformed file, ids that do not match, no key, a failing endpoint.
    """
    name = f"{answers_file.stem}_{slug(judge.model or JUDGE)}.jsonl"
    return review(files_in(root, answers_file), out / name, judge)


def estimate_llavabench(root: Path, answers_file: Path, out: Path, judge: Judge) -> Estimate:
    """What `judge_llavabench` will take; nothing is sent."""
    return estimate_review(files_in(root, answers_file), out, judge)


def review(files: Files, output: Path, judge: Judge, max_tokens: int = MAX_TOKENS) -> JudgeResult:
    """`judge_llavabench` on files named one by one; the result lies beside the review file `output` as .json."""
    pairs = read_pairs(files)
    requests = requests_of(pairs, judge, max_tokens)
    judgements = judge_all(requests, parse_scores, judge, Cache(cache_file(output.parent)))
    prompt = f"published protocol, rule.json {sha256_file(files.rule)[:12]}"
    scored, about = describe(requests, judgements, prompt)
    rows = review_rows(pairs, scored, about["judge"])
    write_lines(output, rows)
    means = summarise(rows)
    result = JudgeResult(
        task=TASK,
        score=means[OVERALL].percent,
        n=len(scored),
        extra={
            **about,
            "per_category": {name: one.percent for name, one in means.items() if name != OVERALL},
            "mean_reference": means[OVERALL].reference,
            "mean_model": means[OVERALL].model,
            "reference_items": {key: one.value[0] / TOP for key, one in scored.items()},
        },
        items={key: one.value[1] / TOP for key, one in scored.items()},
    )
    write_result(output.with_suffix(".json"), result, files.all())
    return result


def estimate_review(files: Files, out: Path, judge: Judge, max_tokens: int = MAX_TOKENS) -> Estimate:
    """What `review` into folder `out` will take; nothing is sent."""
    requests = requests_of(read_pairs(files), judge, max_tokens)
    return estimate(requests, parse_scores, judge, Cache(cache_file(out)))


def files_in(root: Path, answers_file: Path) -> Files:
    """The public names below `root`."""
    return Files(
        root / "questions.jsonl",
        root / "context.jsonl",
        root / "rule.json",
        root / "answers_gpt4.jsonl",
        answers_file,
    )


def read_pairs(files: Files) -> list[Pair]:
    """Every question with context, rule and both answers, joined by id, in the order of the questions.

    Raises:
        ValueError: a file is missing or malformed, ids do not match, or a picture has no context, a category no rule.
    """
    for role in ("question", "context", "rule", "reference"):
        place: Path = getattr(files, role)
        if not place.is_file():
            raise ValueError(f"LLaVA-Bench: {place} is missing; {_SOURCE.get(role, _SOURCE[''])}")
    questions = read_questions(files.question)
    captions = _captions(files.context)
    rules = _rules(files.rule)
    keys = [question.key for question in questions]
    reference, answers = (_by_id(file, keys) for file in (files.reference, files.answers))
    pairs = []
    for question in questions:
        if question.image not in captions:
            raise ValueError(f"{files.context}: no context of image {question.image!r} (question_id {question.key})")
        category = f"{_PREFIX}{question.category}"
        if category not in rules:
            raise ValueError(f"{files.rule}: no rule {category!r}, the category of question_id {question.key}")
        both = reference[question.key], answers[question.key]
        pairs.append(
            Pair(
                question.question_id,
                category,
                (_answer_id(both[0]), _answer_id(both[1])),
                review_content(
                    captions[question.image], question.text, (both[0]["text"], both[1]["text"]), rules[category]
                ),
            )
        )
    return pairs


def review_content(caption: str, question: str, answers: tuple[str, str], rule: Mapping[str, str]) -> str:
    """What the judge reads, in the published form: marked sections, each ended by an empty line."""
    role = rule["role"]
    sections = [f"[Context]\n{caption}", f"[Question]\n{question}"]
    for number, answer in enumerate(answers, start=1):
        sections += [f"[{role} {number}]\n{answer}", f"[End of {role} {number}]"]
    sections.append(f"[System]\n{rule['prompt']}")
    return "".join(f"{section}\n\n" for section in sections)


def requests_of(pairs: Sequence[Pair], judge: Judge, max_tokens: int) -> list[Request]:
    """The calls that review these pairs."""
    return [
        Request(
            key=str(pair.question_id),
            task=TASK,
            model=judge.model or JUDGE,
            temperature=TEMPERATURE if judge.temperature is None else judge.temperature,
            messages=({"role": "system", "content": SYSTEM}, {"role": "user", "content": pair.content}),
            max_tokens=max_tokens,
        )
        for pair in pairs
    ]


def parse_scores(text: str) -> Scores | None:
    """The two numbers of the first line, parted by blanks or a comma; None if they are not two numbers of 0 to 10."""
    words = text.strip().split("\n", 1)[0].replace(",", " ").split()
    try:
        values = [float(word) for word in words]
    except ValueError:
        return None
    if len(values) != 2 or not all(math.isfinite(value) and 0 <= value <= TOP for value in values):
        return None
    return values[0], values[1]


def review_rows(pairs: Sequence[Pair], scored: Mapping[str, Judgement[Scores]], judge: str) -> list[dict[str, Any]]:
    """Lines of the public review file, with the judge's name added; a question without scores has no line."""
    return [
        {
            "id": number,
            "question_id": pair.question_id,
            "answer1_id": pair.ids[0],
            "answer2_id": pair.ids[1],
            "category": pair.category,
            "content": one.text,
            "tuple": list(one.value),
            "judge": judge,
        }
        for number, pair in enumerate(pairs, start=1)
        if (one := scored.get(str(pair.question_id))) is not None
    ]


def summarise(rows: Iterable[Mapping[str, Any]]) -> dict[str, Means]:
    """Mean scores per category and over `OVERALL`, by name.

    Args:
        rows: {"tuple": [GPT-4's score, the model's], "category" (may be missing)}

    Raises:
        ValueError: no rows.
    """
    groups: dict[str, list[Scores]] = {OVERALL: []}
    for row in rows:
        first, second = row["tuple"]
        groups[OVERALL].append((first, second))
        if "category" in row:
            groups.setdefault(row["category"], []).append((first, second))
    count = len(groups[OVERALL])
    if not count:
        raise ValueError("expected at least one review with scores, got none")
    return {
        name: Means(len(pairs), sum(a for a, _ in pairs) / len(pairs), sum(b for _, b in pairs) / len(pairs))
        for name, pairs in sorted(groups.items())
    }


def _captions(file: Path) -> dict[str, str]:
    """Image -> its description; a list of descriptions is put on lines."""
    captions = {}
    for row in read_jsonl(file):
        caption = row.get("caption")
        lines = caption if isinstance(caption, list) else [caption]
        if not isinstance(row.get("image"), str) or not all(isinstance(line, str) for line in lines):
            raise ValueError(f"{file}: expected lines with strings 'image' and 'caption', got {row!r}")
        captions[row["image"]] = "\n".join(map(str, lines))
    return captions


def _rules(file: Path) -> dict[str, dict[str, str]]:
    """Category -> {"role", "prompt"}."""
    try:
        rules = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}: not JSON: {error}") from error
    if not isinstance(rules, dict):
        raise ValueError(f"{file}: expected an object of category -> {{role, prompt}}, got {type(rules).__name__}")
    for name, rule in rules.items():
        if not isinstance(rule, dict) or not all(isinstance(rule.get(key), str) for key in ("role", "prompt")):
            raise ValueError(f"{file}: {name!r}: expected strings 'role' and 'prompt', got {rule!r}")
    return rules


def _by_id(file: Path, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Answer lines by question id, one for each of `keys`."""
    rows = read_jsonl(file)
    try:
        check_ids(keys, [str(row.get("question_id")) for row in rows])
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    for row in rows:
        if not isinstance(row.get("text"), str):
            raise ValueError(f"{file}, question_id {row['question_id']!r}: expected a string 'text', got {row!r}")
    return {str(row["question_id"]): row for row in rows}


def _answer_id(row: Mapping[str, Any]) -> str | int:
    identity: str | int = row.get("answer_id", row["question_id"])
    return identity
