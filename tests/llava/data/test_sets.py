"""Lists of data sets: shares, folders, and what a run can say of them."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from llava.data.rows import images_of
from llava.data.sets import Chosen, choose_rows
from llava.data.subset import make_subset


def rows(name: str, count: int) -> list[dict[str, Any]]:
    talk = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "It is red."}]
    return [{"id": f"{name}{n}", "image": f"{name}/{n}.png", "conversations": talk} for n in range(count)]


def text_row(name: str) -> dict[str, Any]:
    return {"id": name, "conversations": [{"from": "human", "value": "Hm?"}, {"from": "gpt", "value": "Yes."}]}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "a.json").write_text(json.dumps(rows("a", 21)))
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, [*rows("b", 5), text_row("t")])))
    return tmp_path


def write(place: Path, *entries: str, head: str = "") -> Path:
    path = place / "list.yaml"
    lines = [f"  - {{json_path: {place}/{entry}}}" for entry in entries]
    path.write_text(head + "datasets:\n" + "\n".join(lines) + "\n")
    return path


def ids(chosen: Chosen) -> list[str]:
    return [row["id"] for row in chosen.rows]


def test_all_of_several_files_in_the_order_of_the_list(place: Path) -> None:
    chosen = choose_rows(write(place, "b.jsonl", "a.json, sampling_strategy: all"))
    assert ids(chosen) == [row["id"] for row in [*rows("b", 5), text_row("t"), *rows("a", 21)]]
    assert [(origin.file.name, origin.index) for origin in chosen.origins[5:7]] == [("b.jsonl", 5), ("a.json", 0)]


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [("first:3", [0, 1, 2]), ("end:2", [19, 20]), ("first:10%", [0, 1, 2]), ("end:1%", [20]), ("first:21", range(21))],
)
def test_shares(place: Path, strategy: str, expected: list[int]) -> None:
    chosen = choose_rows(write(place, f"a.json, sampling_strategy: '{strategy}'"))
    assert [origin.index for origin in chosen.origins] == list(expected)


def test_random_shares_are_fixed_by_the_seed_and_nested(place: Path) -> None:
    def drawn(share: str, head: str = "") -> list[int]:
        chosen = choose_rows(write(place, f"a.json, sampling_strategy: 'random:{share}'", head=head))
        return [origin.index for origin in chosen.origins]

    few, many = drawn("4"), drawn("50%")
    assert few == [7, 13, 16, 18]  # on every platform and in every version
    assert len(many) == 11 and set(few) < set(many)
    assert drawn("4", "seed: 0\n") == few
    assert drawn("4", "seed: 1\n") != few


def test_a_set_has_a_folder_of_its_own_or_the_runs(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    chosen = choose_rows(write(place, "a.json, sampling_strategy: 'first:1'", "b.jsonl, image_folder: pictures"))
    assert images_of(chosen.rows[0]) == ["a/0.png"]
    assert images_of(chosen.rows[1]) == [str(place / "pictures" / "b" / "0.png")]
    assert Path("elsewhere") / images_of(chosen.rows[1])[0] == place / "pictures" / "b" / "0.png"
    assert images_of(chosen.rows[-1]) == []


def test_the_record_names_every_file_with_its_hash(place: Path) -> None:
    first, second = choose_rows(write(place, "a.json, sampling_strategy: 'end:2'", "b.jsonl")).describe_sets()
    assert first == {
        "json_path": str(place / "a.json"),
        "sha256": hashlib.sha256((place / "a.json").read_bytes()).hexdigest(),
        "image_folder": None,
        "sampling_strategy": "end:2",
        "available": 21,
        "chosen": 2,
    }
    assert (second["sampling_strategy"], second["chosen"]) == ("all", 6)


def test_text_only_rows_can_be_left_out(place: Path) -> None:
    chosen = choose_rows(place / "b.jsonl").with_images()
    assert ids(chosen) == [f"b{n}" for n in range(5)]
    assert len(chosen.origins) == 5
    (place / "text.json").write_text(json.dumps([text_row("t")]))
    with pytest.raises(ValueError, match="skip_text_only leaves no row"):
        choose_rows(place / "text.json").with_images()


def test_bad_rows_are_counted_over_all_files(place: Path) -> None:
    for name in ("a", "b"):
        (place / f"{name}.json").write_text(json.dumps([*rows(name, 3), {"id": "bad"}]))
    path = write(place, "a.json, sampling_strategy: 'end:1'", "b.json")
    with pytest.raises(ValueError, match=r"b\.json row 3 .id bad"):
        choose_rows(path, max_bad_rows=1)
    chosen = choose_rows(path, max_bad_rows=2)
    assert ids(chosen) == ["a2", "b0", "b1", "b2"]  # a share is one of the sound rows
    assert chosen.bad == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- json_path: a.json\n", "'datasets'"),
        ("datasets: []\n", "'datasets'"),
        ("datasets:\n  - {json_path: a.json}\nmore: 1\n", "'datasets'"),
        ("seed: x\ndatasets:\n  - {json_path: a.json}\n", "'seed'"),
        ("datasets:\n  - {json: a.json}\n", "entry 0: expected text under 'json_path'"),
        ("datasets:\n  - {json_path: a.json, strategy: all}\n", "unknown key 'strategy'; known are json_path"),
        ("datasets: [\n", "is not YAML"),
        ("datasets:\n  - {json_path: a.json, sampling_strategy: last:3}\n", "entry 0 .*'last:3'; expected all"),
        ("datasets:\n  - {json_path: a.json, sampling_strategy: 'first:22'}\n", "asks for 22 of 21 rows"),
        ("datasets:\n  - {json_path: a.json, sampling_strategy: 'random:0%'}\n", "asks for 0 of 21 rows"),
        ("datasets:\n  - {json_path: gone.json}\n", r"gone\.json does not exist"),
    ],
)
def test_what_is_wrong_with_a_list_is_said(
    place: Path, text: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    (place / "list.yml").write_text(text)
    with pytest.raises(ValueError, match=message):
        choose_rows(place / "list.yml")


def test_a_manifest_is_of_one_file(place: Path) -> None:
    make_subset(place / "a.json", 0.5).save(place / "m.json")
    with pytest.raises(ValueError, match=r"subset_manifest .*m\.json names rows of one file"):
        choose_rows(write(place, "a.json"), place / "m.json")
    with pytest.raises(ValueError, match="does not exist"):
        choose_rows(place / "none.yaml")
