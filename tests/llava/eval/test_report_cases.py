"""Reports that are not the plain case: parts of the questions, several splits of a total, no average, no picture."""

import re
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from llava.eval import report
from llava.eval.beside import stand_beside
from llava.eval.cells import Record, read_record, record_file, write_record
from llava.eval.compare import build_rows, why_no_average
from llava.eval.results_page import render_report
from llava.eval.results_table import parts_of
from llava.eval.table import Table
from tests.llava.eval.test_beside import TABLE
from tests.llava.eval.test_report import OVER, put, rows_of

FIRST = {"files": {"x": "a"}, "settings": {"limit": 40}}
PAPER = """
title: A table
paper: null
table: "1"
model: m
source: a paper
columns:
  gqa: {title: GQA, metric: m, unit: "%"}
  pope: {title: POPE, metric: m, unit: "%"}
average: {of: [gqa, pope], what: mean}
rows:
  - {method: dense, tokens: 144, gqa: 90, pope: 90, average: 100, confirmed: true}
  - {method: visionzip, tokens: 16, gqa: 80, pope: 80, average: 88.9, confirmed: true}
"""


def command(folder, *words):
    """The report of a folder's records -> what it says, and the folder it wrote to."""
    out = folder / "table"
    records = [] if "--records" in words else ["--records", folder]
    done = CliRunner().invoke(report.app, [str(word) for word in (*records, "--out", out, *words)])
    assert done.exit_code == 0, done.output
    return done.output, out


def split(folder, parts, chance=0.5, **changes):
    """Records of visionzip-16 with this split."""
    budget = {"dominant": parts[0], "contextual": parts[1], "total": 16}
    put(folder, "visionzip-16", "visionzip", 16, chance, str(parts), budget=budget, **changes)


@pytest.fixture
def asked_in_part(tmp_path):
    put(tmp_path, "dense", "dense", None, 0.9, 1, n=40, inputs=FIRST)
    put(tmp_path, "visionzip-16", "visionzip", 16, 0.8, 2, n=40, inputs=FIRST)
    return tmp_path


def test_a_part_of_the_questions_is_marked_wherever_the_table_is(asked_in_part):
    said, out = command(asked_in_part)
    assert "| GQA (first 40) | POPE (first 40) |" in said
    for name in ("table.md", "table.csv", "table.tex", "report.md"):
        text = (out / name).read_text()
        assert "GQA (first 40)" in text and "POPE (first 40)" in text, name
    assert "40 questions, the first 40 only" in (out / "report.md").read_text()


def test_the_picture_says_what_was_asked(asked_in_part):
    words = report._asked_in_part(rows_of(asked_in_part))
    assert words.strip() == "only the first 40 questions of each benchmark"
    put(asked_in_part, "dense", "dense", None, 0.9, 1, tasks=("gqa",))
    put(asked_in_part, "visionzip-16", "visionzip", 16, 0.8, 2, tasks=("gqa",))
    assert report._asked_in_part(rows_of(asked_in_part)).strip() == "only the first 40 questions of POPE"
    marked = (asked_in_part / "marked.png", asked_in_part / "plain.png")
    rows = rows_of(asked_in_part)
    assert report.draw(rows, marked[0], "x")
    whole = [replace(row, records={task: replace(one, inputs={}) for task, one in row.records.items()}) for row in rows]
    assert report.draw(whole, marked[1], "x") and marked[0].read_bytes() != marked[1].read_bytes()


@pytest.mark.parametrize(
    ("limit", "words"), [(8.0, "first 8"), (8, "first 8"), (0.5, "first 50%"), (2000000, "first 2000000"), (None, None)]
)
def test_a_limit_in_words(limit, words):
    """lmms-eval writes its limit with a point, and may take a share."""
    assert Record("dense", "pope", "dense", "complete", {}, inputs={"settings": {"limit": limit}}).part == words


def test_a_column_whose_records_all_failed_has_the_part_that_was_asked(tmp_path):
    write_record(tmp_path, Record("dense", "pope", "dense", "failed", {"path": "m"}, error="Boom", inputs=FIRST))
    assert parts_of(rows_of(tmp_path)) == {"pope": "first 40"}


def verdicts(folder):
    (folder / "paper.yaml").write_text(PAPER)
    _, out = command(folder, "--published", folder / "paper.yaml")
    lines = [line.split(" | ") for line in (out / "table.md").read_text().splitlines()]
    return {line[0].strip("| "): line[-1].strip("| ") for line in lines[2:] if len(line) > 3 and line[1].strip()}


def test_a_part_of_the_questions_gets_no_verdict_against_published_figures(asked_in_part):
    said = verdicts(asked_in_part)
    assert said["dense"] == said["VisionZip"] == "partial"
    assert "*partial*: asked a part of the questions" in (asked_in_part / "table" / "report.md").read_text()


