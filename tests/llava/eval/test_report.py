"""Report on made-up records: table, intervals, what is refused, the README block, the picture."""

import csv
import io
import random
import struct
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from llava.eval import report
from llava.eval.bootstrap import in_common, interval, resampled_headlines
from llava.eval.cells import Items, Record, items_file, read_items, read_records, write_items, write_record
from llava.eval.compare import build_rows
from llava.eval.table import Table
from llava.eval.tasks.base import Ratio, mean_ratio
from tests.llava.eval.test_lmms_results import pope
from tests.llava.eval.test_lmms_results import write as write_lmms

OVER = ("gqa", "pope")


def put(folder, cell, method, total, chance, seed, n=120, tasks=OVER, **changes):
    """Write complete records whose items are right with `chance`, four questions a picture."""
    for task in tasks:
        rng = random.Random(f"{seed} {task}")
        ids = tuple(map(str, range(n)))
        scores = tuple(float(rng.random() < chance) for _ in ids)
        ratio = mean_ratio(ids, scores)
        write_items(folder, cell, task, Items(ids, tuple(f"{i // 4}.jpg" for i in range(n)), scores, ids, (ratio,)))
        record = Record(
            cell=cell,
            task=task,
            method=method,
            status="complete",
            model={"path": "m", "base": None},
            budget=None if total is None else {"dominant": total - 2, "contextual": 2, "total": total},
            headline=ratio.value,
            accuracy=ratio.value,
            n=n,
            tokens_per_image=144.0 if total is None else float(total),
            images=n,
            inputs={"files": {task: "a"}, "settings": {"limit": None}},
            stamp={"commit": "abc", "dirty": False, "versions": {"torch": "2"}, "command": "python -m x"},
        )
        write_record(folder, replace(record, **changes))


def rows_of(folder, over=OVER, **options):
    return build_rows(report.collect([folder]), over, **options)


@pytest.fixture
def folder(tmp_path):
    put(tmp_path, "uniform-16", "uniform", 16, 0.5, 1)
    put(tmp_path, "dense", "dense", None, 0.95, 2)
    put(tmp_path, "visionzip-16", "visionzip", 16, 0.75, 3)
    put(tmp_path, "visionzip-tuned-48", "visionzip-tuned", 48, 0.92, 4)
    put(tmp_path, "visionzip-48", "visionzip", 48, 0.9, 5)
    put(tmp_path, "pool-48", "pool", 48, 0.6, 6, tasks=("gqa",))
    budget = {"dominant": 46, "contextual": 2, "total": 48}
    write_record(tmp_path, Record("pool-48", "pope", "pool", "failed", {"path": "m"}, budget, error="Boom"))
    return tmp_path


def headline(row, task):
    return row.records[task].headline


def test_rows_stand_in_table_order_with_shares_and_paired_differences(folder):
    rows = rows_of(folder)
    order = ["dense", "visionzip-48", "visionzip-tuned-48", "pool-48", "visionzip-16", "uniform-16"]
    assert [row.cell for row in rows] == order
    dense, zipped, tuned, failed, less, uniform = rows
    assert dense.relative == 100.0 and dense.difference is None and dense.bounds is None and zipped.difference is None
    assert failed.bounds is None and failed.relative is None and failed.missing == ("pope",)
    for row in (zipped, tuned, uniform):
        assert row.bounds[0] < row.relative < row.bounds[1]
        shares = [100 * headline(row, task) / headline(dense, task) for task in OVER]
        assert row.relative == pytest.approx(sum(shares) / 2)
    gap, low, high = uniform.difference
    assert gap == pytest.approx(uniform.relative - less.relative) and low < gap < high < 0
    assert tuned.difference[0] == pytest.approx(tuned.relative - zipped.relative)


