"""The manifest: exact shares, one choice everywhere, and refusal of any other file."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from llava.data.rows import read_rows, stratum_of
from llava.data.subset import Subset, allocate, app, check_subset, make_subset

# Rows per source of llava_v1_5_mix665k.json (haotian-liu/LLaVA issue 657).
MIX665K = {"coco": 364100, "gqa": 72140, "ocr_vqa": 80000, "text": 40688, "textvqa": 21953, "vg": 86417}
GOLDEN_IDS = ["29:1", "34:6", "51:2", "76:2", "84:1"]


def talk(question: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": "A"}]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """107 rows: 60 coco, 23 gqa, 13 vg, 11 text; ids repeat."""
    rows = []
    for folder, count in (("coco", 60), ("gqa", 23), ("vg", 13), ("", 11)):
        for number in range(count):
            row = {"id": f"{number % 7}", "conversations": talk("Q")}
            if folder:
                row |= {"image": f"{folder}/{number}.jpg", "conversations": talk("<image>")}
            rows.append(row)
    path = tmp_path / "mix.json"
    path.write_text(json.dumps(rows))
    return path


def test_a_tenth_of_the_public_mix() -> None:
    tenth = allocate(MIX665K, 0.1)
    assert sum(tenth.values()) == 66530
    # 36410.0, 7214.0, 8000.0, 4068.8, 2195.3, 8641.7: the two largest remainders get the two rows left.
    assert tenth == {"coco": 36410, "gqa": 7214, "ocr_vqa": 8000, "text": 4069, "textvqa": 2195, "vg": 8642}


@given(
    st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(0, 1000), min_size=1),
    st.sampled_from([0.001, 0.1, 0.3, 0.5, 0.999, 1.0]),
)
def test_shares_are_exact(available: dict[str, int], fraction: float) -> None:
    chosen = allocate(available, fraction)
    assert abs(sum(chosen.values()) - fraction * sum(available.values())) <= 0.5 + 1e-9
    for name, count in available.items():
        assert abs(chosen[name] - fraction * count) < 1
        assert 0 <= chosen[name] <= count


def test_choice_is_stratified_and_recorded(data: Path) -> None:
    subset = make_subset(data, 0.2, seed=3)
    rows = read_rows(data)
    indices = subset.apply(rows, data)
    assert indices == sorted(set(indices))
    counts = Counter(stratum_of(rows[index]) for index in indices)
    assert counts == {"coco": 12, "gqa": 5, "vg": 2, "text": 2}  # 12.0 4.6 2.6 2.2, 21 rows: gqa before vg by name
    assert subset.strata["gqa"] == {"available": 23, "chosen": 5}
    assert (subset.source, subset.fraction, subset.seed, subset.text_only) == ("mix.json", 0.2, 3, "kept")


def test_choice_does_not_depend_on_platform(data: Path) -> None:
    """These rows were written down once; sha256 gives the same ones on every machine."""
    assert make_subset(data, 0.05, seed=0).ids == GOLDEN_IDS
    assert make_subset(data, 0.05, seed=1).ids != GOLDEN_IDS


def test_larger_fraction_contains_smaller(data: Path) -> None:
    assert set(make_subset(data, 0.1).ids) <= set(make_subset(data, 0.4).ids)


def test_text_only_rows_can_be_left_out(data: Path) -> None:
    subset = make_subset(data, 0.5, exclude_text_only=True)
    assert subset.text_only == "left_out"
    assert subset.strata["text"] == {"available": 11, "chosen": 0}
    assert len(subset.ids) == 48


def test_bad_rows_are_not_chosen(data: Path) -> None:
    rows = json.loads(data.read_text())
    rows[0]["conversations"] = []
    data.write_text(json.dumps(rows))
    with pytest.raises(ValueError, match="row 0"):
        make_subset(data, 1.0)
    subset = make_subset(data, 1.0, max_bad_rows=1)
    assert len(subset.ids) == 106
    assert subset.strata["coco"] == {"available": 59, "chosen": 59}


def test_other_file_is_refused_with_both_hashes(data: Path, tmp_path: Path) -> None:
    subset = make_subset(data, 0.1)
    other = tmp_path / "other.json"
    other.write_text(data.read_text() + "\n")
    with pytest.raises(ValueError) as error:
        subset.apply(read_rows(other), other)
    assert subset.sha256 in str(error.value)
    assert make_subset(other, 0.1).sha256 in str(error.value)


@pytest.mark.parametrize("entry", ["0:9", "107:0", "-1:0", "x:0", "5"])
def test_entry_that_does_not_fit_its_row_is_refused(data: Path, entry: str) -> None:
    good = make_subset(data, 0.1)
    bad = Subset(**{**good.__dict__, "ids": [entry]})
    with pytest.raises(ValueError, match="does not match"):
        bad.apply(read_rows(data), data)


@pytest.mark.parametrize("fraction", [0, -0.1, 1.1])
def test_bad_fraction(data: Path, fraction: float) -> None:
    with pytest.raises(ValueError, match="fraction"):
        make_subset(data, fraction)


def test_nothing_chosen_is_an_error(data: Path) -> None:
    with pytest.raises(ValueError, match="no row"):
        make_subset(data, 0.001)


def test_file_round_trip_and_foreign_keys(data: Path, tmp_path: Path) -> None:
    subset = make_subset(data, 0.1)
    path = tmp_path / "deep" / "manifest.json"
    subset.save(path)
    assert Subset.load(path) == subset == check_subset(path, data)
    path.write_text('{"ids": []}')
    with pytest.raises(ValueError, match="keys"):
        Subset.load(path)


def test_check_finds_doctored_manifests(data: Path, tmp_path: Path) -> None:
    subset = make_subset(data, 0.1)
    twice = Subset(**{**subset.__dict__, "ids": [*subset.ids, subset.ids[0]]})
    twice.save(tmp_path / "twice.json")
    with pytest.raises(ValueError, match="twice"):
        check_subset(tmp_path / "twice.json", data)
    fewer = Subset(**{**subset.__dict__, "ids": subset.ids[1:]})
    fewer.save(tmp_path / "fewer.json")
    with pytest.raises(ValueError, match="stratum"):
        check_subset(tmp_path / "fewer.json", data)


def test_commands(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.json"
    run = CliRunner().invoke(app, ["make", "--data", str(data), "--fraction", "0.1", "--seed", "0", "--out", str(out)])
    assert run.exit_code == 0, run.output
    assert "coco" in run.output
    run = CliRunner().invoke(app, ["check", "--data", str(data), "--manifest", str(out)])
    assert run.exit_code == 0, run.output
    data.write_text(data.read_text() + " ")
    run = CliRunner().invoke(app, ["check", "--data", str(data), "--manifest", str(out)])
    assert run.exit_code != 0
    assert "sha256" in run.output
