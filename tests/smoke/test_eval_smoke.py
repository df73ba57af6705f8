"""Evaluation end to end on a tiny random model and a small miniature world: the twelve scripts, grid, report, diff."""

import contextlib
import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

from llava.cli import PROGRAMS
from llava.eval import diff, grid, report, run_benchmark
from llava.eval.cells import read_items, read_record, read_records
from llava.eval.grid_config import read_config
from llava.eval.judge.benchmarks import BENCHMARKS as ALL
from llava.miniature.eval_sets import write_eval
from tests.stand_in import started
from tests.stub_judge import SECRET, StubJudge, serve
from tests.tiny_checkpoints import tiny_vicuna_llava, write_v15

ROOT = Path(__file__).resolve().parents[2]
QUESTIONS = 4
BENCHMARKS = [path.stem for path in sorted((ROOT / "scripts" / "eval").glob("*.sh")) if path.stem in ALL]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A working directory with a tiny checkpoint and the twins where the shipped configs look for them."""
    folder = tmp_path_factory.mktemp("home")
    write_eval(folder / "playground" / "data" / "miniature", QUESTIONS, 1)
    base = folder / "playground" / "miniature"
    write_v15(tiny_vicuna_llava(folder), base / "llava-mini-v1.5", dtype=torch.float32)
    return folder


def invoke(app, arguments):
    """Run one of our commands in this process -> what it prints."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.output


def test_there_is_a_script_for_each_of_llavas_twelve():
    assert set(BENCHMARKS) == set(ALL) - {"seed_image"} and len(BENCHMARKS) == 12


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_script_goes_from_question_file_to_score(home, tmp_path, name, monkeypatch):
    root, checkpoint = home / "playground/data/miniature/eval", home / "playground/miniature/llava-mini-v1.5"
    flags = ("--dominant", 5, "--contextual", 2, "--batch-size", 4, "--out", tmp_path / "out")
    (command,) = started(
        f"scripts/eval/{name}.sh", checkpoint, *flags, venv=tmp_path / "venv", environment={"EVAL_DATA": str(root)}
    )
    assert command[:3] == ["-m", "llava.eval.run_benchmark", name]
    reply = "0.5" if name == "mmvet" else "8 4\nfine"
    with serve(StubJudge(lambda body, number: reply)) as judge:
        monkeypatch.setenv("OPENAI_API_KEY", SECRET)
        monkeypatch.setenv("OPENAI_BASE_URL", judge.url)
        said = invoke(run_benchmark.app, [*command[2:], "--max-new-tokens", 6])
    record = read_record(tmp_path / "out" / "cells" / "visionzip-7" / f"{name}.json")
    assert record.status == "complete" and record.tokens_per_image == 7.0
    benchmark = ALL[name]
    assert f"{benchmark.title}: {record.headline:.2f} (" in said
    out = tmp_path / "out"
    assert said.rstrip().splitlines()[-2:] == [
        f"record: {out}/cells/visionzip-7/{name}.json",
        f"table: visionzip eval report --records {out} --out {out}/report",
    ]
    told = said[said.index(f"{benchmark.title}: ") :].rstrip()
    assert told.count("\n") <= 3 and not re.search(r"\d\.\d{3}|[{}]", told), told
    items = read_items(tmp_path / "out", "visionzip-7", name)
    assert len(items.ids) == record.n == len(benchmark.read(root).questions)
    assert sum(ratio.value for ratio in items.ratios) == pytest.approx(record.headline, abs=0.1)
    if name in ("llavabench", "mmvet"):
        assert record.headline == pytest.approx(50.0) and record.figures["judge"]
    if benchmark.upload:
        target = root / benchmark.upload.format(name="llava-mini-v1.5-visionzip-7")
        assert target.exists() and str(target) in said


