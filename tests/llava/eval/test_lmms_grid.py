"""The lmms-eval part of a grid with a stand-in for lmms-eval: what is run, skipped, recorded as failed."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from llava.eval import lmms_grid
from llava.eval.cells import items_file, read_record, read_records
from llava.eval.grid_config import read_config
from llava.eval.lmms_records import read_questions
from llava.eval.lmms_results import read_lmms_results
from tests.llava.eval.test_lmms_records import result
from tests.llava.eval.test_lmms_results import mmbench, write

GRID = """
name: toy
data: data
tasks: [gqa]
methods: [dense, visionzip]
budgets: [64]
model: {{path: {base}}}
work: {work}
{lmms}
"""
LMMS = """
lmms_eval: 0.7.3
tasks:
  mmmu_val: {file: mmmu/mmmu_val.yaml, differs: nothing}
  pope: {file: pope/pope.yaml, differs: nothing}
"""


class World:
    def __init__(self, folder: Path) -> None:
        self.folder, self.asked, self.broken = folder, [], ""

    def lmms_eval(self, asked, options, folder, limit):
        self.asked.append((options["method"], [task.name for task in asked.tasks], asked.batch_size, limit))
        if self.broken in (options["method"], (options["method"], asked.tasks[0].name)):
            raise ValueError("lmms-eval wrote no results")
        self.ran = asked.tasks, {key: str(value) for key, value in options.items() if value is not None}
        return folder / "results.json"

    def read(self, _results):
        tasks, options = self.ran
        return [result(task=task.name, model_args=options) for task in tasks]

    def run(self, tasks=("mmmu_val", "pope"), **changes):
        self.asked.clear()
        config = read_config(self.folder / "grid.yaml")
        part = lmms_grid.LmmsPart(config.lmms.config, tuple(tasks))
        return lmms_grid.run_lmms_grid(config, part, self.folder / "out", config.cells(), self.lmms_eval)


@pytest.fixture
def world(tmp_path, monkeypatch):
    (tmp_path / "lmms.yaml").write_text(LMMS)
    lmms = f"lmms: {{config: {tmp_path / 'lmms.yaml'}, tasks: [mmmu_val, pope]}}"
    (tmp_path / "grid.yaml").write_text(GRID.format(base=tmp_path / "base", work=tmp_path / "work", lmms=lmms))
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    made = World(tmp_path)
    monkeypatch.setattr(lmms_grid, "read_lmms_results", made.read)
    return made


ALL = ["dense/mmmu", "dense/lmms:pope", "visionzip-64/mmmu", "visionzip-64/lmms:pope"]


def test_every_task_of_a_cell_is_a_run_and_a_record(world):
    assert world.run() == dict.fromkeys(ALL, "complete")
    runs = [(method, [task], 1, None) for method in ("dense", "visionzip") for task in ("mmmu_val", "pope")]
    assert world.asked == runs
    record = read_record(world.folder / "out" / "cells" / "visionzip-64" / "mmmu.json")
    assert record.headline == 75.0 and record.stamp["commit"] and record.inputs["weights"]
    assert record.inputs["settings"]["conv_mode"] == "vicuna_v1"
    assert items_file(world.folder / "out", "visionzip-64", "mmmu").exists()
    assert read_questions(world.folder / "out", "mmmu")["1"] == ("What is 1?", "B")


def test_a_stop_costs_the_task_that_ran(world):
    def stopped(asked, *rest):
        if asked.tasks[0].name == "pope":
            raise KeyboardInterrupt
        return done(asked, *rest)

    done, world.lmms_eval = world.lmms_eval, stopped
    with pytest.raises(KeyboardInterrupt):
        world.run()
    world.lmms_eval = done
    again = world.run()
    assert [again[name] for name in ALL] == ["skipped", "complete", "complete", "complete"]


def test_what_is_done_is_not_run_again_and_changes_are(world):
    world.run()
    assert world.run() == dict.fromkeys(ALL, "skipped") and world.asked == []
    (world.folder / "out" / "cells" / "dense" / "mmmu.json").unlink()
    assert world.run()["dense/mmmu"] == "complete" and world.asked == [("dense", ["mmmu_val"], 1, None)]
    (world.folder / "base" / "config.json").write_text('{"x": 1}')
    assert set(world.run().values()) == {"complete"}


def test_a_task_whose_samples_tell_no_items_is_done_all_the_same(world, monkeypatch):
    """MMBench with an answer that is more than a letter: lmms-eval gives the figure and no item's score."""

    def lmms_eval(asked, options, folder, limit):
        world.asked.append(options["method"])
        model = {"model": "llava_visionzip", "model_args": {k: v for k, v in options.items() if v}, "limit": limit}
        samples = [mmbench(7, said, "A"), mmbench(8, "A", "B")]
        return write(folder, "pope", samples, {"gpt_eval_score": 50.0}, config=model) / "20260101_000000_results.json"

    said = "A"
    monkeypatch.setattr(world, "lmms_eval", lmms_eval)
    monkeypatch.setattr(lmms_grid, "read_lmms_results", read_lmms_results)
    out, names = world.folder / "out", ["dense/lmms:pope", "visionzip-64/lmms:pope"]
    assert world.run(["pope"]) == dict.fromkeys(names, "complete")
    assert items_file(out, "dense", "lmms:pope").exists()
    said = "The answer is the dog, I think."
    (world.folder / "base" / "config.json").write_text('{"x": 1}')
    assert world.run(["pope"]) == dict.fromkeys(names, "complete")
    assert read_record(out / "cells" / "dense" / "lmms:pope.json").headline == 50.0
    assert not items_file(out, "dense", "lmms:pope").exists(), "those of the former run are not this one's"
    world.asked.clear()
    assert world.run(["pope"]) == dict.fromkeys(names, "skipped") and world.asked == []
    said = "A"
    (world.folder / "base" / "config.json").write_text("{}")
    world.run(["pope"])
    items_file(out, "dense", "lmms:pope").unlink()
    assert [world.run(["pope"])[name] for name in names] == ["complete", "skipped"], "lost items are had again"


