"""Reading LLaVA files: every fault is named with file, row and key."""

import json
from pathlib import Path
from typing import Any

import pytest

from llava.data.rows import images_of, read_rows, row_id, scan_rows, stratum_of, word_count


def make_row(**changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": "a1",
        "image": "coco/train2017/1.jpg",
        "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A bus."}],
    }
    row.update(changes)
    return {key: value for key, value in row.items() if value is not ...}


ASK = [{"from": "human", "value": "<image>\nWhat?"}]
ANSWER = [{"from": "gpt", "value": "A bus."}]
CHAT = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text(json.dumps(rows))
    return path


def test_reads_json_and_json_lines_alike(tmp_path: Path) -> None:
    rows = [make_row(), make_row(id=7, image=..., conversations=CHAT)]
    as_list = write(tmp_path / "data.json", rows)
    as_lines = tmp_path / "data.jsonl"
    as_lines.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    assert read_rows(as_list) == read_rows(as_lines) == rows


def test_repeated_and_missing_ids_are_allowed(tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path / "data.json", [make_row(), make_row(), make_row(id=...)]))
    assert [row_id(row, index) for index, row in enumerate(rows)] == ["a1", "a1", "2"]


def test_opening_answer_is_allowed_as_in_shared_chats(tmp_path: Path) -> None:
    turns = [{"from": "gpt", "value": "Hello"}, {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes?"}]
    assert read_rows(write(tmp_path / "data.json", [make_row(image=..., conversations=turns)]))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (make_row(conversations=...), ["row 0", "a1", "'conversations' is missing"]),
        (make_row(conversations=[]), ["at least one turn"]),
        (make_row(conversations=[{"from": "human"}]), ["turn 0", "'value'"]),
        (make_row(conversations=[{"from": "system", "value": "x"}]), ["'system'", "human, gpt"]),
        (make_row(conversations=[{"from": "human", "value": 3}]), ["int", "expected text"]),
        (make_row(conversations=[{"from": "gpt", "value": "x"}], image=...), ["needs a human turn"]),
        (make_row(conversations=[{"from": "human", "value": "x"}], image=...), ["and an answer"]),
        (make_row(conversations=[*ASK, {"from": "gpt", "value": ""}]), ["turn 1", "empty"]),
        (make_row(conversations=[{"from": "human", "value": "x"}] * 2, image=...), ["turn 1", "alternate"]),
        (make_row(conversations=[{"from": "human", "value": "no picture"}, *ANSWER]), ["0 <image>", "1 image"]),
        (make_row(conversations=[*ASK, {"from": "gpt", "value": "<image>"}]), ["2 <image>", "1 image"]),
        (make_row(image=...), ["1 <image>", "0 image"]),
        (make_row(image=""), ["'image'", "path"]),
        (make_row(image=[]), ["'image'", "path"]),
        ("text", ["row 0", "str"]),
    ],
)
def test_broken_row_is_named(tmp_path: Path, row: Any, words: list[str]) -> None:
    path = write(tmp_path / "data.json", [row])
    with pytest.raises(ValueError) as error:
        read_rows(path)
    for word in [str(path), *words]:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("data.json", '[{"id": 1,', ["not JSON", "line 1"]),
        ("data.json", '{"id": 1}', ["list", "dict"]),
        ("data.json", "[]", ["no rows"]),
        ("data.json", '{"id": 1}\n{"id": 2}\n', ["JSON", ".jsonl"]),
        ("data.jsonl", '{"id": 1\n', ["line 1"]),
    ],
)
def test_broken_file_is_named(tmp_path: Path, name: str, content: str, words: list[str]) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(ValueError) as error:
        read_rows(path)
    for word in [str(path), *words]:
        assert word in str(error.value)


def test_a_stated_number_of_bad_rows_may_be_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "data.json", [make_row(), make_row(image=...), "text", make_row()])
    rows, bad = scan_rows(path, max_bad_rows=2)
    assert len(rows) == 4
    assert sorted(bad) == [1, 2]
    assert "left out" in caplog.text
    with pytest.raises(ValueError, match=r"row 2.*2 bad rows"):
        scan_rows(path, max_bad_rows=1)


def test_missing_file_names_the_flag(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--data_path"):
        read_rows(tmp_path / "none.json")


def test_strata_and_lengths() -> None:
    assert stratum_of(make_row()) == "coco"
    assert stratum_of(make_row(image="./vg/VG_100K_2/3.jpg")) == "vg"
    assert stratum_of(make_row(image=["gqa/images/1.jpg", "coco/2.jpg"])) == "gqa"
    assert stratum_of(make_row(image="1.jpg")) == "(root)"
    assert stratum_of(make_row(image=...)) == "text"
    assert images_of(make_row(image=...)) == []
    assert word_count(make_row()) == 4
    assert word_count(make_row(conversations=[{"from": "human", "value": ""}])) == 1
