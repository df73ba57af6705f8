"""Published figures: the shipped tables say what the papers say, averages add up, and a broken file is refused."""

from itertools import combinations
from pathlib import Path

import pytest

from llava.eval.published import PublishedRow, PublishedTable, find_row, read_published, relative_average

FOLDER = Path(__file__).resolve().parents[3] / "configs/paper"
FILES = sorted(FOLDER.glob("*.yaml"))
TABLES = {path.stem: read_published(path) for path in FILES}
ROWS = [(name, row) for name, table in TABLES.items() for row in table.rows]
NINE = ("gqa", "mmbench", "mme", "pope", "sqa", "vqav2", "textvqa", "mmmu", "seed")

SMALL = """
title: a title
paper: "2412.04467"
table: "1"
model: m
source: arXiv 2412.04467, Table 1
columns:
  gqa: {title: GQA, metric: exact match, unit: "%"}
  pope: {title: POPE, metric: F1, unit: "%"}
average: {of: [gqa, pope], what: mean of both}
rows:
  - {method: dense, tokens: 576, gqa: 60, pope: 80.5, average: 100, confirmed: true}
  - {method: fastv, tokens: 64, gqa: 30, pope: null, average: null, confirmed: false, note: one copy only}
"""


def complete(table: PublishedTable, row: PublishedRow) -> bool:
    return table.average is not None and None not in [row.average, *(row.figures[name] for name in table.average.of)]


def identity(value: str | PublishedRow) -> str:
    return value if isinstance(value, str) else f"{value.method}-{value.tokens}"


@pytest.mark.parametrize(("name", "row"), [pair for pair in ROWS if complete(TABLES[pair[0]], pair[1])], ids=identity)
def test_the_printed_average_is_that_of_the_printed_figures(name: str, row: PublishedRow) -> None:
    """Over the declared set, within 0.15 points; where it is not, the note says so and by how much."""
    table = TABLES[name]
    assert table.average is not None and row.average is not None
    recomputed = relative_average(row.figures, find_row(table, "dense").figures, table.average.of)
    gap = abs(recomputed - row.average)
    assert gap <= 0.15 or (f"{gap:.1f}" in row.note and f"{recomputed:.1f}" in row.note), f"{recomputed:.2f}"


def test_how_many_rows_could_be_recomputed() -> None:
    """So that a figure lost from a table does not quietly take its row out of the test above."""
    counts = {name: sum(complete(table, row) for row in table.rows) for name, table in TABLES.items()}
    assert {name: count for name, count in counts.items() if count} == {
        "table01_v1_5_7b": 4,
        "table02_next_7b": 10,
        "table03_video_llava_7b": 4,
        "table10_v1_5_13b": 7,
        "table12_next_7b": 7,
        "table13_next_13b": 8,
    }


@pytest.mark.parametrize(
    ("method", "averages"), [("visionzip", (97.9, 96.8, 93.2)), ("visionzip-tuned", (98.4, 97.7, 95.0))]
)
def test_table_1_over_nine_benchmarks(method: str, averages: tuple[float, ...]) -> None:
    """What others print who leave MM-Vet and LLaVA-Bench out; the printed average of Table 1 is another."""
    table = TABLES["table01_v1_5_7b"]
    for tokens, average in zip((192, 128, 64), averages, strict=True):
        row = find_row(table, method, tokens)
        recomputed = relative_average(row.figures, find_row(table, "dense").figures, NINE)
        assert recomputed == pytest.approx(average, abs=0.15)
        assert f"{average}" in row.note and row.average != average


