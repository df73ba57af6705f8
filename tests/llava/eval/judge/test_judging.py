"""Asking a judge: estimate, retries, kept judgements, replies that cannot be read, errors that name what is wrong."""

from __future__ import annotations

import os
import traceback
from dataclasses import replace
from pathlib import Path

import pytest

from llava.eval.judge.cache import Cache
from llava.eval.judge.client import Judge, Request, connect
from llava.eval.judge.judging import Judgement, OnlyEstimated, describe, estimate, judge_all, slug
from tests.stub_judge import SECRET, StubJudge

JUDGE = Judge(workers=2, max_retries=3, timeout=10)


def read(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def request(key: str, text: str | None = None, model: str = "judge-a") -> Request:
    said = f"question {key}" if text is None else text
    return Request(key, "task", model, 0.0, ({"role": "user", "content": said},), max_tokens=10)


REQUESTS = [request(str(number)) for number in range(5)]


def values(judged: dict[str, Judgement[float] | None]) -> dict[str, float | None]:
    return {key: one and one.value for key, one in judged.items()}


def test_every_request_is_sent_as_it_is_and_comes_back_under_its_key(stub: StubJudge, tmp_path: Path) -> None:
    stub.reply = lambda body, number: body["messages"][0]["content"].removeprefix("question ")
    judged = judge_all(REQUESTS, read, JUDGE, Cache(tmp_path / "c.jsonl"))
    assert values(judged) == {str(n): float(n) for n in range(5)}
    assert list(judged) == [one.key for one in REQUESTS]
    assert sorted(stub.prompts()) == [f"question {n}" for n in range(5)]
    assert {(b["model"], b["temperature"], b["max_tokens"]) for b in stub.requests} == {("judge-a", 0.0, 10)}
    assert set(stub.keys) == {f"Bearer {SECRET}"}


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_failing_call_is_made_again(stub: StubJudge, tmp_path: Path, status: int) -> None:
    stub.reply = lambda body, number: (status, "busy") if number < 3 else "0.5"
    judged = judge_all(REQUESTS[:1], read, JUDGE, Cache(tmp_path / "c.jsonl"))
    assert values(judged) == {"0": 0.5} and len(stub.requests) == 3
    assert judged["0"] is not None and judged["0"].attempts == 1  # a failed call is no unreadable reply


def test_a_call_that_keeps_failing_is_an_error_and_what_came_before_is_kept(stub: StubJudge, tmp_path: Path) -> None:
    stub.reply = lambda body, number: "0.5" if number <= 2 else (500, "down")
    one_by_one = replace(JUDGE, workers=1, max_retries=2)
    with pytest.raises(ValueError, match=r"judge-a \(question_id 2\): HTTP 500.*down(.|\n)*run the same again"):
        judge_all(REQUESTS, read, one_by_one, Cache(tmp_path / "c.jsonl"))
    assert len(stub.requests) == 2 + 3  # the third call and its two retries; the others are not begun
    assert len(Cache(tmp_path / "c.jsonl")) == 2


def test_a_reply_without_a_score_is_asked_for_again_and_warmer(stub: StubJudge, tmp_path: Path) -> None:
    stub.reply = lambda body, number: "I would say half" if number == 1 else "0.5"
    judged = judge_all(REQUESTS[:1], read, JUDGE, Cache(tmp_path / "c.jsonl"))
    assert judged["0"] is not None and (judged["0"].value, judged["0"].attempts) == (0.5, 2)
    assert [body["temperature"] for body in stub.requests] == [0.0, 0.5]
    assert describe(REQUESTS[:1], judged, "p")[1]["reasked"] == 1


def test_replies_that_never_hold_a_score_are_excluded_and_counted(
    stub: StubJudge, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stub.reply = lambda body, number: "no idea" if "question 3" in body["messages"][0]["content"] else "1"
    judged = judge_all(REQUESTS, read, JUDGE, Cache(tmp_path / "c.jsonl"))
    assert judged["3"] is None and len(stub.requests) == 4 + JUDGE.attempts
    scored, about = describe(REQUESTS, judged, "p")
    assert set(scored) == {"0", "1", "2", "4"} and about["excluded"] == ["3"] and about["questions"] == 5
    assert "1 of 5 questions are excluded" in caplog.text

    judge_all(REQUESTS, read, JUDGE, Cache(tmp_path / "c.jsonl"))
    assert len(stub.requests) == 4 + JUDGE.attempts  # the vain attempts are kept, too
    judge_all(REQUESTS, read, replace(JUDGE, attempts=JUDGE.attempts + 1), Cache(tmp_path / "c.jsonl"))
    assert len(stub.requests) == 4 + JUDGE.attempts + 1


def test_no_score_at_all_is_an_error(stub: StubJudge, tmp_path: Path) -> None:
    stub.reply = lambda body, number: ""
    judged = judge_all(REQUESTS[:2], read, JUDGE, Cache(tmp_path / "c.jsonl"))
    with pytest.raises(ValueError, match="judge-a gave no readable score for any of 2 questions"):
        describe(REQUESTS[:2], judged, "p")


@pytest.mark.parametrize(
    ("changed", "asked"),
    [
        (request("0"), 0),
        (request("another id", text="question 0"), 0),
        (request("0", model="judge-b"), 1),
        (replace(request("0"), temperature=0.2), 1),
        (replace(request("0"), task="another"), 1),
        (request("0", text="question 0 "), 1),
        (replace(request("0"), max_tokens=11), 1),
    ],
)
def test_a_judgement_is_kept_for_all_that_decides_it(
    stub: StubJudge, tmp_path: Path, changed: Request, asked: int
) -> None:
    judge_all([request("0")], read, JUDGE, Cache(tmp_path / "c.jsonl"))
    before = len(stub.requests)
    judge_all([changed], read, JUDGE, Cache(tmp_path / "c.jsonl"))
    assert len(stub.requests) - before == asked


def test_equal_questions_get_one_judgement(stub: StubJudge, tmp_path: Path) -> None:
    stub.reply = lambda body, number: str(number)
    same = [request("a", text="same"), request("b", text="same"), request("c", text="other")]
    judged = judge_all(same, read, JUDGE, Cache(tmp_path / "c.jsonl"))
    assert len(stub.requests) == 2 and values(judged)["a"] == values(judged)["b"] != values(judged)["c"]


@pytest.mark.parametrize("workers", [1, 4])
def test_neither_order_nor_workers_matter(stub: StubJudge, tmp_path: Path, workers: int) -> None:
    stub.reply = lambda body, number: body["messages"][0]["content"][-1]
    one = judge_all(REQUESTS, read, replace(JUDGE, workers=workers), Cache(tmp_path / "a.jsonl"))
    other = judge_all(REQUESTS[::-1], read, JUDGE, Cache(tmp_path / "b.jsonl"))
    assert one == other


def test_the_estimate_counts_what_is_missing(stub: StubJudge, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "c.jsonl")
    judge_all([request("0", text="x" * 400)], read, JUDGE, cache)
    wanted = [request("0", text="x" * 400), request("1", text="y" * 401), request("2", text="z" * 3)]
    wanted += [request("3", text="z" * 3)]  # says what 2 says
    priced = replace(JUDGE, price_in=30.0, price_out=60.0)
    found = estimate(wanted, read, priced, cache)
    assert (found.calls, found.kept, found.prompt_tokens, found.completion_tokens) == (2, 1, 101 + 1, 20)
    assert found.cost == pytest.approx((102 * 30 + 20 * 60) / 1e6)
    assert estimate(wanted, read, JUDGE, cache).cost is None and len(stub.requests) == 1


def test_the_estimate_is_printed_before_anything_is_sent(
    stub: StubJudge, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[str] = []

    def reply(body: object, number: int) -> str:
        seen.append(capsys.readouterr().err)
        return "1"

    stub.reply = reply
    judge_all(REQUESTS[:1], read, replace(JUDGE, price_in=1e6, price_out=0.0), Cache(tmp_path / "c.jsonl"))
    assert "judge judge-a: 1 calls (0 judged before), about 3 prompt tokens and at most 10 compl" in seen[0]
    assert "3.00 at the given prices" in seen[0]


@pytest.mark.parametrize("torn", ['{"digest": "ab', '{"digest": "ab"}', "[]"])
def test_a_torn_last_line_costs_one_call_and_spoils_nothing(stub: StubJudge, tmp_path: Path, torn: str) -> None:
    file = tmp_path / "c.jsonl"
    judge_all(REQUESTS, read, replace(JUDGE, workers=1), Cache(file))
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:-1]) + torn)
    for _ in range(2):  # what is appended behind the torn line can be read the next time
        judge_all(REQUESTS, read, JUDGE, Cache(file))
        assert len(stub.requests) == len(REQUESTS) + 1