def test_ranks_share_a_benchmark_and_the_last_one_scores(home, tmp_path, monkeypatch):
    root, checkpoint = home / "playground/data/miniature/eval", home / "playground/miniature/llava-mini-v1.5"
    (command,) = started(
        "scripts/eval/gqa.sh", checkpoint, "--out", tmp_path / "out", "--max-new-tokens", 3, "--limit", 3,
        venv=tmp_path / "venv", environment={"EVAL_DATA": str(root), "NUM_PROCESSES": "2"},
    )  # fmt: skip
    launcher, module = command[: command.index("--module")], command[command.index("--module") + 1 :]
    assert launcher == ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    assert module[0] == "llava.eval.run_benchmark"
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, expected in ((0, "the last rank merges and scores"), (1, "GQA: ")):
        monkeypatch.setenv("RANK", str(rank))
        assert expected in invoke(run_benchmark.app, module[1:])
    assert read_record(tmp_path / "out" / "cells" / "dense" / "gqa.json").n == 3
    assert list((root / "gqa" / "answers_upload" / "llava-mini-v1.5-first3").iterdir())


def test_answers_only_a_server_can_score_are_written_and_named(home, tmp_path):
    root = home / "playground/data/miniature/eval"
    hidden = root / "vqav2" / "v2_mscoco_test-dev2015_annotations.json"
    hidden.rename(tmp_path / "hidden.json")
    arguments = ["vqav2", "--model-path", home / "playground/miniature/llava-mini-v1.5", "--root", root]
    said = invoke(run_benchmark.app, [*arguments, "--out", tmp_path / "out", "--max-new-tokens", 3])
    (tmp_path / "hidden.json").rename(hidden)
    assert "VQAv2: answered (scored by the EvalAI server" in said and "--server dense/vqav2=SCORE" in said
    assert read_record(tmp_path / "out" / "cells" / "dense" / "vqav2.json").status == "answered"
    table = invoke(
        report.app, ["--records", tmp_path / "out", "--out", tmp_path / "table", "--server", "dense/vqav2=70"]
    )
    assert "| dense | 16 | 70.0 |" in table
    rows = json.loads((root / "vqav2/answers_upload/llava_vqav2_mscoco_test-dev2015/llava-mini-v1.5.json").read_text())
    everything = (root / "vqav2/llava_vqav2_mscoco_test2015.jsonl").read_text().count("\n")
    assert len(rows) == everything > QUESTIONS


def test_a_dry_run_of_a_judged_script_answers_and_sends_nothing(home, tmp_path, monkeypatch):
    root, checkpoint = home / "playground/data/miniature/eval", home / "playground/miniature/llava-mini-v1.5"
    flags = ("--out", tmp_path / "out", "--judge", "dear", "--dry-run", "--price-in", 30, "--price-out", 60)
    (command,) = started(
        "scripts/eval/mmvet.sh", checkpoint, *flags, venv=tmp_path / "venv", environment={"EVAL_DATA": str(root)}
    )
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    said = invoke(run_benchmark.app, [*command[2:], "--max-new-tokens", 3])
    assert "judge dear: " in said and "at the given prices" in said and "nothing was sent to the judge" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gqa", "--dry-run"], "--dry-run estimates what a judge takes: it is for llavabench, mmvet; got gqa"),
        (["vqa"], "unknown benchmark 'vqa'; known: gqa, mmbench"),
        (["gqa", "--root", "nowhere"], "nowhere/gqa/llava_gqa_testdev_balanced.jsonl, nowhere/gqa/data/images"),
        (["mmvet", "--limit", "3"], "--limit: mmvet is judged whole"),
        (["gqa", "--dominant", "5"], "dominant and contextual go together"),
    ],
)
def test_what_cannot_be_run_is_explained(home, monkeypatch, arguments, message):
    monkeypatch.chdir(home)
    given = ["--model-path", "playground/miniature/llava-mini-v1.5"]
    given += [] if "--root" in arguments else ["--root", "playground/data/miniature/eval"]
    done = CliRunner().invoke(run_benchmark.app, [*arguments, *given])
    assert done.exit_code == 2 and message in " ".join(done.output.split())