@pytest.mark.parametrize(
    ("name", "method", "tokens", "model", "figures"),
    [
        ("table01_v1_5_7b", "dense", 576, None, {"gqa": 61.9, "mme": 1862, "seed": 58.6, "average": 100}),
        ("table01_v1_5_7b", "fastv", 64, None, {"pope": 48.0, "sqa": 51.1, "mmvet": None, "average": 75.6}),
        ("table01_v1_5_7b", "sparsevlm", 128, None, {"vqav2": 73.8, "mmmu": 33.8, "average": 93.4}),
        ("table01_v1_5_7b", "visionzip", 64, None, {"gqa": 55.1, "textvqa": 55.5, "mmvet": 31.5, "average": 94.0}),
        ("table01_v1_5_7b", "visionzip", 128, None, {"mmvet": 32.6, "llavabench": 64.8, "average": 97.6}),
        ("table01_v1_5_7b", "visionzip-tuned", 64, None, {"pope": 80.9, "mmbench": 61.5, "average": 95.2}),
        ("table10_v1_5_13b", "visionzip", 192, None, {"gqa": 59.1, "sqa": 73.5, "average": 97.9}),
        ("table10_v1_5_13b", "visionzip-tuned", 64, None, {"mme": 1671, "seed_image": 61.4, "average": 94.8}),
        ("table02_next_7b", "sparsevlm", 160, None, {"textvqa": 46.4, "average": 86.4}),
        ("table02_next_7b", "visionzip-tuned", 160, None, {"mmbench": 63.9, "average": 95.5}),
        ("table12_next_7b", "visionzip", 160, None, {"pope": 74.8, "seed_image": 58.3, "average": 90.4}),
        ("table12_next_7b", "visionzip-tuned", 320, None, {"mmmu": 38.0, "average": 97.6}),
        ("table13_next_13b", "dense", 2880, "LLaVA-NeXT-7B", {"prefill_time": 54.2, "average": 97.2}),
        ("table13_next_13b", "visionzip", 160, None, {"total_time": 888, "vqav2": 72.4, "average": 91.3}),
        ("table13_next_13b", "visionzip-tuned", 640, None, {"total_time": None, "gqa": 63.7, "average": 98.8}),
        ("table03_video_llava_7b", "sparsevlm", 135, None, {"msrvtt": 31.0, "average": 86.5}),
        ("table03_video_llava_7b", "visionzip", 136, None, {"tgif": 42.4, "activitynet": 43.0, "average": 93.2}),
        ("table04_speed_next_7b", "visionzip", 160, None, {"total_time": 756, "prefill_time": 27.8}),
        ("table05_speed_next_13b", "visionzip", 640, None, {"total_time": 1246, "textvqa": 62.2}),
        ("table16_memory_next_13b", "visionzip", 320, "LLaVA-NeXT-13B, 4 bit", {"memory": 10176, "quality": 94.0}),
        ("table11_trained_v1_5_7b", "visionzip", 192, None, {"quality": 100.6}),
        ("training_next_7b", "visionzip", 640, None, {"training_time": 15.9, "memory": 35326, "quality": 99.0}),
        ("table14_mini_gemini_7b", "visionzip", 64, None, {"quality": 92.2}),
        ("zoo_v1_5", "dense", 576, "LLaVA-1.5-7B", {"sqa": 66.8, "mme": 1510.7, "llavabench": 65.4}),
        ("zoo_v1_5", "dense", 576, "LLaVA-1.5-13B LoRA", {"vizwiz": 58.9, "mmvet": 38.3}),
        ("zoo_next", "dense", 2880, "LLaVA-NeXT-7B", {"mme": 1519, "mme_cognition": 332, "mathvista": 34.6}),
    ],
)
def test_figures(name: str, method: str, tokens: int, model: str | None, figures: dict[str, float | None]) -> None:
    row = find_row(TABLES[name], method, tokens, model)
    assert {key: {**row.figures, "average": row.average}[key] for key in figures} == figures


def test_what_is_not_confirmed() -> None:
    """Whatever is in doubt says why; exactly these rows are."""
    doubtful = {(name, row.method, row.model) for name, row in ROWS if not row.confirmed}
    assert doubtful == {
        ("table05_speed_next_13b", "visionzip", "LLaVA-NeXT-13B"),
        ("table14_mini_gemini_7b", "visionzip-tuned", "Mini-Gemini-7B"),
        ("table16_memory_next_13b", "visionzip", "LLaVA-NeXT-13B"),
        ("table16_memory_next_13b", "visionzip", "LLaVA-NeXT-13B, 8 bit"),
        ("table16_memory_next_13b", "visionzip", "LLaVA-NeXT-13B, 4 bit"),
    }


def test_tables_with_the_same_rows_agree() -> None:
    """A model and method at a budget has one figure per column and paper, times aside: those were taken twice."""
    shared = 0
    for (one, first), (other, second) in combinations(ROWS, 2):
        same = (first.model, first.method, first.tokens) == (second.model, second.method, second.tokens)
        if same and one != other and TABLES[one].paper == TABLES[other].paper:
            for column in first.figures.keys() & second.figures.keys() - {"total_time", "prefill_time", "memory"}:
                same_quantity = TABLES[one].columns[column].metric == TABLES[other].columns[column].metric
                assert not same_quantity or first.figures[column] == second.figures[column], (one, other, column)
                shared += same_quantity
    assert shared > 50


def test_speed_ups_of_table_4() -> None:
    """The factors the paper prints beside its times."""
    table = TABLES["table04_speed_next_7b"]
    dense = find_row(table, "dense").figures
    for method, column, factor in [
        ("fastv", "total_time", 1.3),
        ("sparsevlm", "total_time", 1.2),
        ("visionzip", "total_time", 3.0),
        ("fastv", "prefill_time", 1.8),
        ("sparsevlm", "prefill_time", 1.7),
        ("visionzip", "prefill_time", 7.8),
    ]:
        before, after = dense[column], find_row(table, method).figures[column]
        assert before is not None and after is not None
        assert round(before / after, 1) == factor


