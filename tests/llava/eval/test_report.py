"""Report on made-up records: table, intervals, what is refused, the README block, the picture."""

import random
import struct

import numpy as np
import pytest
from typer.testing import CliRunner

from llava.eval import report
from llava.eval.bootstrap import interval, resampled_averages
from llava.eval.cells import Record, read_items, read_records, write_items, write_record
from llava.eval.compare import build_rows
from llava.eval.records import Question
from llava.eval.tasks.base import TaskScore

TASKS = ("pope", "gqa")
INPUTS = {"files": {"pope": {"questions": "a"}, "gqa": {"questions": "b"}}, "settings": {"limit": None}}


def put(folder, cell, method, total, chance, seed, n=120, **changes):
    """Write a complete record whose items are right with `chance`, four questions a picture."""
    rng = random.Random(seed)
    questions = {task: [Question(i, "q", f"{task}{i // 4}.jpg") for i in range(n)] for task in TASKS}
    scores = {}
    for task in TASKS:
        items = {str(i): float(rng.random() < chance) for i in range(n)}
        scores[task] = TaskScore(task, 100 * sum(items.values()) / n, n, {"rule": "official"}, items)
    write_items(folder, cell, questions, scores)
    record = {
        "cell": cell,
        "method": method,
        "status": "complete",
        "model": {"path": "m", "base": None},
        "budget": None if total is None else {"dominant": total - 2, "contextual": 2, "total": total},
        "tokens_per_image": 144.0 if total is None else float(total),
        "tasks": {task: {"accuracy": s.accuracy, "n": s.n} for task, s in scores.items()},
        "average": sum(s.accuracy for s in scores.values()) / len(scores),
        "inputs": INPUTS,
        "stamp": {"commit": "abc", "dirty": False, "versions": {"torch": "2"}, "command": "python -m x"},
    }
    write_record(folder, Record(**(record | changes)))


@pytest.fixture
def folder(tmp_path):
    put(tmp_path, "uniform-16", "uniform", 16, 0.5, 1)
    put(tmp_path, "dense", "dense", None, 0.95, 2)
    put(tmp_path, "visionzip-16", "visionzip", 16, 0.75, 3)
    put(tmp_path, "visionzip-tuned-48", "visionzip-tuned", 48, 0.92, 4)
    put(tmp_path, "visionzip-48", "visionzip", 48, 0.9, 5)
    failed = Record(
        "pool-48", "pool", "failed", {"path": "m"}, {"dominant": 46, "contextual": 2, "total": 48}, error="Boom"
    )
    write_record(tmp_path, failed)
    return tmp_path


def test_rows_stand_in_table_order_with_shares_and_paired_differences(folder):
    rows = build_rows(read_records(folder), folder)
    assert [row.record.cell for row in rows] == [
        "dense",
        "visionzip-48",
        "visionzip-tuned-48",
        "pool-48",
        "visionzip-16",
        "uniform-16",
    ]
    dense, zipped, tuned, failed, _, uniform = rows
    assert dense.relative == 100.0 and dense.difference is None and zipped.difference is None
    assert failed.bounds is None and failed.relative is None
    for row in (dense, tuned, uniform):
        assert row.bounds[0] < row.record.average < row.bounds[1]
    gap, low, high = uniform.difference
    assert gap == pytest.approx(uniform.record.average - rows[4].record.average)
    assert low < gap < high < 0
    assert tuned.difference[0] == pytest.approx(tuned.record.average - zipped.record.average)
    share = [100 * tuned.record.tasks[t]["accuracy"] / dense.record.tasks[t]["accuracy"] for t in TASKS]
    assert tuned.relative == pytest.approx(sum(share) / 2)


def test_the_table_has_tasks_across_and_budgets_down(folder):
    lines = report.render_table(build_rows(read_records(folder), folder)).splitlines()
    assert lines[0] == "| Method | Tokens | GQA | POPE | Average | 95% interval | of dense | vs VisionZip |"
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| dense | 144 |")
    assert lines[3].startswith("| **48 tokens (33%)** |")
    assert lines[6] == "| pool | failed | - | - | - | - | - | - |"
    assert lines[7].startswith("| **16 tokens (11%)** |") and lines[9].startswith("| uniform | 16 |")


def test_records_of_different_sets_are_not_averaged(folder):
    put(folder, "random-16", "random", 16, 0.5, 6, tasks={"gqa": {"accuracy": 50.0, "n": 9}})
    with pytest.raises(ValueError, match=r"cover different tasks \(gqa, pope and gqa\)"):
        build_rows(read_records(folder), folder)


@pytest.mark.parametrize(
    "inputs", [{**INPUTS, "files": {"gqa": {"questions": "other"}}}, {**INPUTS, "settings": {"limit": 5}}]
)
def test_records_of_different_questions_are_not_compared(folder, inputs):
    put(folder, "random-16", "random", 16, 0.5, 6, inputs=inputs)
    with pytest.raises(ValueError, match="were asked different questions"):
        build_rows(read_records(folder), folder)


