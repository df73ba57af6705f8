"""MM-Vet: a judge grades each answer against the reference with a number from 0 to 1; the result is their mean, in
percent, in all and by the capabilities a question needs.

    python -m llava.eval.judge.mmvet --mmvet_path playground/data/eval/mm-vet --model llava-v1.5-7b \
        --result_path playground/data/eval/mm-vet/results --gpt_model gpt-4-0613

Flags and file names are those of the public evaluator. The prompt is NOT: its few-shot examples belong to the
benchmark, so the ones here are our own, of the same form, and every result says so. Scores are comparable among
themselves, and with published ones only as far as that goes. A reply without a grade is asked for again and at last
left out and counted, where the public evaluator grades it 0.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

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
from llava.eval.judge.mmvet_prompt import PROMPT_VERSION, grade_prompt, parse_grade
from llava.eval.judge.options import DryRun, PriceIn, PriceOut, Temperature, Workers
from llava.eval.records import check_ids, read_answers
from llava.eval.tasks.base import percent
from llava.utils import write_json

TASK = "mmvet"
JUDGE = "gpt-4-0613"
TEMPERATURE = 0.0
MAX_TOKENS = 8
PREFIX = "v1_"  # before the question ids of LLaVA's question file, in mm-vet.json


@dataclass(frozen=True)
class Entry:
    """One question of mm-vet.json with the answer to grade."""

    key: str
    question: str
    reference: str
    capabilities: tuple[str, ...]
    answer: str


def judge_mmvet(root: Path, answers_file: Path, out: Path, judge: Judge) -> JudgeResult:
    """Grade the answers to MM-Vet.

    Args:
        root: folder with mm-vet.json.
        answers_file: {"v1_<id>": text} (.json), or LLaVA's answer lines (.jsonl).
        out: folder for `<answers>_<judge>-ours-grade-1runs.json` (grades in the public layout), `..._score.json` (the
        result with its stamp) and cache/judgements.jsonl.

    Returns:
        items: by the ids of LLaVA's question file ("0", not "v1_0").

    Raises:
        ValueError: a missing or malformed file, ids that do not match, no key, a failing endpoint.
    """
    entries = read_entries(root, answers_file)
    requests = requests_of(entries, judge)
    judgements = judge_all(requests, parse_grade, judge, Cache(cache_file(out)))
    scored, about = describe(requests, judgements, PROMPT_VERSION)
    graded = [entry for entry in entries if entry.key in scored]
    grades = [scored[entry.key].value for entry in graded]
    result = JudgeResult(
        task=TASK,
        score=percent(grades),
        n=len(grades),
        extra={**about, **by_capability(graded, grades)},
        items={entry.key.removeprefix(PREFIX): grade for entry, grade in zip(graded, grades, strict=True)},
    )
    name = f"{answers_file.stem}_{slug(about['judge'])}"
    write_result(out / f"{name}-score.json", result, (root / "mm-vet.json", answers_file))
    # Another name than the public evaluator's own: it would go on with grades of another prompt.
    write_json(out / f"{name}-ours-grade-1runs.json", grade_rows(scored))
    return result


def estimate_mmvet(root: Path, answers_file: Path, out: Path, judge: Judge) -> Estimate:
    """What `judge_mmvet` will take; nothing is sent."""
    return estimate(requests_of(read_entries(root, answers_file), judge), parse_grade, judge, Cache(cache_file(out)))


def read_entries(root: Path, answers_file: Path) -> list[Entry]:
    """mm-vet.json with the answers, joined by id, in the order of mm-vet.json.

    Raises:
        ValueError: a file is missing or malformed, or ids do not match.
    """
    file = root / "mm-vet.json"
    if not file.is_file():
        raise ValueError(f"MM-Vet: {file} is missing; it is in mm-vet.zip of the releases of yuweihao/MM-Vet on GitHub")
    rows = _read_object(file)
    if answers_file.suffix == ".jsonl":
        answers = convert_answers(answers_file)
    else:
        answers = _read_object(answers_file)
    try:
        check_ids(list(rows), list(answers))
    except ValueError as error:
        raise ValueError(f"{answers_file}: {error}") from error
    return [_entry(file, key, row, answers_file, answers[key]) for key, row in rows.items()]


def convert_answers(file: Path) -> dict[str, str]:
    """LLaVA's answer lines as what the public evaluator takes: {"v1_<question_id>": text}.

    Raises:
        ValueError: a malformed line, or an id that comes twice.
    """
    answers = read_answers(file)
    converted = {f"{PREFIX}{str(answer.question_id).removeprefix(PREFIX)}": answer.text for answer in answers}
    if len(converted) != len(answers):
        raise ValueError(f"{file}: expected each question_id once; {len(answers)} lines hold {len(converted)} ids")
    return converted


def requests_of(entries: Sequence[Entry], judge: Judge) -> list[Request]:
    """The calls that grade these answers."""
    return [
        Request(
            key=entry.key,
            task=TASK,
            model=judge.model or JUDGE,
            temperature=TEMPERATURE if judge.temperature is None else judge.temperature,
            messages=({"role": "user", "content": grade_prompt(entry.question, entry.reference, entry.answer)},),
            max_tokens=MAX_TOKENS,
        )
        for entry in entries
    ]


def by_capability(entries: Sequence[Entry], grades: Sequence[float]) -> dict[str, dict[str, float]]:
    """Percent per capability, and per combination of capabilities (names in alphabetical order, joined by `_`)."""
    single: dict[str, list[float]] = {}
    combined: dict[str, list[float]] = {}
    for entry, grade in zip(entries, grades, strict=True):
        for name in entry.capabilities:
            single.setdefault(name, []).append(grade)
        combined.setdefault("_".join(entry.capabilities), []).append(grade)
    return {
        "per_capability": {name: percent(values) for name, values in sorted(single.items())},
        "per_combination": {name: percent(values) for name, values in sorted(combined.items())},
    }


def grade_rows(scored: Mapping[str, Judgement[float]]) -> dict[str, dict[str, list[Any]]]:
    """The public evaluator's grade file: per question the judge's name, its reply and the grade, one run each."""
    return {key: {"model": [one.served_by], "content": [one.text], "score": [one.value]} for key, one in scored.items()}


def _read_object(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: expected a JSON object: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{file}: expected a JSON object, got {type(value).__name__}")
    return value


def _entry(file: Path, key: str, row: Any, answers_file: Path, answer: Any) -> Entry:
    capabilities = row.get("capability") if isinstance(row, dict) else None
    if (
        not isinstance(row, dict)
        or not all(isinstance(row.get(name), str) for name in ("question", "answer"))
        or not isinstance(capabilities, list)
        or not capabilities
        or not all(isinstance(name, str) for name in capabilities)
    ):
        raise ValueError(f"{file}, {key}: expected question, answer and a list of capability, got {row!r}")
    if not isinstance(answer, str):
        raise ValueError(f"{answers_file}, {key}: expected the answer to be a string, got {answer!r}")
    # The file writes "a<AND>b": without blanks the sign is lost in a word.
    reference = row["answer"].replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
    return Entry(key, row["question"], reference, tuple(sorted(set(capabilities))), answer)


def main(
    mmvet_path: Annotated[Path, typer.Option("--mmvet_path", "--mmvet-path", help="Folder with mm-vet.json.")],
    model: Annotated[str, typer.Option("--model", help="Answers are <result_path>/<model>.json (or .jsonl).")],
    result_path: Annotated[
        Path, typer.Option("--result_path", "--result-path", help="Folder of answers and grades.")
    ] = Path("results"),
    judge: Annotated[str, typer.Option("--gpt_model", "--gpt-model", "--judge", help="The judge's name.")] = JUDGE,
    temperature: Temperature = TEMPERATURE,
    workers: Workers = 4,
    price_in: PriceIn = None,
    price_out: PriceOut = None,
    dry_run: DryRun = False,
) -> None:
    """Grade answers to MM-Vet by the judge at OPENAI_BASE_URL with the key in OPENAI_API_KEY.

    Example: python -m llava.eval.judge.mmvet --mmvet_path playground/data/eval/mm-vet --model llava-v1.5-7b
    --result_path playground/data/eval/mm-vet/results --dry-run
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        settings = Judge(judge, temperature, workers, price_in=price_in, price_out=price_out)
        answers = result_path / f"{model}.json"
        answers = answers if answers.exists() else answers.with_name(f"{model}.jsonl")
        if dry_run:
            typer.echo(str(estimate_mmvet(mmvet_path, answers, result_path, settings)))
            return
        result = judge_mmvet(mmvet_path, answers, result_path, settings)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    for name, value in {**result.extra["per_combination"], **result.extra["per_capability"]}.items():
        typer.echo(f"{name} {value:.1f}")
    excluded = len(result.extra["excluded"])
    typer.echo(f"total {result.score:.1f} ({result.n} graded, {excluded} excluded, judge {result.extra['judge']})")
    typer.echo(f"prompt: {PROMPT_VERSION}")


if __name__ == "__main__":
    typer.run(main)
