"""Published rows beside ours: which is found for which, over which set, and the verdict."""

from dataclasses import replace

import pytest

from llava.eval import report
from llava.eval.beside import stand_beside
from llava.eval.cells import Record
from llava.eval.compare import Row
from llava.eval.published import Average, Column, PublishedRow, PublishedTable

COLUMNS = {name: Column(name, "accuracy", "%") for name in ("gqa", "pope")}


def published(method, tokens, gqa, pope, confirmed=True, note="", model="m"):
    return PublishedRow(method, tokens, {"gqa": gqa, "pope": pope}, 90.0, confirmed, model, note)


TABLE = PublishedTable(
    title="A table",
    paper=None,
    table="1",
    model="m",
    source="a paper",
    columns=COLUMNS,
    average=Average(("gqa", "pope"), "mean"),
    rows=(
        published("dense", 2880, 50.0, 80.0),
        published("visionzip", 160, 45.0, 60.0),
        published("visionzip", 320, 45.0, None, confirmed=False, note="one is in doubt"),
        published("visionzip", 640, 50.0, 80.0, model="another"),
        published("fastv", 160, 40.0, 40.0),
    ),
    tiles=5,
)


def row(method, total, relative):
    budget = None if total is None else {"dominant": total - 5, "contextual": 5, "total": total}
    cell = method if total is None else f"{method}-{total}"
    records = {
        task: Record(cell, task, method, "complete", {"path": "p"}, budget, headline=10.0, n=3) for task in COLUMNS
    }
    return Row(cell, method, budget, records, relative)


ROWS = [row("dense", None, 100.0), row("visionzip", 128, 98.0), row("visionzip", 64, 97.0), row("visionzip", 32, 84.0)]


def test_rows_are_matched_by_method_and_budget_of_a_tile_on_the_tables_model():
    found = stand_beside(ROWS, TABLE, ["gqa", "pope"])
    assert {cell: one.row.tokens for cell, one in found.items()} == {
        "dense": 2880,
        "visionzip-64": 320,
        "visionzip-32": 160,
    }
    assert set(stand_beside(ROWS, replace(TABLE, tiles=1), ["gqa"])) == {"dense"}


def test_the_average_is_taken_anew_over_the_same_set():
    both = stand_beside(ROWS, TABLE, ["gqa", "pope"])
    assert both["visionzip-32"].average == pytest.approx((90 + 75) / 2)
    assert both["visionzip-32"].gap == pytest.approx(84 - 82.5)
    assert both["visionzip-64"].average is None and replace(both["visionzip-64"], off={}).verdict(9) == "-"
    one = stand_beside(ROWS, TABLE, ["gqa"])
    assert one["visionzip-64"].average == pytest.approx(90) and one["visionzip-32"].average == pytest.approx(90)


def test_the_verdict_is_against_the_tolerance():
    one = stand_beside(ROWS, TABLE, ["gqa", "pope"])["visionzip-32"]
    near = replace(one, off={})
    assert near.verdict(1.5) == "+1.5 (pass)" and near.verdict(1.4) == "+1.5 (FAIL)"


def test_a_single_figure_far_away_fails_whatever_the_average_says():
    one = stand_beside(ROWS, TABLE, ["gqa", "pope"])["visionzip-32"]  # our figures are 10, theirs 45 and 60
    assert one.verdict(9) == "+1.5 (FAIL: gqa -78%, pope -83%)"
    dense = stand_beside(ROWS, TABLE, ["gqa"])["dense"]
    assert dense.gap is None and dense.verdict(9) == "(FAIL: gqa -80%)"
    assert replace(dense, off={}).verdict(9) == "(pass)"


def test_published_rows_stand_under_ours_and_say_so():
    publication = report.Publication(stand_beside(ROWS, TABLE, ["gqa", "pope"]), 1.0, TABLE)
    lines = report.make_table(ROWS, publication).to_markdown().splitlines()
    assert lines[0].endswith("| vs VisionZip | vs published |")
    place = next(index for index, line in enumerate(lines) if line.startswith("| VisionZip, published | 160 "))
    assert (
        lines[place - 1].endswith("| +1.5 (FAIL: gqa -78%, pope -83%) |") and "| 45.0 | 60.0 | 82.5% |" in lines[place]
    )
    unsure = next(line for line in lines if "published (unconfirmed)" in line)
    assert "| 320 | 45.0 | - | - |" in unsure
    page = report.render_report(ROWS, "x", ["gqa", "pope"], publication)
    assert "a paper" in page and "one is in doubt" in page and "pass within 1, and no figure" in page