def test_without_figures_there_is_no_verdict(tmp_path):
    for cell, method in (("dense", "dense"), ("visionzip-16", "visionzip")):
        budget = None if method == "dense" else {"dominant": 14, "contextual": 2, "total": 16}
        for task in OVER:
            write_record(tmp_path, Record(cell, task, method, "failed", {"path": "m"}, budget, error="Boom"))
    said = verdicts(tmp_path)
    assert said["dense"] == said["VisionZip"] == "-"
    put(tmp_path, "dense", "dense", None, 0.9, 1, tasks=("gqa",))
    assert verdicts(tmp_path)["dense"] == "-", "POPE is published and not measured"
    put(tmp_path, "dense", "dense", None, 0.9, 1)
    assert verdicts(tmp_path)["dense"] == "(pass)"


def test_the_published_average_is_over_columns_that_the_table_has(tmp_path):
    put(tmp_path, "dense", "dense", None, 0.9, 1, tasks=("pope",))
    put(tmp_path, "visionzip-16", "visionzip", 16, 0.8, 2, tasks=("pope",))
    rows = rows_of(tmp_path)
    assert stand_beside(rows, TABLE, ["gqa", "pope"])["dense"].average is None
    assert stand_beside(rows, TABLE, ["pope"])["dense"].average == 100


def test_without_averages_the_command_says_why_and_how_to_have_them(tmp_path):
    put(tmp_path, "dense", "dense", None, 0.9, 1)
    put(tmp_path, "visionzip-16", "visionzip", 16, 0.8, 2, tasks=(*OVER, "lmms:pope"))
    said, out = command(tmp_path)
    reason = "no averages: the dense row has no figure of lmms:pope; measure it, or take them over what it has: "
    assert reason + "--over gqa --over pope\n" in said and reason in (out / "report.md").read_text()
    said, _ = command(tmp_path, "--over", "gqa", "--over", "pope")
    assert "no averages" not in said and "100.0%" in said


def test_why_there_is_no_average(tmp_path):
    put(tmp_path, "visionzip-16", "visionzip", 16, 0.8, 2)
    assert "there is no dense row" in why_no_average(rows_of(tmp_path), OVER)
    put(tmp_path, "dense", "dense", None, 0.0, 1)
    assert "the dense row has 0 in gqa, pope" in why_no_average(rows_of(tmp_path), OVER)
    put(tmp_path, "dense", "dense", None, 0.9, 1)
    assert why_no_average(rows_of(tmp_path), OVER) is None


def test_without_a_point_there_is_no_picture(tmp_path):
    put(tmp_path, "dense", "dense", None, 0.9, 1)
    put(tmp_path, "visionzip-16", "visionzip", 16, 0.8, 2)
    said, out = command(tmp_path)
    assert (out / "accuracy.png").exists() and "(accuracy.png)" in (out / "report.md").read_text()
    for file in (tmp_path / "cells" / "visionzip-16").iterdir():
        file.unlink()
    said, out = command(tmp_path)
    assert "no picture: no row beside the dense one has an average" in said
    assert not (out / "accuracy.png").exists(), "that of the former run is of other records"
    assert "accuracy.png" not in (out / "report.md").read_text()


def test_records_one_level_down_are_named(tmp_path):
    for name in ("llava-mini", "llava-mini-first40"):
        put(tmp_path / name, "dense", "dense", None, 0.9, 1)
    (tmp_path / "empty" / "cells").mkdir(parents=True)
    done = CliRunner().invoke(report.app, ["--records", str(tmp_path), "--out", str(tmp_path / "out")])
    said = " ".join(done.output.split())
    assert done.exit_code == 2 and "they are one level down: name one or several of " in said
    named = said.split("several of ")[1].replace(" ", "")
    assert named == f"{tmp_path / 'llava-mini'},{tmp_path / 'llava-mini-first40'}"


def test_splits_of_one_total_are_rows_of_their_own(tmp_path):
    put(tmp_path, "dense", "dense", None, 0.9, 1)
    put(tmp_path, "uniform-16", "uniform", 16, 0.3, 4)
    split(tmp_path, (14, 2), 0.8)
    split(tmp_path / "more", (12, 4), 0.6)
    said, _ = command(tmp_path, "--records", tmp_path, "--records", tmp_path / "more")
    assert "| VisionZip 16 (14+2) | 16 |" in said and "| VisionZip 16 (12+4) | 16 |" in said
    rows = {row.cell: row for row in build_rows(report.collect([tmp_path, tmp_path / "more"]), OVER)}
    one, other = rows["visionzip-16 (14+2)"], rows["visionzip-16 (12+4)"]
    assert one.relative > other.relative and one.difference is None and other.difference is None
    against = rows["uniform-16"].difference
    assert against[0] == pytest.approx(rows["uniform-16"].relative - one.relative), "its own split is 14+2"
    alone = {row.cell: row.title for row in rows_of(tmp_path)}
    assert alone["visionzip-16"] == "VisionZip", "one split needs no label"