def write(folder: Path, text: str) -> Path:
    path = folder / "table.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_reading(tmp_path: Path) -> None:
    table = read_published(write(tmp_path, SMALL))
    assert table.paper == "2412.04467" and table.average is not None and table.average.of == ("gqa", "pope")
    assert table.columns["pope"].metric == "F1"
    dense, rival = table.rows
    assert dense == PublishedRow("dense", 576, {"gqa": 60.0, "pope": 80.5}, 100.0, True, "m", "")
    assert rival.figures == {"gqa": 30.0, "pope": None} and rival.average is None and rival.note == "one copy only"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("title: a title", "titel: a title", "the file: unknown key 'titel'"),
        ("source: arXiv 2412.04467, Table 1\n", "", "the file: missing key 'source'"),
        ('paper: "2412.04467"', "paper: 2412.04467", "paper: expected an arXiv id in quotes"),
        ('table: "1"', "table: 1", "table: expected text, got 1"),
        ("metric: F1, ", "", "columns.pope: missing key 'metric'"),
        ("pope: {title", "note: {title", "columns.note: expected the name of a task"),
        ("of: [gqa, pope]", "of: [gqa, mme]", "average.of: 'mme' is no column"),
        ("of: [gqa, pope]", "of: [gqa, gqa]", "average.of: expected a list of columns, each once"),
        ("average: {of: [gqa, pope], what: mean of both}", "average: null", r"rows\[0\].average: got 100"),
        ("pope: 80.5, ", "", r"rows\[0\]: missing key 'pope'"),
        ("pope: 80.5", "pope: 80.5, seed: 3", r"rows\[0\]: unknown key 'seed'"),
        ("pope: 80.5", "pope: true", r"rows\[0\].pope: expected a number or null, got True"),
        ("pope: null", "pope: '-'", r"rows\[1\].pope: expected a number or null, got '-'"),
        ("pope: null", "pope: .nan", r"rows\[1\].pope: expected a number or null, got nan"),
        ("tokens: 64", "tokens: 64.0", r"rows\[1\].tokens: expected a whole number"),
        ("tokens: 64", "tokens: 0", r"rows\[1\].tokens: expected a whole number"),
        ("confirmed: true", "confirmed: 'yes'", r"rows\[0\].confirmed: expected true or false"),
        (", note: one copy only", "", r"rows\[1\].note: expected what is not confirmed"),
        ("note: one copy only", "note: 1", r"rows\[1\].note: expected text"),
        ("note: one copy only", "note: x, model: 7", r"rows\[1\].model: expected text"),
        ("method: fastv", "method: vanilla", r"rows\[1\].method: expected one of dense, .*fastv.*got 'vanilla'"),
        ("method: fastv, tokens: 64", "method: dense, tokens: 576", "rows: dense 576 m stands there twice"),
        ("rows:\n", "rows: []\nmore:\n", "unknown key 'more'"),
        ("table", "table: [", "not YAML"),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in SMALL
    with pytest.raises(ValueError, match=message) as error:
        read_published(write(tmp_path, SMALL.replace(old, new, 1)))
    assert "table.yaml" in str(error.value)


def test_no_rows_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"table\.yaml: rows: expected a list of rows, got \[\]"):
        read_published(write(tmp_path, SMALL.split("rows:")[0] + "rows: []\n"))
    with pytest.raises(ValueError, match=r"nothing\.yaml: expected a published table"):
        read_published(tmp_path / "nothing.yaml")


def test_find_row_wants_exactly_one() -> None:
    table = TABLES["table16_memory_next_13b"]
    assert find_row(table, "visionzip", 320).figures["memory"] == 28810
    assert find_row(table, "dense", model="LLaVA-NeXT-7B").figures["memory"] == 18952
    with pytest.raises(ValueError, match=r"found 3; rows: dense 576 .*visionzip 192"):
        find_row(TABLES["table01_v1_5_7b"], "visionzip")
    with pytest.raises(ValueError, match="visionzip at 32 tokens on LLaVA-NeXT-13B, found 0"):
        find_row(table, "visionzip", 32)


def test_relative_average() -> None:
    assert relative_average({"a": 50, "b": 90, "c": 1}, {"a": 100, "b": 100, "c": 100}, ["a", "b"]) == 70
    assert relative_average({"a": 50}, {"a": 40}, ["a"]) == 125


@pytest.mark.parametrize(
    ("figures", "dense", "over", "message"),
    [
        ({"a": 1.0}, {"a": 1.0, "b": 1.0}, ["a", "b"], "b: the figures have None"),
        ({"a": 1.0, "b": None}, {"a": 1.0, "b": 1.0}, ["a", "b"], "b: the figures have None .*they have: a"),
        ({"a": 1.0, "b": 1.0}, {"a": 1.0}, ["a", "b"], "b: the dense figures have None"),
        ({"a": float("nan")}, {"a": 1.0}, ["a"], "a: the figures have nan"),
        ({"a": 1.0}, {"a": 0.0}, ["a"], "a: no share of a dense figure that is 0"),
        ({"a": 1.0}, {"a": 1.0}, [], "expected benchmarks to average over"),
        ({"a": 1.0}, {"a": 1.0}, ["a", "a"], "each once"),
    ],
)
def test_an_average_over_another_set_is_refused(
    figures: dict[str, float | None], dense: dict[str, float | None], over: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        relative_average(figures, dense, over)
