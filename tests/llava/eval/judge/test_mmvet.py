"""MM-Vet: what the judge reads, the grades, scores by capability, the public files and command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from llava.eval.judge import mmvet
from llava.eval.judge.client import Judge
from llava.eval.judge.judging import JudgeResult
from llava.eval.judge.mmvet import estimate_mmvet, judge_mmvet
from llava.eval.judge.mmvet_prompt import EXAMPLES, PROMPT_VERSION, grade_prompt, parse_grade
from tests.stub_judge import SECRET, StubJudge

# by question: capabilities, grade
QUESTIONS = {"v1_0": (["ocr", "math"], 0.5), "v1_1": (["rec"], 1.0), "v1_2": (["math", "ocr"], 0.2)}
JUDGE = Judge(workers=2, max_retries=1, timeout=10)


@pytest.fixture
def vet(tmp_path: Path) -> Path:
    folder = tmp_path / "mm-vet"
    folder.mkdir()
    rows = {
        key: {
            "imagename": f"{key}.png",
            "question": f"ask {key}",
            "answer": f"-1<AND>{key}",
            "imagesource": "nowhere",
            "capability": capability,
        }
        for key, (capability, _) in QUESTIONS.items()
    }
    (folder / "mm-vet.json").write_text(json.dumps(rows))
    (folder / "results").mkdir()
    (folder / "results" / "tiny.json").write_text(json.dumps({key: f"mine {key}" for key in reversed(QUESTIONS)}))
    return folder


def grade(body: dict[str, Any], number: int) -> str:
    """A judge that knows the grades; the question, its reference and its answer must come together."""
    asked = body["messages"][-1]["content"].rsplit("\n\n", 1)[1]
    (key,) = [key for key in QUESTIONS if asked.startswith(f"Question: ask {key}\n")]
    assert asked == f"Question: ask {key}\nReference: -1 <AND> {key}\nAnswer: mine {key}\nGrade:"
    return str(QUESTIONS[key][1])


def judged(vet: Path, answers: str = "tiny.json") -> JudgeResult:
    return judge_mmvet(vet, vet / "results" / answers, vet / "results", JUDGE)


def test_the_score_is_the_mean_grade_in_all_and_by_capability(stub: StubJudge, vet: Path) -> None:
    stub.reply = grade
    result = judged(vet)
    assert (result.task, result.n) == ("mmvet", 3) and result.score == pytest.approx(100 * 1.7 / 3)
    assert result.items == {"0": 0.5, "1": 1.0, "2": 0.2}
    assert result.extra["per_capability"] == pytest.approx({"math": 35.0, "ocr": 35.0, "rec": 100.0})
    assert result.extra["per_combination"] == pytest.approx({"math_ocr": 35.0, "rec": 100.0})
    assert {(body["model"], body["temperature"]) for body in stub.requests} == {("gpt-4-0613", 0.0)}


def test_the_result_says_that_the_prompt_is_not_the_published_one(stub: StubJudge, vet: Path) -> None:
    stub.reply = grade
    assert judged(vet).extra["prompt"] == PROMPT_VERSION and "not the published prompt" in PROMPT_VERSION
    record = json.loads((vet / "results" / "tiny_gpt-4-0613-score.json").read_text())
    assert (record["extra"]["prompt"], record["extra"]["judge"]) == (PROMPT_VERSION, "gpt-4-0613")
    assert set(record["inputs"]) == {"mm-vet.json", "tiny.json"} and "commit" in record["stamp"]


def test_grades_have_the_public_layout_under_a_name_of_their_own(stub: StubJudge, vet: Path) -> None:
    stub.reply = grade
    stub.served_as = "gpt-4-today"
    judged(vet)
    rows = json.loads((vet / "results" / "tiny_gpt-4-0613-ours-grade-1runs.json").read_text())
    assert rows["v1_0"] == {"model": ["gpt-4-today"], "content": ["0.5"], "score": [0.5]}
    assert list(rows) == list(QUESTIONS)
    assert not any(SECRET in file.read_text() for file in vet.rglob("*") if file.is_file())


def test_llavas_answer_lines_are_taken_as_well(stub: StubJudge, vet: Path) -> None:
    lines = [{"question_id": number, "text": f"mine v1_{number}", "prompt": "?"} for number in (2, 0, 1)]
    (vet / "results" / "tiny.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    stub.reply = grade
    assert judged(vet, "tiny.jsonl").items == judged(vet).items
    assert len(stub.requests) == 3


def test_a_reply_without_a_grade_is_left_out_never_zero(stub: StubJudge, vet: Path) -> None:
    stub.reply = lambda body, number: "?" if "mine v1_1" in body["messages"][-1]["content"] else grade(body, number)
    result = judged(vet)
    assert result.score == pytest.approx(35.0) and (result.n, result.extra["excluded"]) == (2, ["v1_1"])
    assert "rec" not in result.extra["per_capability"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.5", 0.5),
        (" 1.0\n", 1.0),
        ("1", 1.0),
        ("0", 0.0),
        ("0.5.", 0.5),
        ("Grade: 0.7", 0.7),
        ("Score 0.7", 0.7),
        ("0.3\nA part is there.", 0.3),
        ("1.5", None),
        ("10", None),
        ("-0.5", None),
        ("0,5", None),
        ("1/10", None),
        ("0.5 or 0.6", None),
        ("half", None),
        ("", None),
    ],
)
def test_a_grade_is_one_number_from_0_to_1(text: str, value: float | None) -> None:
    assert parse_grade(text) == value


def test_the_prompt_ends_where_the_judge_goes_on() -> None:
    prompt = grade_prompt("q?", "r", "a")
    assert prompt.endswith("Question: q?\nReference: r\nAnswer: a\nGrade:")
    assert prompt.count("Question: ") == len(EXAMPLES) + 1
    assert all(parse_grade(one[3]) is not None for one in EXAMPLES)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("mm-vet.json", None, r"mm-vet\.json is missing; .*mm-vet\.zip"),
        ("mm-vet.json", '{"v1_0": {"question": "q", "answer": "a", "capability": []}}', "v1_0: expected question"),
        ("results/tiny.json", '{"v1_0": "x"}', r"tiny\.json: .*missing 2 \(v1_1, v1_2\)"),
        ("results/tiny.json", '{"v1_0": "x", "v1_1": 3, "v1_2": "x"}', "v1_1: expected the answer to be a string"),
        ("results/tiny.json", "[]", "expected a JSON object, got list"),
        ("results/tiny.json", "{", "expected a JSON object"),
    ],
)
def test_what_does_not_fit_is_named(stub: StubJudge, vet: Path, file: str, text: str | None, message: str) -> None:
    if text is None:
        (vet / file).unlink()
    else:
        (vet / file).write_text(text)
        if file == "mm-vet.json":
            (vet / "results" / "tiny.json").write_text('{"v1_0": "x"}')
    with pytest.raises(ValueError, match=message):
        judged(vet)
    assert not stub.requests


def test_the_command(stub: StubJudge, vet: Path) -> None:
    stub.reply = grade
    app = typer.Typer()
    app.command()(mmvet.main)
    words = ["--mmvet_path", str(vet), "--model", "tiny", "--result_path", str(vet / "results"), "--judge", "gpt-4o"]
    dry = CliRunner().invoke(app, [*words, "--dry-run"])
    assert dry.exit_code == 0 and "judge gpt-4o: 3 calls" in dry.output and not stub.requests
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "total 56.7 (3 graded, 0 excluded, judge gpt-4o)" in done.output and PROMPT_VERSION in done.output
    assert estimate_mmvet(vet, vet / "results" / "tiny.json", vet / "results", Judge("gpt-4o")).calls == 0