def test_without_item_scores_there_are_figures_but_no_intervals(folder):
    for file in (folder / "items").iterdir():
        file.unlink()
    rows = build_rows(read_records(folder), folder)
    assert rows[0].bounds is None and rows[-1].difference is None and rows[-1].relative is not None
    assert "| - | 100.0% | - |" in report.render_table(rows)


def items(scores, images, tasks=("t",)):
    return {"images": sorted(set(images)), "tasks": {t: {"image": images, "scores": scores} for t in tasks}}


def test_the_bootstrap_draws_pictures_and_pairs_methods():
    rng = np.random.default_rng(0)
    images = [i // 5 for i in range(500)]
    base = np.repeat(rng.random(100) < 0.5, 5).astype(float)  # all five questions of a picture fall together
    better = base.copy()
    better[::50] = 1.0
    draws = resampled_averages([items(base.tolist(), images), items(better.tolist(), images)], draws=1000)
    assert draws.shape == (2, 1000)
    # Spread is that of 100 pictures (5 points), not of 500 questions (2.2 points); the pair difference is far
    # tighter.
    assert draws[0].std() == pytest.approx(5.0, rel=0.15)
    assert (draws[1] - draws[0]).std() < 1.0
    low, high = interval(draws[1] - draws[0])
    assert low >= 0 and high < 3
    again = resampled_averages([items(base.tolist(), images)], draws=1000)
    assert np.array_equal(again[0], draws[0])  # the draws do not depend on which methods take part


def test_the_bootstrap_weighs_tasks_equally_and_refuses_other_questions():
    one = {
        "images": ["a"],
        "tasks": {"x": {"image": [0], "scores": [1]}, "y": {"image": [0, 0, 0], "scores": [0, 0, 0]}},
    }
    assert np.allclose(resampled_averages([one], draws=10), 50.0)
    other = {**one, "images": ["b"]}
    with pytest.raises(ValueError, match="same questions in the same order"):
        resampled_averages([one, other], draws=10)


def test_items_keep_question_order_pictures_and_soft_scores(tmp_path):
    questions = {"gqa": [Question("x", "q", "p.jpg"), Question("y", "q"), Question("z", "q", "p.jpg")]}
    score = TaskScore("gqa", 0.0, 3, {}, {"x": 1.0, "y": 1 / 3, "z": 0.0})
    write_items(tmp_path, "dense", questions, {"gqa": score})
    assert read_items(tmp_path, "dense") == {
        "images": ["p.jpg", "gqa/y"],
        "tasks": {"gqa": {"image": [0, 1, 0], "scores": [1, 0.3333, 0]}},
    }
    assert read_items(tmp_path, "other") is None


def test_the_command_writes_all_files_and_the_readme_block(folder, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("# Title\n<!-- results:mini:start -->\nold\n<!-- results:mini:end -->\nrest\n")
    out = tmp_path / "out"
    args = ["--records", str(folder), "--out", str(out), "--name", "mini", "--update-readme", str(readme)]
    app = report.typer.Typer()
    app.command()(report.main)
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 0, result.output
    page = (out / "report.md").read_text()
    assert "# Results: mini" in page and "GQA 120, POPE 120" in page and "`pool-48`: Boom" in page and "`abc`" in page
    table = (out / "table.md").read_text()
    text = readme.read_text()
    assert text.startswith("# Title\n<!-- results:mini:start -->\n| Method") and text.endswith("end -->\nrest\n")
    assert table.strip() in text and "old" not in text and "](out/accuracy.png)" in text
    png = (out / "accuracy.png").read_bytes()
    width, height = struct.unpack(">II", png[16:24])
    assert png[:4] == b"\x89PNG" and width > 900 and height > 500
    CliRunner().invoke(app, args)
    assert readme.read_text() == text and (out / "accuracy.png").read_bytes() == png  # rendering again changes nothing


@pytest.mark.parametrize(
    "text", ["none", "<!-- results:m:end --><!-- results:m:start -->", "<!-- results:m:start -->" * 2]
)
def test_a_readme_without_its_markers_is_refused(tmp_path, text):
    readme = tmp_path / "README.md"
    readme.write_text(text)
    with pytest.raises(ValueError, match=r"README\.md: expected one <!-- results:m:start -->"):
        report.update_readme(readme, "m", "table")
    assert readme.read_text() == text
    with pytest.raises(ValueError, match="found nothing there"):
        report.update_readme(tmp_path / "NONE.md", "m", "table")


def test_missing_or_broken_records_are_named(tmp_path):
    with pytest.raises(ValueError, match="expected records in"):
        read_records(tmp_path)
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "a.json").write_text('{"cell": "a", "colour": 1}')
    with pytest.raises(ValueError, match=r"a\.json: expected the record of a cell: .*colour"):
        read_records(tmp_path)