def test_the_table_has_benchmarks_across_and_budgets_down(folder):
    lines = report.make_table(rows_of(folder)).to_markdown().splitlines()
    assert lines[0] == "| Method | Tokens | GQA | POPE | Average | 95% interval | vs VisionZip |"
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| dense | 144 |") and lines[2].endswith("| 100.0% | - | - |")
    assert lines[3].startswith("| **48 tokens (33%)** |")
    pool = next(line for line in lines if line.startswith("| pool |"))
    assert pool.endswith("| failed | - | - | - |")
    assert lines[7].startswith("| **16 tokens (11%)** |") and lines[9].startswith("| uniform | 16 |")


def test_the_average_is_over_the_declared_set_only(folder):
    put(folder, "random-16", "random", 16, 0.5, 6, tasks=("gqa",))
    by_cell = {row.cell: row for row in rows_of(folder)}
    assert by_cell["random-16"].relative is None and by_cell["random-16"].missing == ("pope",)
    over_one = {row.cell: row for row in rows_of(folder, ["gqa"])}
    dense = over_one["dense"]
    for cell in ("random-16", "pool-48", "visionzip-16"):
        share = 100 * headline(over_one[cell], "gqa") / headline(dense, "gqa")
        assert over_one[cell].relative == pytest.approx(share)
    with pytest.raises(ValueError, match="--over mme: no record of it; there are gqa, pope"):
        report.declared(report.collect([folder]), ["mme"])


def test_without_dense_there_are_figures_and_no_average(folder):
    measured = [one for one in report.collect([folder]) if one.record.method != "dense"]
    rows = build_rows(measured, OVER)
    assert {row.relative for row in rows} == {None} and headline(rows[0], "gqa") > 0


@pytest.mark.parametrize(
    "inputs",
    [{"files": {"gqa": "other"}, "settings": {"limit": None}}, {"files": {"gqa": "a"}, "settings": {"limit": 5}}],
)
def test_records_of_different_questions_are_not_compared(folder, inputs):
    put(folder, "random-16", "random", 16, 0.5, 6, tasks=("gqa",), inputs=inputs)
    with pytest.raises(ValueError, match=r"cannot stand side by side, they differ in (files or pictures|limit)"):
        rows_of(folder)


def test_a_cell_measured_twice_is_refused(folder, tmp_path):
    put(tmp_path / "more", "dense", "dense", None, 0.5, 9, tasks=("gqa",))
    both = r"two records of dense/gqa, .*/cells/dense/gqa\.json and .*/more/cells/dense/gqa\.json"
    with pytest.raises(ValueError, match=both):
        build_rows(report.collect([folder, tmp_path / "more"]), OVER)


def test_without_items_there_are_figures_but_no_intervals(folder):
    for file in (folder / "items").glob("*/*"):
        file.unlink()
    rows = rows_of(folder)
    assert rows[1].bounds is None and rows[-1].difference is None and rows[-1].relative is not None


def items(scores, images):
    ids = tuple(map(str, range(len(images))))
    return Items(ids, tuple(map(str, images)), tuple(scores), ids, (mean_ratio(ids, scores),))