def test_records_that_are_equal_in_all_are_refused_with_both_files(tmp_path):
    for folder in (tmp_path / "a", tmp_path / "b"):
        split(folder, (12, 4))
        split(folder / "other", (14, 2))
    folders = [tmp_path / "a", tmp_path / "a" / "other", tmp_path / "b"]
    with pytest.raises(ValueError, match=r"two records of visionzip-16/gqa, .*/a/cells/.* and .*/b/cells/"):
        build_rows(report.collect(folders), OVER)
    # A method that knows its total only is the same cell however that was split.
    for folder, parts in ((tmp_path / "c", (14, 2)), (tmp_path / "d", (12, 4))):
        budget = {"dominant": parts[0], "contextual": parts[1], "total": 16}
        put(folder, "uniform-16", "uniform", 16, 0.5, 1, budget=budget)
    with pytest.raises(ValueError, match="two records of uniform-16/gqa"):
        build_rows(report.collect([tmp_path / "c", tmp_path / "d"]), OVER)


def test_a_servers_score_is_not_entered_where_two_folders_have_the_record(tmp_path):
    for folder in (tmp_path / "a", tmp_path / "b"):
        figures = {"server": "EvalAI", "submission": "x.json"}
        write_record(folder, Record("dense", "vqav2", "dense", "answered", {"path": "m"}, figures=figures))
    folders = ["--records", str(tmp_path / "a"), "--records", str(tmp_path / "b"), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(report.app, [*folders, "--server", "dense/vqav2=70"])
    said = " ".join(done.output.split())
    assert done.exit_code == 2 and "each have a record dense/vqav2; enter it with one of them alone" in said
    assert read_record(record_file(tmp_path / "a", "dense", "vqav2")).headline is None


def stamped(folder, cell, commit, date, words):
    stamp = {"commit": commit * 20, "dirty": False, "date": date, "device": "cpu", "dtype": "float32", "command": words}
    put(folder, cell, "dense" if cell == "dense" else "visionzip", None if cell == "dense" else 16, 0.9, 1, stamp=stamp)


def test_where_it_comes_from_names_all_commands_commits_and_the_range_of_dates(tmp_path):
    stamped(tmp_path, "dense", "ab", "2026-11-27T10:21:25+00:00", "python -m x --method dense")
    stamped(tmp_path, "visionzip-16", "cd", "20261128_113905", "python -m x --method visionzip " + 40 * "--long-word ")
    page = render_report(rows_of(tmp_path), "x", OVER).split("## Where it comes from")[1]
    assert "4 records, made 2026-11-27 10:21 to 2026-11-28 11:39 (UTC), of commit `abababababab` (2), `cd" in page
    lines = [line for line in page.splitlines() if line.startswith("    ")]
    assert lines[0] == "       2  python -m x --method dense" and lines[1].endswith(" ...") and len(lines[1]) < 180
    assert page.count("cpu, float32") == 1


def test_one_command_and_one_commit_are_said_once(tmp_path):
    stamped(tmp_path, "dense", "ab", "2026-11-27T10:21:25+00:00", "python -m x")
    page = render_report(rows_of(tmp_path), "x", OVER).split("## Where it comes from")[1]
    assert "2 records, made 2026-11-27 10:21 (UTC), of commit `abababababab`." in page


def test_failures_of_one_cause_are_one_line(tmp_path):
    put(tmp_path, "dense", "dense", None, 0.9, 1)
    for total in range(10, 16):
        budget = {"dominant": total - 2, "contextual": 2, "total": total}
        cell = f"uniform-{total}"
        write_record(tmp_path, Record(cell, "gqa", "uniform", "failed", {"path": "m"}, budget, error="no file"))
    failed = render_report(rows_of(tmp_path), "x", OVER).split("## Failed")[1].split("##")[0].strip()
    assert re.fullmatch(r"- `uniform-1\d/gqa`, .* and 2 more: no file", failed)


def test_minus_signs_and_empty_cells_in_latex():
    rows = (("dense", "-", "-1.5 [-5.0, +2.2]"), ("LLaVA-7B", "3", "-"))
    lines = Table(("Method", "MMB-CN", "vs"), rows).to_latex().splitlines()
    assert r"dense & --- & $-$1.5 [$-$5.0, +2.2] \\" in lines and r"LLaVA-7B & 3 & --- \\" in lines
    assert r"Method & MMB-CN & vs \\" in lines
    assert "| dense | - | -1.5 [-5.0, +2.2] |" in Table(("Method", "a", "b"), rows).to_markdown()


def test_the_axis_says_that_markers_are_set_apart(tmp_path, monkeypatch):
    from llava.eval import plot

    labels = []
    monkeypatch.setattr(plot.Axes, "set_xlabel", lambda self, text, **_: labels.append(text))
    plot.draw_accuracy([plot.Point("pool", "pool", 16.0, 50.0)], None, tmp_path / "a.png", "x")
    assert labels == ["visual tokens an image (measured; the methods of a budget are set a little apart)"]