def test_a_failed_run_is_recorded_and_the_rest_goes_on(world):
    world.broken = "dense"
    outcome = world.run()
    assert [outcome[name] for name in ALL] == ["failed", "failed", "complete", "complete"]
    failed = read_record(world.folder / "out" / "cells" / "dense" / "mmmu.json")
    assert failed.error == "ValueError: lmms-eval wrote no results" and failed.headline is None
    world.broken = ""
    again = world.run()
    assert [again[name] for name in ALL] == ["complete", "complete", "skipped", "skipped"]


def test_a_failed_task_leaves_the_others_of_its_cell(world):
    world.broken = ("dense", "mmmu_val")
    outcome = world.run()
    assert [outcome[name] for name in ALL] == ["failed", "complete", "complete", "complete"]


def test_a_run_without_the_task_is_a_failure(world, monkeypatch):
    monkeypatch.setattr(lmms_grid, "read_lmms_results", lambda _results: [])
    assert set(world.run().values()) == {"failed"}
    failed = read_record(world.folder / "out" / "cells" / "dense" / "mmmu.json")
    assert failed.error.endswith("expected one result of mmmu_val, found 0")


def command(world, *flags):
    given = ["--config", world.folder / "grid.yaml", "--out", world.folder / "out", *flags]
    return CliRunner().invoke(lmms_grid.app, [str(argument) for argument in given])


def test_the_command_chooses_tasks_and_cells(world, monkeypatch):
    def run(asked, options, folder, *, limit, processes):
        assert processes == 3
        return world.lmms_eval(asked, options, folder, limit)

    monkeypatch.setattr(lmms_grid, "run", run)
    done = command(
        world, "--task", "mmmu_val", "--method", "visionzip", "--limit", 2, "--batch-size", 5, "--processes", 3
    )
    assert done.exit_code == 0, done.output
    assert world.asked == [("visionzip", ["mmmu_val"], 5, 2)] and "visionzip-64/mmmu: 75.0" in done.output
    assert [record.name for record in read_records(world.folder / "out")] == ["visionzip-64/mmmu"]
    world.broken = "dense"
    failed = command(world, "--method", "dense", "--processes", 3)
    assert failed.exit_code == 1 and "2 of 2 failed: dense/mmmu, dense/lmms:pope" in failed.output


def test_a_grid_without_lmms_eval_has_nothing_to_do(world):
    file = world.folder / "grid.yaml"
    file.write_text(file.read_text().split("lmms:")[0])
    assert "nothing for lmms-eval" in command(world).output
    assert command(world, "--task", "nothing").exit_code == 2


def test_a_task_of_ours_leaves_nothing_for_lmms_eval(world):
    done = command(world, "--task", "gqa")
    assert done.exit_code == 0 and "nothing for lmms-eval" in done.output and world.asked == []
