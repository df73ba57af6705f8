"""LLaVA-Bench: what the judge reads, what its reviews say, the public files, the public commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from llava.eval import eval_gpt_review_bench, summarize_gpt_review
from llava.eval.judge.client import Judge
from llava.eval.judge.judging import JudgeResult
from llava.eval.judge.llavabench import (
    estimate_llavabench,
    judge_llavabench,
    parse_scores,
    review_content,
    summarise,
)
from tests.stub_judge import SECRET, StubJudge

ROOT = Path(__file__).resolve().parents[4]
CATEGORIES = ("conv", "detail", "complex", "conv")
# by question: GPT-4's score, the model's
SCORES = {10: (8, 4), 11: (10, 10), 12: (5, 1), 13: (9, 3)}
JUDGE = Judge(workers=2, max_retries=1, timeout=10)


def write_lines(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def answer(number: int, text: str, who: str) -> dict[str, Any]:
    return {"question_id": number, "prompt": "?", "text": text, "answer_id": f"{who}{number}", "model_id": who}


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    """The public folder with four questions on two pictures; answers are in another order than questions."""
    folder = tmp_path / "llava-bench-in-the-wild"
    folder.mkdir()
    images = ("001.jpg", "002.jpg", "002.jpg", "001.jpg")
    write_lines(
        folder / "questions.jsonl",
        [
            {"question_id": number, "image": image, "category": category, "text": f"ask {number}"}
            for number, image, category in zip(SCORES, images, CATEGORIES, strict=True)
        ],
    )
    write_lines(
        folder / "context.jsonl",
        [
            {"id": "001", "image": "001.jpg", "caption": "a cat"},
            {"id": "002", "image": "002.jpg", "caption": ["a dog", "a hat"]},
        ],
    )
    write_lines(folder / "answers_gpt4.jsonl", [answer(n, f"reference {n}", "g") for n in reversed(SCORES)])
    rules = {f"llava_bench_{name}": {"role": "Assistant", "prompt": f"rule of {name}"} for name in CATEGORIES}
    (folder / "rule.json").write_text(json.dumps(rules))
    (folder / "answers").mkdir()
    write_lines(folder / "answers" / "tiny.jsonl", [answer(n, f"mine {n}", "m") for n in [12, 10, 13, 11]])
    return folder


def review(body: dict[str, Any], number: int) -> str:
    """A judge that knows SCORES; it must have been shown both answers to the question it was asked."""
    prompt = body["messages"][-1]["content"]
    (key,) = [key for key in SCORES if f"[Question]\nask {key}\n" in prompt]
    assert prompt.index(f"reference {key}\n") < prompt.index(f"mine {key}\n")
    return "{} {}\nBecause.".format(*SCORES[key])


def judged(bench: Path, judge: Judge = JUDGE) -> JudgeResult:
    return judge_llavabench(bench, bench / "answers" / "tiny.jsonl", bench / "reviews", judge)


def test_the_score_is_the_ratio_of_the_means(stub: StubJudge, bench: Path) -> None:
    stub.reply = review
    result = judged(bench)
    assert (result.task, result.n) == ("llavabench", 4)
    assert result.score == pytest.approx(100 * (4 + 10 + 1 + 3) / (8 + 10 + 5 + 9))
    assert result.extra["per_category"] == pytest.approx({
        "llava_bench_conv": 100 * 7 / 17,
        "llava_bench_detail": 100.0,
        "llava_bench_complex": 20.0,
    })
    assert result.items == {"10": 0.4, "11": 1.0, "12": 0.1, "13": 0.3}
    items, reference = (list(one.values()) for one in (result.items, result.extra["reference_items"]))
    assert result.score == pytest.approx(100 * sum(items) / sum(reference))
    assert (result.extra["judge"], result.extra["temperature"], result.extra["excluded"]) == ("gpt-4-0314", 0.2, [])


def test_the_judge_reads_the_published_sections(stub: StubJudge, bench: Path) -> None:
    stub.reply = review
    judged(bench)
    (prompt,) = [text for text in stub.prompts() if "ask 12" in text]
    assert prompt == (
        "[Context]\na dog\na hat\n\n[Question]\nask 12\n\n[Assistant 1]\nreference 12\n\n[End of Assistant 1]\n\n"
        "[Assistant 2]\nmine 12\n\n[End of Assistant 2]\n\n[System]\nrule of complex\n\n"
    )
    system = stub.requests[0]["messages"][0]
    assert system["role"] == "system" and stub.requests[0]["max_tokens"] == 1024
    assert review_content("c", "q", ("a", "b"), {"role": "X", "prompt": "p"}).count("[End of X") == 2


def test_the_files_have_the_public_layout_and_name_the_judge(stub: StubJudge, bench: Path) -> None:
    stub.reply = review
    judged(bench, Judge(model="org/judge", workers=1))
    rows = [json.loads(line) for line in (bench / "reviews" / "tiny_org-judge.jsonl").read_text().splitlines()]
    assert [row["question_id"] for row in rows] == list(SCORES)
    assert rows[2] == {
        "id": 3,
        "question_id": 12,
        "answer1_id": "g12",
        "answer2_id": "m12",
        "category": "llava_bench_complex",
        "content": "5 1\nBecause.",
        "tuple": [5.0, 1.0],
        "judge": "org/judge",
    }
    record = json.loads((bench / "reviews" / "tiny_org-judge.json").read_text())
    assert record["extra"]["judge"] == "org/judge" and set(record["stamp"]) >= {"commit", "command"}
    assert set(record["inputs"]) == {
        *("questions.jsonl", "context.jsonl", "rule.json", "answers_gpt4.jsonl", "tiny.jsonl"),
    }
    written = [file.read_text() for file in (bench / "reviews").rglob("*") if file.is_file()]
    assert len(written) == 3 and not any(SECRET in text or str(bench) in text for text in written)


def test_a_review_without_scores_has_no_line_and_does_not_count(stub: StubJudge, bench: Path) -> None:
    stub.reply = lambda body, number: "I cannot." if "ask 11" in body["messages"][-1]["content"] else review(body, 0)
    result = judged(bench)
    assert result.n == 3 and result.extra["excluded"] == ["11"] and "11" not in result.items
    assert result.score == pytest.approx(100 * (4 + 1 + 3) / (8 + 5 + 9))
    rows = (bench / "reviews" / "tiny_gpt-4-0314.jsonl").read_text()
    assert rows.count("\n") == 3 and "-1" not in rows


def test_the_same_judge_is_asked_once_and_another_judge_anew(stub: StubJudge, bench: Path) -> None:
    stub.reply = review
    first = judged(bench)
    assert judged(bench) == first and len(stub.requests) == 4
    judged(bench, Judge(model="another"))
    assert len(stub.requests) == 8
    assert estimate_llavabench(bench, bench / "answers" / "tiny.jsonl", bench / "reviews", JUDGE).calls == 0


@pytest.mark.parametrize(
    ("text", "scores"),
    [
        ("8 7", (8.0, 7.0)),
        ("8.5, 7\nThe first ...", (8.5, 7.0)),
        ("8,7", (8.0, 7.0)),
        ("\n 8  7 \r\nwhy", (8.0, 7.0)),
        ("0 10", (0.0, 10.0)),
        ("", None),
        ("8", None),
        ("8 7 6", None),
        ("8 of 10", None),
        ("8/10 7/10", None),
        ("nan 7", None),
        ("inf 7", None),
        ("8 -1", None),
        ("80 70", None),
        ("The scores are\n8 7", None),
    ],
)
def test_scores_are_two_numbers_on_the_first_line(text: str, scores: tuple[float, float] | None) -> None:
    assert parse_scores(text) == scores


def drop_rule(bench: Path) -> None:
    (bench / "rule.json").unlink()


def drop_category(bench: Path) -> None:
    (bench / "rule.json").write_text('{"llava_bench_conv": {"role": "A", "prompt": "p"}}')


def drop_context(bench: Path) -> None:
    write_lines(bench / "context.jsonl", [{"id": "001", "image": "001.jpg", "caption": "a cat"}])


def drop_answer(bench: Path) -> None:
    write_lines(bench / "answers" / "tiny.jsonl", [answer(n, "mine", "m") for n in [10, 11, 12]])


def break_answer(bench: Path) -> None:
    write_lines(bench / "answers_gpt4.jsonl", [{"question_id": n} for n in SCORES])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop_rule, r"rule\.json is missing; .*llava/eval/table/rule\.json"),
        (drop_category, r"no rule 'llava_bench_detail', the category of question_id 11"),
        (drop_context, r"context\.jsonl: no context of image '002\.jpg' \(question_id 11\)"),
        (drop_answer, r"tiny\.jsonl: .*missing 1 \(13\)"),
        (break_answer, r"answers_gpt4\.jsonl, question_id 1\d: expected a string 'text'"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_sent(
    stub: StubJudge, bench: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(bench)
    with pytest.raises(ValueError, match=message):
        judged(bench)
    assert not stub.requests


def test_a_reference_without_any_score_is_an_error() -> None:
    with pytest.raises(ValueError, match="all 1 scores of the reference answers are 0"):
        _ = summarise([{"tuple": [0, 5]}])["all"].percent


# ------------------------------------------------------------------------------------------------------- commands


def words(bench: Path, *more: str) -> list[str]:
    places = {name: str(bench / file) for name, file in (("--question", "questions.jsonl"), ("--rule", "rule.json"))}
    flags = [word for pair in places.items() for word in pair]
    answers = [str(bench / "answers_gpt4.jsonl"), str(bench / "answers" / "tiny.jsonl")]
    context = ["--context", str(bench / "context.jsonl")]
    return [*flags, *context, "--answer-list", *answers, "--output", str(bench / "reviews" / "tiny.jsonl"), *more]


def command(arguments: list[str]) -> Any:
    app = typer.Typer()
    app.command()(eval_gpt_review_bench.main)
    return CliRunner().invoke(app, arguments)


def test_the_public_commands_review_and_summarise(
    stub: StubJudge, bench: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stub.reply = review
    done = command(words(bench))
    assert done.exit_code == 0 and "56.2 (4 reviewed, 0 excluded, judge gpt-4-0314)" in done.output
    capsys.readouterr()
    summarize_gpt_review.main(["-f", str(bench / "reviews" / "tiny.jsonl")])
    assert capsys.readouterr().out.splitlines() == [
        "tiny (judge gpt-4-0314)",
        "all 56.2 80.0 45.0",
        "llava_bench_complex 20.0 50.0 10.0",
        "llava_bench_conv 41.2 85.0 35.0",
        "llava_bench_detail 100.0 100.0 100.0",
        "=" * 33,
    ]


def test_a_dry_run_sends_nothing_and_needs_no_key(
    stub: StubJudge, bench: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    done = command(words(bench, "--dry-run", "--price-in", "30", "--price-out", "60", "--max-tokens", "100"))
    assert done.exit_code == 0 and "4 calls" in done.output and "at most 400 completion" in done.output
    assert "0.03 at the given prices" in done.output  # 400 tokens at 60 a million and some 280 at 30
    assert not stub.requests and not (bench / "reviews").exists()


def test_the_command_names_a_missing_key(stub: StubJudge, bench: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    done = command(words(bench))
    assert done.exit_code == 2 and "OPENAI_API_KEY" in done.output


def test_after_a_kill_only_what_is_missing_is_asked(stub: StubJudge, bench: Path) -> None:
    """A process killed in the middle of its third call has kept two judgements."""
    running: list[subprocess.Popen[bytes]] = []

    def killing(body: dict[str, Any], number: int) -> str:
        if number == 3:
            running[0].kill()
        return review(body, number)

    stub.reply = killing
    module = "llava.eval.eval_gpt_review_bench"
    program = [sys.executable, "-m", module, *words(bench, "--workers", "1")]
    running.append(subprocess.Popen(program, cwd=ROOT, env=dict(os.environ), stderr=subprocess.DEVNULL))
    assert running[0].wait(timeout=120) == -9
    assert len(stub.requests) == 3 and not (bench / "reviews" / "tiny.jsonl").exists()

    done = command(words(bench))
    assert done.exit_code == 0 and "56.2 (4 reviewed" in done.output
    assert len(stub.requests) == 3 + 2
    assert len(set(stub.prompts())) == 4 and stub.prompts().count(stub.prompts()[2]) == 2


def test_the_summary_chooses_files_as_the_public_program_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "tables"
    folder.mkdir()
    row = {"question_id": 1, "category": "c", "tuple": [8, 4]}
    ignored = {"question_id": "x", "category": "c", "tuple": [1, 1]}
    unreadable = {"question_id": 2, "category": "c", "tuple": [-1, -1]}
    write_lines(folder / "gpt4_text_a.jsonl", [row, ignored, unreadable])
    write_lines(folder / "review_b-0613.jsonl", [{**row, "tuple": [8, 8]}])
    write_lines(folder / "review_c.jsonl", [{"question_id": 1, "score": [4, 3], "judge": "gpt-4o"}])
    write_lines(folder / "other.jsonl", [{"no": "review"}])

    def shown(*arguments: str) -> list[str]:
        summarize_gpt_review.main(["-d", str(folder), *arguments])
        return capsys.readouterr().out.splitlines()

    everything = shown("-i", "x")
    assert [line for line in everything if line.startswith("all")] == [
        "all 50.0 80.0 40.0",
        "all 100.0 80.0 80.0",
        "all 75.0 40.0 30.0",
    ]
    assert "1 of 2 reviews hold no scores and are left out" in everything
    assert [line for line in everything if "judge" in line] == [
        "a (judge gpt-4-0314?)",
        "review_b-0613 (judge gpt-4-0613?)",
        "review_c (judge gpt-4o)",
    ]
    assert shown("-v", "0613")[0].startswith("review_b") and len(shown("-v", "0613")) == 4
    assert shown("-v", "4o")[1] == "all 75.0 40.0 30.0"
    assert shown("-s", "b", "06")[1] == "all 100.0 80.0 80.0"
    assert shown("-f", "gpt4_text_a.jsonl", "review_c.jsonl", "-i", "x", "2")[1] == "all 50.0 80.0 40.0"


@pytest.mark.parametrize(
    ("arguments", "message"), [([], "expected --files or --dir"), (["-f", "a.jsonl", "-s", "b"], "no review files")]
)
def test_the_summary_says_what_is_missing(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        summarize_gpt_review.main(arguments)
    assert message in capsys.readouterr().err
