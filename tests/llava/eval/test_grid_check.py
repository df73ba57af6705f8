"""What is missing is told once before a grid runs and fails its cells without a traceback; the scripts hand that on."""

import logging
import subprocess
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from llava.eval import grid, grid_check, lmms_grid
from llava.eval.grid_check import Lacking, describe, look
from llava.eval.grid_config import LmmsPart, Source, read_config
from llava.eval.tasks import TASKS
from llava.miniature.judged import write_judged
from tests.llava.eval.test_grid import CELLS, SEED, World, command, record_of
from tests.llava.eval.test_grid import world as world
from tests.llava.eval.test_lmms_grid import GRID, LMMS
from tests.stand_in import PYTHON, ROOT, started


def lines_of(world: World, **changes):
    config = replace(read_config(world.folder / "grid.yaml"), **changes)
    lacking = look(config, config.cells(), config.tasks)
    return describe(lacking, config, config.cells(), config.tasks)


def away(world: World, name):
    (world.folder / name).rename(world.folder / "away")


QUESTIONS = f"data/eval/{TASKS['seed'].questions}"


def test_where_all_is_there_one_line_says_so(world):
    assert lines_of(world) == ["toy: 7 rows x 2 benchmarks; all they need is there"]


def test_what_is_missing_is_listed_once_with_what_will_run(world):
    away(world, QUESTIONS)
    (world.folder / "zip_8" / "config.json").unlink()
    (world.folder / "zip_8" / "mm_projector.bin").unlink()
    (world.folder / "zip_8").rmdir()
    said = lines_of(world)
    assert said[0] == "toy: 7 rows x 2 benchmarks, 6 of 14 records can be made"
    assert said[1] == "will run: gqa for 6 of the rows"
    assert said[3] == f"  seed: {TASKS['seed'].questions} not found", "below the eval root, which the line above names"
    assert TASKS["seed"].obtain in said[4]
    assert said[5].startswith(f"  visionzip-tuned-8: there is no folder {world.folder / 'zip_8'}; scripts/train/zip_tu")
    assert len(said) == 6


def test_many_rows_of_one_reason_are_one_line(world):
    (world.folder / "base").rename(world.folder / "away")
    said = lines_of(world)
    assert said[1] == "will run: nothing"
    assert said[3:] == [
        f"  dense, visionzip-16, visionzip-tuned-16, uniform-16 and 3 more: there is no folder {world.folder / 'base'}"
    ]