def test_all_runs_one_after_another_and_tells_which_failed(tmp_path):
    commands = started("scripts/eval/all.sh", "ckpt", "--limit", 5, venv=tmp_path / "venv")
    assert [
        command[2] for command in commands
    ] == "vqav2 gqa vizwiz sqa textvqa pope mme mmbench mmbench_cn seed".split()
    assert all(command[-2:] == ["--limit", "5"] for command in commands)


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("reproduce_table1", [("table1_v1_5_7b", "runs/table1")]),
        ("reproduce_table2", [("table2_next_7b", "runs/table2")]),
        ("reproduce_13b_vs_7b", [("next_7b_dense", "runs/13b_vs_7b/7b"), ("table13_next_13b", "runs/13b_vs_7b/13b")]),
    ],
)
def test_the_papers_tables_are_grids_with_lmms_eval_and_a_report(tmp_path, script, expected):
    commands = started(f"scripts/eval/{script}.sh", "--task", "mmmu_val", venv=tmp_path / "venv")
    modules = ["llava.eval.grid", "llava.eval.lmms_grid", "llava.eval.report"]
    assert [command[1] for command in commands[: 3 * len(expected)]] == modules * len(expected)
    for place, (name, out) in enumerate(expected):
        mine = commands[3 * place : 3 * place + 3]
        config = f"configs/eval/{name}.yaml"
        assert mine[0][2:] == mine[1][2:] == ["--config", config, "--out", out, "--task", "mmmu_val"]
        assert mine[2][2:] == ["--grid", config, "--records", out, "--out", out, "--strict"]
        assert read_config(ROOT / config).name == name
    together = [command[1:] for command in commands[3 * len(expected) :]]
    grid_13b = "configs/eval/table13_next_13b.yaml"
    assert together == (
        []
        if len(expected) == 1
        else [
            [
                *("llava.eval.report", "--grid", grid_13b, "--records", "runs/13b_vs_7b/13b"),
                *(
                    "--other",
                    "LLaVA-NeXT-7B=runs/13b_vs_7b/7b",
                    "--name",
                    "13b_vs_7b",
                    "--out",
                    "runs/13b_vs_7b",
                    "--strict",
                ),
            ]
        ]
    )


@pytest.fixture(scope="module")
def results(home):
    """The folder of records of two methods, made in this process by a config like the shipped one."""
    config = yaml.safe_load((ROOT / "configs" / "eval" / "miniature.yaml").read_text())
    config |= {"budgets": [8], "methods": ["dense", "visionzip"]}
    (home / "grid.yaml").write_text(yaml.safe_dump(config))
    with contextlib.chdir(home):
        invoke(grid.app, ["--config", "grid.yaml", "--out", "results"])
    return home / "results"


def test_the_grid_measures_every_benchmark(results):
    shipped = read_config(ROOT / "configs" / "eval" / "miniature.yaml")
    records = {record.name: record for record in read_records(results)}
    assert set(records) == {f"{cell}/{task}" for cell in ("dense", "visionzip-8") for task in shipped.tasks}
    assert records["visionzip-8/pope"].tokens_per_image == 8.0 and records["dense/pope"].tokens_per_image == 16.0


def test_a_finished_grid_is_not_redone(home, results, monkeypatch):
    monkeypatch.chdir(home)
    said = invoke(grid.app, ["--config", "grid.yaml", "--out", "results"])
    assert said.count("skipped") == len(read_records(results))


def test_the_report_is_rendered(results, tmp_path):
    said = invoke(report.app, ["--records", results, "--out", tmp_path])
    assert "| VisionZip | 8 |" in said and "| VisionZip | 8 |" in (tmp_path / "report.md").read_text()
    # A random model may be right in nothing of a benchmark; then no row has an average to draw.
    assert (tmp_path / "accuracy.png").exists() == ("and accuracy.png to" in said)


def test_the_diff_opens_the_benchmarks_own_pictures(home, results, tmp_path, monkeypatch):
    monkeypatch.chdir(home)
    cells = ["results/cells/dense", "results/cells/visionzip-8"]
    data = ["--data", "playground/data/miniature/eval", "--out", tmp_path]
    said = invoke(diff.app, [*cells, "--task", "mmbench", "--task", "sqa", *data])
    assert "mmbench: " in said and (tmp_path / "sqa" / "diff.html").exists()


def test_the_command_line_knows_the_programs():
    assert {name for _, name, *_ in PROGRAMS} == {"grid", "report", "diff", "bench"}