def test_the_bootstrap_draws_pictures_and_pairs_methods():
    rng = np.random.default_rng(0)
    images = [i // 5 for i in range(500)]
    base = np.repeat(rng.random(100) < 0.5, 5).astype(float)  # all five questions of a picture fall together
    better = base.copy()
    better[::50] = 1.0
    draws = resampled_headlines("gqa", [items(base.tolist(), images), items(better.tolist(), images)], draws=1000)
    assert draws.shape == (2, 1000)
    # Spread is that of 100 pictures (5 points), not of 500 questions (2.2 points); the pair difference is far tighter.
    assert draws[0].std() == pytest.approx(5.0, rel=0.15)
    assert (draws[1] - draws[0]).std() < 1.0
    low, high = interval(draws[1] - draws[0])
    assert low >= 0 and high < 3
    again = resampled_headlines("gqa", [items(base.tolist(), images)], draws=1000)
    assert np.array_equal(again[0], draws[0])  # the draws do not depend on which methods take part
    other = resampled_headlines("pope", [items(base.tolist(), images)], draws=1000)
    assert not np.array_equal(other[0], draws[0])  # benchmarks are drawn independently


def test_the_bootstrap_follows_sums_of_ratios():
    """F1 of two groups of one picture each: a draw holds one group twice or both once."""
    ids = ("a", "b", "c")
    ratios = (Ratio(50, ("a", "b"), (2, 0), (2, 1)), Ratio(50, ("c",), (0,), (1,)))
    one = Items(ids, ("x", "x", "y"), (1, 0, 0), ids, ratios)
    assert sum(ratio.value for ratio in ratios) == pytest.approx(100 / 3)
    draws = resampled_headlines("pope", [one], draws=400)[0]
    assert {round(value, 6) for value in draws} == {0.0, round(100 / 3, 6)}
    assert 0.15 < np.mean(draws == 0) < 0.35  # picture y drawn twice: a quarter


def test_questions_a_judge_left_out_for_one_method_are_left_out_for_all():
    ids = ("a", "b", "c")
    whole = Items(ids, ids, (1, 0, 1), ids, (Ratio(100, ids, (1, 0, 1), (2, 1, 1)),))
    part = Items(("a", "c"), ("a", "c"), (1, 1), ("a", "c"), (Ratio(100, ("a", "c"), (1, 1), (1, 1)),))
    both = in_common([whole, part])
    assert both[1] == part and both[0].ids == ("a", "c") and both[0].scores == (1, 1)
    assert both[0].ratios == (Ratio(100, ("a", "c"), (1, 1), (2, 1)),)
    assert in_common([whole, whole]) == [whole, whole]


def test_the_bootstrap_refuses_other_questions_and_other_scoring():
    one = items([1, 0], [0, 1])
    with pytest.raises(ValueError, match="gqa: expected the same questions in the same order"):
        resampled_headlines("gqa", [one, replace(one, images=("0", "2"))], draws=10)
    split = (Ratio(50, ("0",), (1,), (1,)), Ratio(50, ("1",), (0,), (1,)))
    with pytest.raises(ValueError, match="scored in different ways"):
        resampled_headlines("gqa", [one, replace(one, ratios=split)], draws=10)


@pytest.mark.parametrize("plain", [True, False])
def test_items_come_back_as_they_were_written(tmp_path, plain):
    ids, scores = ("x", "y", "z"), (1.0, 0.3333, 0.0)
    ratios = (
        (mean_ratio(ids, scores),) if plain else (Ratio(50, ("z", "x"), (2, 0.5), (1, 3)), Ratio(1, ("y",), (1,), (2,)))
    )
    written = Items(ids, ("p.jpg", "y", "p.jpg"), scores, ("yes", "nö", ""), ratios)
    write_items(tmp_path, "dense", "gqa", written)
    assert read_items(tmp_path, "dense", "gqa") == written
    assert ("ratios" in items_file(tmp_path, "dense", "gqa").read_text()) is not plain
    assert read_items(tmp_path, "other", "gqa") is None
    items_file(tmp_path, "dense", "gqa").write_text('{"ids": []}')
    with pytest.raises(ValueError, match=r"gqa\.json: expected the items of a record: KeyError 'scores'"):
        read_items(tmp_path, "dense", "gqa")


def test_another_model_stands_in_the_table_relative_to_its_dense_row(folder, tmp_path):
    """The paper's 13B against 7B: one table, 13B dense 100%."""
    guests = tmp_path / "7b"
    put(guests, "dense", "dense", None, 0.7, 7, model={"path": "small", "base": None})
    put(guests, "visionzip-48", "visionzip", 48, 0.6, 8, model={"path": "small", "base": None})
    alone = {row.cell: row for row in rows_of(folder)}
    both = report.collect([folder]) + report.collect_guests([f"7B={guests}"])
    rows = {row.cell: row for row in build_rows(both, OVER)}
    assert [*rows][:4] == ["dense", "7B: dense", "visionzip-48", "visionzip-tuned-48"]
    small, full = rows["7B: dense"], rows["dense"]
    assert small.title == "dense, 7B" and rows["7B: visionzip-48"].title == "VisionZip, 7B"
    assert small.relative == pytest.approx(sum(headline(small, task) / headline(full, task) for task in OVER) * 50)
    assert small.bounds[0] < small.relative < small.bounds[1] and small.difference is None
    assert rows["7B: visionzip-48"].difference is None
    for cell, row in alone.items():
        assert (rows[cell].relative, rows[cell].missing) == (row.relative, row.missing)
    out = tmp_path / "out"
    args = ["--records", str(folder), "--other", f"7B={guests}", "--out", str(out), "--name", "both"]
    result = CliRunner().invoke(report.app, args)
    assert result.exit_code == 0, result.output
    page = (out / "report.md").read_text()
    assert "| dense, 7B | 144 |" in page and "Rows of 7B: another model, asked the same" in page


def test_another_model_must_be_asked_the_same_and_be_named(folder, tmp_path):
    put(tmp_path / "7b", "dense", "dense", None, 0.7, 7, inputs={"files": {"gqa": "b"}, "settings": {"limit": None}})
    with pytest.raises(ValueError, match="differ in files or pictures"):
        build_rows(report.collect([folder]) + report.collect_guests([f"7B={tmp_path / '7b'}"]), OVER)
    with pytest.raises(ValueError, match="--other: expected NAME=FOLDER"):
        report.collect_guests(["7b"])
    put(tmp_path / "13b", "x-16", "uniform", 16, 0.7, 7, model={"path": "small", "base": None})
    with pytest.raises(ValueError, match="differ in base model"):
        build_rows(report.collect([folder, tmp_path / "13b"]), OVER)


def test_tokens_are_the_mean_over_all_pictures(folder):
    put(folder, "random-16", "random", 16, 0.5, 6, tasks=("gqa",), tokens_per_image=10.0, images=30)
    put(folder, "random-16", "random", 16, 0.5, 6, tasks=("pope",), tokens_per_image=16.0, images=90)
    assert {row.cell: row.tokens for row in rows_of(folder)}["random-16"] == pytest.approx(14.5)


def test_results_of_lmms_evals_own_llava_are_the_dense_row_without_tokens(tmp_path):
    samples = [pope("yes", "yes"), pope("yes", "no"), pope("no", "no")]
    asked = samples, {"pope_f1_score": 2 / 3}
    zipped = {"pretrained": "a/b", "method": "visionzip", "dominant": "54", "contextual": "10"}
    write_lmms(
        tmp_path / "zipped", "pope", *asked, config={"model": "llava_visionzip", "model_args": zipped, "limit": None}
    )
    own = {"model": "llava", "model_args": "pretrained=a/b,device_map=auto", "limit": None}
    untold = [{**sample, "token_counts": [None]} for sample in samples]
    write_lmms(tmp_path / "own", "pope", untold, asked[1], config=own)
    folders = ["--lmms", str(tmp_path / "zipped"), "--lmms", str(tmp_path / "own")]
    result = CliRunner().invoke(report.app, [*folders, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "| dense | - | 66.7 | 100.0% |" in result.output and "| VisionZip | 64 | 66.7 | 100.0% |" in result.output
    write_lmms(tmp_path / "more", "pope", *asked, config={**own, "model_args": "pretrained=a/b"})
    twice = CliRunner().invoke(report.app, [*folders, "--lmms", str(tmp_path / "more"), "--out", str(tmp_path / "out")])
    said = "".join(twice.output.replace("│", " ").split())
    assert twice.exit_code == 2 and "tworecordsofdense/lmms:pope" in said
    assert "own/20260101_000000_results.json" in said and "more/20260101_000000_results.json" in said


def test_a_table_in_three_forms():
    table = Table(("Method", "a_b"), (("dense", "1"), ("VisionZip‡", "95%"), ("x, y", "-")), {1: "48 tokens"})
    assert table.to_markdown().splitlines()[3] == "| **48 tokens** |  |"
    assert list(csv.reader(io.StringIO(table.to_csv()))) == [
        ["Method", "a_b"],
        ["dense", "1"],
        ["VisionZip‡", "95%"],
        ["x, y", "-"],
    ]
    lines = table.to_latex().splitlines()
    assert r"Method & a\_b \\" in lines and r"VisionZip$\ddagger$ & 95\% \\" in lines
    assert lines.count(r"\midrule") == 2 and lines.index(r"dense & 1 \\") + 1 == lines.index(
        r"\midrule", lines.index(r"dense & 1 \\")
    )


def test_the_command_writes_all_files_and_the_readme_block(folder, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("# Title\n<!-- results:mini:start -->\nold\n<!-- results:mini:end -->\nrest\n")
    out = tmp_path / "out"
    args = ["--records", str(folder), "--out", str(out), "--name", "mini", "--update-readme", str(readme)]
    result = CliRunner().invoke(report.app, args)
    assert result.exit_code == 0, result.output
    page = (out / "report.md").read_text()
    assert "# Results: mini" in page and "120 questions" in page and "`pool-48/pope`: Boom" in page and "`abc`" in page
    assert "figure / dense figure: GQA, POPE." in page
    table = (out / "table.md").read_text()
    text = readme.read_text()
    assert text.startswith("# Title\n<!-- results:mini:start -->\n| Method") and text.endswith("end -->\nrest\n")
    assert table.strip() in text and "old" not in text and "](out/accuracy.png)" in text
    assert (out / "table.csv").read_text().startswith("Method,Tokens,GQA,POPE") and (out / "table.tex").exists()
    png = (out / "accuracy.png").read_bytes()
    width, height = struct.unpack(">II", png[16:24])
    assert png[:4] == b"\x89PNG" and width > 900 and height > 500
    CliRunner().invoke(report.app, args)
    assert readme.read_text() == text and (out / "accuracy.png").read_bytes() == png  # rendering again changes nothing


def test_what_waits_for_a_server_is_shown_and_its_score_entered(tmp_path):
    put(tmp_path, "dense", "dense", None, 0.9, 1)
    put(tmp_path, "uniform-16", "uniform", 16, 0.5, 2)
    read = {record.name: record for record in read_records(tmp_path)}
    for cell in ("dense", "uniform-16"):
        figures = {"server": "EvalAI", "submission": f"{cell}.json"}
        answered = replace(read[f"{cell}/gqa"], task="vqav2", status="answered", headline=None, figures=figures)
        write_record(tmp_path, answered)
    args = ["--records", str(tmp_path), "--out", str(tmp_path / "out"), "--name", "x", "--strict"]
    result = CliRunner().invoke(report.app, args)
    assert result.exit_code == 0, result.output
    assert "| answered | - | - | - |" in result.output, "vqav2 is the last column, and there is no average"
    page = (tmp_path / "out" / "report.md").read_text()
    assert "## Waiting for a server" in page and "## Failed" not in page
    assert "- `dense/vqav2`: send `dense.json` to EvalAI, then `--server dense/vqav2=SCORE`" in page
    scores = ["--server", "dense/vqav2=80", "--server", "uniform-16/vqav2=60"]
    assert CliRunner().invoke(report.app, [*args, *scores]).exit_code == 0
    again = CliRunner().invoke(report.app, [*args, "--over", "vqav2"])
    assert "| uniform | 16 |" in again.output and "| 60.0 | 75.0% | - | - |" in again.output
    page = (tmp_path / "out" / "report.md").read_text()
    assert "## Waiting" not in page and "- from the server, entered by hand" in page and "VQAv2 by EvalAI" in page
    refused = CliRunner().invoke(report.app, [*args, "--server", "dense/gqa=3"])
    assert refused.exit_code == 2 and "no server scores it" in " ".join(refused.output.split())


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
    (tmp_path / "cells" / "dense").mkdir(parents=True)
    (tmp_path / "cells" / "dense" / "a.json").write_text('{"cell": "a", "colour": 1}')
    with pytest.raises(ValueError, match=r"a\.json: expected the record of a benchmark: .*colour"):
        read_records(tmp_path)
