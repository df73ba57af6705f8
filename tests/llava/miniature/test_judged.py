"""The judged twins have the public layouts, are judged from file to score, and share no scene with another twin."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from llava.eval.judge.client import Judge
from llava.eval.judge.llavabench import judge_llavabench
from llava.eval.judge.mmvet import judge_mmvet
from llava.miniature.judged import BENCH_SEEDS, CATEGORIES, VET_SEEDS, write_judged
from llava.miniature.world import split_of
from tests.stub_judge import StubJudge, point_to, serve


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("eval")
    write_judged(out, bench_questions=12, vet_questions=20)
    return out


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_llava_bench_has_the_public_layout(twins: Path) -> None:
    folder = twins / "llava-bench-in-the-wild"
    assert names(folder) == {"questions.jsonl", "context.jsonl", "answers_gpt4.jsonl", "rule.json", "images"}
    questions, contexts = lines(folder / "questions.jsonl"), lines(folder / "context.jsonl")
    answers = lines(folder / "answers_gpt4.jsonl")
    assert [question["question_id"] for question in questions] == list(range(12))
    assert all(set(question) == {"question_id", "image", "category", "text"} for question in questions)
    assert all(set(context) == {"id", "image", "caption"} for context in contexts)
    keys = {"question_id", "prompt", "text", "answer_id", "model_id", "metadata"}
    assert all(set(answer) == keys for answer in answers) and all(answer["text"] for answer in answers)
    assert [answer["prompt"] for answer in answers] == [question["text"] for question in questions]
    assert [question["category"] for question in questions] == ["conv", "detail", "complex"] * 4
    images = [context["image"] for context in contexts]
    assert images == ["001.jpg", "002.jpg", "003.jpg", "004.jpg"] and set(images) == names(folder / "images")
    assert [context["id"] for context in contexts] == ["001", "002", "003", "004"]
    rules = json.loads((folder / "rule.json").read_text())
    assert set(rules) == {f"llava_bench_{name}" for name in CATEGORIES}
    assert all(set(rule) == {"role", "prompt"} for rule in rules.values())


def test_the_description_holds_what_the_questions_ask(twins: Path) -> None:
    """A judge that sees only the words can tell the colour, the shape and the number that are right."""
    folder = twins / "llava-bench-in-the-wild"
    captions = {context["image"]: context["caption"] for context in lines(folder / "context.jsonl")}
    answers = {answer["question_id"]: answer["text"] for answer in lines(folder / "answers_gpt4.jsonl")}
    for question in lines(folder / "questions.jsonl"):
        if question["category"] == "conv":
            assert re.search(rf"\b{answers[question['question_id']]}\b", captions[question["image"]])


def test_mm_vet_has_the_public_layout(twins: Path) -> None:
    folder = twins / "mm-vet"
    assert names(folder) == {"llava-mm-vet.jsonl", "mm-vet.json", "images"}
    questions, references = lines(folder / "llava-mm-vet.jsonl"), json.loads((folder / "mm-vet.json").read_text())
    assert list(references) == [f"v1_{number}" for number in range(20)]
    for number, (question, (key, row)) in enumerate(zip(questions, references.items(), strict=True)):
        assert set(row) == {"imagename", "question", "answer", "imagesource", "capability"}
        assert question == {"question_id": number, "image": row["imagename"], "text": row["question"]}
        assert row["imagename"] == f"{key}.jpg" and row["answer"]
        with Image.open(folder / "images" / row["imagename"]) as picture:
            assert picture.mode == "RGB"
    assert {tuple(row["capability"]) for row in references.values()} == {("rec",), ("ocr",), ("rec", "spat")}


def test_equal_seeds_give_equal_files_and_others_do_not(twins: Path, tmp_path: Path) -> None:
    write_judged(tmp_path / "again", bench_questions=12, vet_questions=20)
    write_judged(tmp_path / "other", seed=1, bench_questions=12, vet_questions=20)

    def content(folder: Path) -> dict[str, bytes]:
        return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}

    assert content(tmp_path / "again") == content(twins)
    assert content(tmp_path / "other")["mm-vet/mm-vet.json"] != content(twins)["mm-vet/mm-vet.json"]


def test_scenes_are_of_the_test_split_and_of_no_other_twin() -> None:
    edges = (BENCH_SEEDS[0], BENCH_SEEDS[-1], VET_SEEDS[0], VET_SEEDS[-1])
    assert {split_of(seed) for seed in edges} == {"test"} and list(edges) == sorted(edges)
    assert BENCH_SEEDS[0] - 2_000_000 >= 500_000  # the other twins' scenes end before


@pytest.mark.parametrize("numbers", [{"seed": 100}, {"seed": -1}, {"bench_questions": 4}, {"vet_questions": 0}])
def test_numbers_that_do_not_fit_are_refused(tmp_path: Path, numbers: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected"):
        write_judged(tmp_path, **numbers)


def test_both_twins_run_from_file_to_score(twins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference's own answers get full marks from a judge that compares words, wrong ones get none."""

    def compare(body: dict[str, Any], number: int) -> str:
        prompt = body["messages"][-1]["content"]
        if "[Context]" in prompt:
            one, two = re.findall(r"\[Assistant \d\]\n(.*)\n", prompt)
            return f"10 {10 if one == two else 0}"
        reference, answer = (re.findall(rf"{name}: (.*)", prompt)[-1] for name in ("Reference", "Answer"))
        return str(float(reference == answer))

    bench, vet = twins / "llava-bench-in-the-wild", twins / "mm-vet"
    rows = lines(bench / "answers_gpt4.jsonl")
    rows[0]["text"] = "nonsense"
    (tmp_path / "bench.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    right = {key: row["answer"] for key, row in json.loads((vet / "mm-vet.json").read_text()).items()}
    (tmp_path / "vet.json").write_text(json.dumps({**right, "v1_3": "nonsense"}))
    with serve(StubJudge(compare)) as stub:
        point_to(stub, monkeypatch)
        scores = judge_llavabench(bench, tmp_path / "bench.jsonl", tmp_path / "reviews", Judge())
        grades = judge_mmvet(vet, tmp_path / "vet.json", tmp_path / "grades", Judge())
    assert scores.score == pytest.approx(100 * 11 / 12) and scores.items["0"] == 0
    assert grades.score == pytest.approx(100 * 19 / 20) and grades.items["3"] == 0