@pytest.mark.parametrize(
    ("place", "missing"),
    [
        ("checkpoints/zip_tune_v1_5_7b_192", True),
        ("playground/llava", True),
        ("nowhere", True),
        ("a/b/c", True),
        ("liuhaotian/llava-v1.5-7b", False),
    ],
)
def test_a_folder_is_told_from_a_name_of_the_hub(place, missing, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(grid_check.constants, "HF_HUB_OFFLINE", False)
    assert (grid_check._missing_folder(place) is not None) is missing
    if missing:
        (tmp_path / place).mkdir(parents=True)
        assert grid_check._missing_folder(place) is None


def test_without_the_hub_its_checkpoints_must_be_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(grid_check.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(grid_check, "try_to_load_from_cache", lambda name, file: "x" if name == "own/er" else None)
    assert grid_check._missing_folder("own/er") is None
    assert grid_check._missing_folder("own/other") == "own/other is not in the hub's cache, and HF_HUB_OFFLINE is set"


def test_a_judged_benchmark_without_a_key_is_listed_and_still_answered(world, monkeypatch):
    write_judged(world.folder / "data" / "eval", bench_questions=3, vet_questions=2)
    words = {"tasks": ("gqa", "mmvet"), "methods": ("dense",), "judge": "a"}
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    assert len(lines_of(world, **words)) == 1
    monkeypatch.delenv("OPENAI_API_KEY")
    assert lines_of(world, **words)[-1] == "  mmvet: OPENAI_API_KEY is not set, so the answers are not judged"
    world.run(**words)
    assert [cell for cell, _ in world.asked].count("dense") == 2 + 1, "three questions of gqa by two, and two of mmvet"


def test_lmms_eval_and_its_data_are_looked_for(tmp_path, monkeypatch):
    part = LmmsPart(str(tmp_path / "lmms.yaml"), ("pope",))
    (tmp_path / "lmms.yaml").write_text(LMMS + f"data: {tmp_path / 'data'}\nmade_by: python -m maker\n")
    config = replace(read_config("configs/eval/miniature.yaml"), data=str(tmp_path))
    monkeypatch.setattr(grid_check, "check_version", lambda config: None)
    assert look(config, (), (), part).tasks == {
        "lmms:pope": f"{tmp_path / 'data'} is not there; write it first: python -m maker"
    }
    (tmp_path / "data").mkdir()
    assert not look(config, (), (), part)

    def absent(config):
        raise ValueError("lmms-eval is not installed")

    monkeypatch.setattr(grid_check, "check_version", absent)
    assert look(config, (), (), part).tasks == {"lmms:pope": "lmms-eval is not installed"}


def test_what_is_missing_fails_its_cells_in_one_line_each_without_a_traceback(world, caplog):
    away(world, QUESTIONS)
    said = []
    config = read_config(world.folder / "grid.yaml")
    outcome = grid.run_grid(config, world.folder / "out", open_checkpoint=world.open, echo=said.append)
    assert {name for name, what in outcome.items() if what == "failed"} == set(SEED)
    assert [line for line in said if "FAILED" in line] == [
        f"{cell}: FAILED: seed: their files are missing" for cell in sorted(CELLS, key=said_order(world))
    ]
    assert caplog.text == ""
    assert TASKS["seed"].obtain in record_of(world, "dense/seed").error


def said_order(world):
    """Cells run by checkpoint."""
    order = [
        "dense",
        "visionzip-16",
        "uniform-16",
        "visionzip-8",
        "uniform-8",
        "visionzip-tuned-16",
        "visionzip-tuned-8",
    ]
    return order.index


def test_a_missing_checkpoint_is_not_opened_and_says_nothing_against_its_records(world):
    world.run()
    away(world, "zip_16")
    outcome = world.run()
    assert {name for name, what in outcome.items() if what == "failed"} == {
        "visionzip-tuned-16/gqa",
        "visionzip-tuned-16/seed",
    }
    assert not any(path.endswith("zip_16") for path in world.opened)
    assert record_of(world, "visionzip-tuned-16/gqa").status == "complete"


@pytest.mark.parametrize(("broken", "logged"), [(True, True), (False, False)])
def test_only_an_error_nobody_foresees_leaves_a_traceback(world, caplog, broken, logged):
    """A picture that is gone is told by a message of this package; "tensor trouble" is not."""
    if broken:
        world.broken = {"dense"}
    else:
        away(world, "data/eval/gqa/data/images/a.png")
    with caplog.at_level(logging.DEBUG, logger="llava.eval.grid"):
        outcome = world.run(methods=("dense",), budgets=(), tasks=("gqa",))
    assert outcome == {"dense/gqa": "failed"}
    assert ("Traceback" in caplog.text) is logged
    assert record_of(world, "dense/gqa").error


def test_a_checkpoint_that_cannot_be_loaded_is_tried_once(world, monkeypatch):
    asked = []

    def load(path, base, device):
        asked.append(path)
        raise ValueError("the hub did not give it")

    monkeypatch.setattr(grid, "load_model", load)
    config = read_config(world.folder / "grid.yaml")
    opened = grid.Checkpoint(Source("own/er"), config)
    for cell in config.cells()[:2]:
        with pytest.raises(ValueError, match="the hub did not give it"):
            opened.answerer(cell, 8)
    assert asked == ["own/er"]


def known(world):
    return ("--config", world.folder / "grid.yaml", "--out", world.folder / "out")


def test_check_says_what_is_missing_and_runs_nothing(world):
    done = command(*known(world), "--check")
    assert done.exit_code == 0 and done.output == "toy: 7 rows x 2 benchmarks; all they need is there\n"
    away(world, QUESTIONS)
    done = command(*known(world), "--check", "--method", "dense")
    assert done.exit_code == 1 and "toy: 1 rows x 2 benchmarks, 1 of 2 records can be made" in done.output
    assert command(*known(world), "--check", "--method", "dense", "--task", "gqa").exit_code == 0
    assert not (world.folder / "out").exists()


def test_the_command_lists_before_it_runs_once_for_all_ranks(world, monkeypatch):
    away(world, QUESTIONS)
    said = command(*known(world), "--method", "dense").output
    assert said.index("missing (files below") < said.index("dense: FAILED: seed") < said.index("2 of 2 failed")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert "missing (files below" not in command(*known(world), "--method", "dense").output


def test_a_long_list_of_failures_is_cut(world):
    said = command(*known(world)).output.splitlines()[-1]
    assert said.startswith("14 of 14 failed: dense/gqa, dense/seed,") and said.endswith(" and 6 more")


def lmms(tmp_path, *words):
    files = ("--config", tmp_path / "grid.yaml", "--out", tmp_path / "out")
    return CliRunner().invoke(lmms_grid.app, [str(word) for word in (*files, *words)])


@pytest.fixture
def lmms_world(tmp_path):
    """A grid with a task of lmms-eval whose data folder is not there."""
    (tmp_path / "lmms.yaml").write_text(LMMS + f"data: {tmp_path / 'data'}\nmade_by: python -m maker\n")
    part = f"lmms: {{config: {tmp_path / 'lmms.yaml'}, tasks: [pope]}}"
    (tmp_path / "grid.yaml").write_text(GRID.format(base=tmp_path / "base", work=tmp_path / "work", lmms=part))
    (tmp_path / "base").mkdir()
    return tmp_path


def test_the_lmms_part_fails_the_same_way_and_starts_nothing(lmms_world, monkeypatch):
    pytest.importorskip("lmms_eval")
    monkeypatch.setattr(lmms_grid, "run", lambda *_, **__: pytest.fail("started"))
    done = lmms(lmms_world)
    assert done.exit_code == 1 and "Traceback" not in done.output
    assert (
        f"dense: FAILED: lmms:pope: {lmms_world / 'data'} is not there; write it first: python -m maker" in done.output
    )
    assert "2 of 2 failed: dense/lmms:pope, visionzip-64/lmms:pope" in done.output


def test_the_lmms_part_refuses_a_method_the_grid_lacks_whatever_is_left_of_it(lmms_world):
    """Else the scripts would take "nothing for lmms-eval" for a success."""
    done = lmms(lmms_world, "--task", "gqa", "--method", "visionzp")
    assert done.exit_code == 2 and "--method visionzp is not in the grid toy" in done.output


def test_complete_records_of_lmms_eval_stay_and_are_skipped_whatever_is_missing(lmms_world):
    """`Lacking` is asked only about what is not done."""
    config = read_config(lmms_world / "grid.yaml")
    lacking = Lacking(tasks={"lmms:pope": "gone"})
    outcome = lmms_grid.run_lmms_grid(config, config.lmms, lmms_world / "out", config.cells(), None, lacking)
    assert set(outcome.values()) == {"failed"}
    for cell in ("dense", "visionzip-64"):
        record = lmms_world / "out" / "cells" / cell / "lmms:pope.json"
        record.write_text(
            record.read_text().replace('"failed"', '"answered"').replace('"figures": {}', '"figures": {"server": "x"}')
        )
    outcome = lmms_grid.run_lmms_grid(config, config.lmms, lmms_world / "out", config.cells(), None, lacking)
    assert set(outcome.values()) == {"skipped"}


def test_a_task_of_lmms_eval_and_a_benchmark_of_one_name_lack_things_apart(lmms_world):
    config = read_config(lmms_world / "grid.yaml")
    lacking = look(replace(config, data=str(lmms_world)), config.cells(), ("pope",), config.lmms)
    assert "llava_pope_test.jsonl" in lacking.tasks["pope"] and set(lacking.tasks) == {"pope", "lmms:pope"}


@pytest.mark.parametrize(
    ("script", "grids"),
    [
        ("grid", ["miniature"]),
        ("miniature", ["miniature"]),
        ("reproduce_table1", ["table1_v1_5_7b"]),
        ("reproduce_table2", ["table2_next_7b"]),
        ("reproduce_13b_vs_7b", ["next_7b_dense", "table13_next_13b"]),
    ],
)
def test_the_scripts_hand_check_on_and_start_nothing_else(tmp_path, script, grids):
    commands = started(f"scripts/eval/{script}.sh", "--task", "gqa", "--check", venv=tmp_path / "venv", gpus=2)
    assert [one[:4] for one in commands] == [
        ["-m", "llava.eval.grid", "--config", f"configs/eval/{name}.yaml"] for name in grids
    ]
    assert all(one[-3:] == ["--task", "gqa", "--check"] for one in commands)


@pytest.mark.parametrize("script", ["grid", "miniature", "reproduce_table1", "reproduce_13b_vs_7b"])
@pytest.mark.parametrize(("flags", "status"), [((), 2), (("--check",), 1)])
def test_a_script_stops_at_the_first_usage_error_and_keeps_the_status(tmp_path, script, flags, status):
    """The stand-in for python leaves every grid with this status."""
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    body = PYTHON.format(gpus=0).replace(
        "printf", f'case "$2" in llava.eval.grid) echo grid; exit {status} ;; esac; printf'
    )
    python.write_text(body)
    python.chmod(0o755)
    (tmp_path / "venv" / ".llava-lock-hash").write_text("hash\n")
    done = subprocess.run(
        ["bash", f"scripts/eval/{script}.sh", *flags],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "LLAVA_VENV": str(tmp_path / "venv")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == status, done.stderr
    asked = 2 if status == 1 and script == "reproduce_13b_vs_7b" else 1
    assert done.stdout.split() == ["grid"] * asked