def test_two_programs_may_fill_one_file(stub: StubJudge, tmp_path: Path) -> None:
    first, second = Cache(tmp_path / "c.jsonl"), Cache(tmp_path / "c.jsonl")
    stub.reply = lambda body, number: str(number)
    judge_all(REQUESTS[:3], read, JUDGE, first)
    judge_all(REQUESTS, read, JUDGE, second)  # has not seen the first's
    both = Cache(tmp_path / "c.jsonl")
    assert len(both) == 5
    assert both.get(REQUESTS[0], 0) == first.get(REQUESTS[0], 0) != second.get(REQUESTS[0], 0)


def test_a_missing_key_is_named_and_is_not_needed_for_what_is_kept(
    stub: StubJudge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge_all(REQUESTS[:1], read, JUDGE, Cache(tmp_path / "c.jsonl"))
    monkeypatch.delenv("OPENAI_API_KEY")
    assert values(judge_all(REQUESTS[:1], read, JUDGE, Cache(tmp_path / "c.jsonl"))) == {"0": 1.0}
    with pytest.raises(ValueError, match=r"OPENAI_API_KEY is not set.*OPENAI_BASE_URL"):
        judge_all(REQUESTS, read, JUDGE, Cache(tmp_path / "c.jsonl"))
    assert len(stub.requests) == 1


def test_settings_a_newer_model_refuses_are_left_out_and_the_result_says_so(stub: StubJudge, tmp_path: Path) -> None:
    complaints = {
        "max_tokens": "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
        "'max_completion_tokens' instead.",
        "temperature": "Unsupported value: 'temperature' does not support 0.0 with this model.",
    }

    def reply(body: dict[str, object], number: int) -> str | tuple[int, str]:
        return next(((400, told) for name, told in complaints.items() if name in body), "0.5")

    stub.reply = reply
    judged = judge_all(REQUESTS, read, replace(JUDGE, workers=1), Cache(tmp_path / "c.jsonl"))
    assert set(values(judged).values()) == {0.5}
    assert len(stub.requests) == len(REQUESTS) + 2, "each refusal comes once, not with every call"
    assert set(stub.requests[-1]) == {"model", "messages", "max_completion_tokens"}
    assert stub.requests[-1]["max_completion_tokens"] == 10
    assert describe(REQUESTS, judged, "p")[1]["unsent"] == ["temperature"]
    kept = judge_all(REQUESTS, read, JUDGE, Cache(tmp_path / "c.jsonl"))
    assert kept == judged and len(stub.requests) == len(REQUESTS) + 2
    stub.reply = lambda body, number: "0.5"
    plain = judge_all([request("x")], read, JUDGE, Cache(tmp_path / "d.jsonl"))
    assert "unsent" not in describe([request("x")], plain, "p")[1]


def test_a_setting_is_left_out_once(stub: StubJudge, tmp_path: Path) -> None:
    stub.reply = lambda body, number: (400, "temperature, temperature!")
    with pytest.raises(ValueError, match="HTTP 400"):
        judge_all(REQUESTS[:1], read, JUDGE, Cache(tmp_path / "c.jsonl"))
    assert len(stub.requests) == 2


def test_a_dry_run_estimates_and_sends_nothing(
    stub: StubJudge, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(OnlyEstimated):
        judge_all(REQUESTS, read, replace(JUDGE, dry_run=True), Cache(tmp_path / "c.jsonl"))
    assert "judge judge-a: 5 calls" in capsys.readouterr().err and stub.requests == []


@pytest.mark.parametrize("status", [400, 401, 403, 404, 500])
def test_no_error_shows_the_key(stub: StubJudge, tmp_path: Path, status: int) -> None:
    stub.reply = lambda body, number: (status, f"bad request with {SECRET} in it")
    once = replace(JUDGE, max_retries=0)
    with pytest.raises(ValueError, match=f"HTTP {status}") as caught:
        judge_all(REQUESTS[:1], read, once, Cache(tmp_path / "c.jsonl"))
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    with pytest.raises(ValueError, match=f"HTTP {status}") as caught:
        connect(once)(REQUESTS[0], 0)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    if status == 401:
        assert "OPENAI_API_KEY" in str(caught.value)


def test_the_key_is_in_no_file(stub: StubJudge, tmp_path: Path) -> None:
    judge_all(REQUESTS, read, JUDGE, Cache(tmp_path / "c.jsonl"))
    assert SECRET in os.environ["OPENAI_API_KEY"]
    assert all(SECRET not in file.read_text() for file in tmp_path.iterdir())


def test_the_endpoints_own_name_for_its_model_is_in_the_result(stub: StubJudge, tmp_path: Path) -> None:
    stub.served_as = "judge-a-2031"
    judged = judge_all(REQUESTS, read, JUDGE, Cache(tmp_path / "c.jsonl"))
    _, about = describe(REQUESTS, judged, "p")
    assert (about["judge"], about["served_by"]) == ("judge-a", ["judge-a-2031"])


def test_something_else_than_a_judge_is_noticed(
    stub: StubJudge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(body: object, key: str) -> tuple[int, dict[str, object]]:
        return 200, {"hello": "world"}

    monkeypatch.setattr(stub, "answer", nothing)
    with pytest.raises(ValueError, match="expected a chat completion"):
        judge_all(REQUESTS[:1], read, JUDGE, Cache(tmp_path / "c.jsonl"))


@pytest.mark.parametrize(
    "settings", [{"workers": 0}, {"attempts": 0}, {"max_retries": -1}, {"timeout": 0}, {"price_in": 1.0}]
)
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Judge(**settings)  # type: ignore[arg-type]


def test_a_judges_name_makes_a_file_name() -> None:
    assert slug("gpt-4-0314") == "gpt-4-0314"
    assert slug("org/model 7B:latest") == "org-model-7B-latest"
