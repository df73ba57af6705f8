"""The grid with a stub for the model: what is skipped, redone, resumed, recorded as failed."""

import json
from dataclasses import dataclass, field, replace

import pytest
from PIL import Image
from typer.testing import CliRunner

from llava.eval import grid
from llava.eval.cells import read_items, read_record, read_records
from llava.eval.generate import Reply
from llava.eval.grid_config import read_config

YAML = """
name: toy
data: {data}
tasks: [gqa, pope]
methods: [dense, visionzip, visionzip-tuned, uniform]
budgets: [16, 8]
model: {{path: {base}}}
tuned: {{path: "{tuned}", base: {base}}}
batch_size: 2
work: {work}
"""


@dataclass
class StubAnswerer:
    """Says yes; 16 times fewer tokens when compressed; fails where it is told to."""

    cell: object
    world: "World"
    model_id: str = "stub"

    @property
    def settings(self):
        return {"dtype": "float32", "cell": self.cell.name}

    def load(self, question, image):
        return question

    def reply(self, batch):
        self.world.asked.append((self.cell.name, [q.question_id for q in batch]))
        if self.world.fuse is not None and len(self.world.asked) > self.world.fuse:
            raise KeyboardInterrupt
        if self.cell.name in self.world.broken:
            raise RuntimeError("tensor trouble")
        return [Reply("yes", 144 if self.cell.budget is None else self.cell.budget.total) for _ in batch]


@dataclass
class World:
    """Files of a toy grid, and what the stub was asked."""

    folder: object
    asked: list = field(default_factory=list)
    opened: list = field(default_factory=list)
    closed: list = field(default_factory=list)
    broken: set = field(default_factory=set)
    fuse: int | None = None

    def open(self, source):
        self.opened.append(source.path)
        world = self

        class Opened:
            def answerer(self, cell):
                return StubAnswerer(cell, world)

            def close(self):
                world.closed.append(source.path)

        return Opened()

    def run(self, **changes):
        self.asked.clear()
        self.opened.clear()
        config = replace(read_config(self.folder / "grid.yaml"), **changes)
        return grid.run_grid(config, self.folder / "out", open_checkpoint=self.open)


@pytest.fixture
def world(tmp_path):
    data = tmp_path / "data" / "eval"
    (data / "images").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(data / "images" / "a.png")
    for task, golds in (("gqa", ["yes", "red", "yes"]), ("pope", ["yes", "no", "no"])):
        (data / task).mkdir()
        rows = [{"question_id": i, "text": "q", "image": "a.png"} for i in range(3)]
        (data / task / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (data / task / "answers.json").write_text(
            json.dumps({str(i): {"answer": gold} for i, gold in enumerate(golds)})
        )
    for name in ("base", "zip_16", "zip_8"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "mm_projector.bin").write_text(name)
    keys = {"data": data, "base": tmp_path / "base", "tuned": tmp_path / "zip_{total}", "work": tmp_path / "work"}
    (tmp_path / "grid.yaml").write_text(YAML.format(**keys))
    return World(tmp_path)


CELLS = ["dense", "visionzip-16", "visionzip-tuned-16", "uniform-16", "visionzip-8", "visionzip-tuned-8", "uniform-8"]


def test_every_cell_gets_a_record_and_each_checkpoint_is_opened_once(world):
    assert world.run() == dict.fromkeys(CELLS, "complete")
    assert (
        [path.rsplit("/", 1)[1] for path in world.opened]
        == ["base", "zip_16", "zip_8"]
        == [path.rsplit("/", 1)[1] for path in world.closed]
    )
    records = {record.cell: record for record in read_records(world.folder / "out")}
    assert set(records) == set(CELLS)
    record = records["visionzip-16"]
    assert record.status == "complete" and record.budget == {"dominant": 14, "contextual": 2, "total": 16}
    assert record.tokens_per_image == 16.0 and records["dense"].tokens_per_image == 144.0
    assert record.tasks["gqa"]["accuracy"] == pytest.approx(200 / 3) and record.tasks["pope"]["n"] == 3
    assert record.average == pytest.approx(50.0)
    assert record.inputs["settings"]["compressor"]["dominant"] == 14 and record.stamp["dtype"] == "float32"
    assert read_items(world.folder / "out", "dense")["tasks"]["gqa"] == {"image": [0, 0, 0], "scores": [1, 0, 1]}


def test_a_second_run_asks_nothing(world):
    world.run()
    assert world.run() == dict.fromkeys(CELLS, "skipped")
    assert world.asked == []


def test_records_hold_no_absolute_path(world, monkeypatch):
    monkeypatch.chdir(world.folder)
    world.run()
    assert str(world.folder) not in (world.folder / "out" / "cells" / "dense.json").read_text()
    assert read_record(world.folder / "out" / "cells" / "dense.json").model["path"] == "base"
    assert world.run() == dict.fromkeys(CELLS, "skipped")


@pytest.mark.parametrize(
    ("change", "redone"),
    [
        ("zip_8/mm_projector.bin", ["visionzip-tuned-8"]),
        ("base/mm_projector.bin", CELLS),
        ("data/eval/pope/answers.json", CELLS),
        ("data/eval/images/a.png", CELLS),
        ("out/items/uniform-8.json", ["uniform-8"]),
        ("out/cells/uniform-16.json", ["uniform-16"]),
    ],
)
def test_only_what_depends_on_a_changed_file_is_redone(world, change, redone):
    world.run()
    file = world.folder / change
    if "out" in change:
        file.unlink() if "items" in change else file.write_text("torn {")
    elif change.endswith(".json"):
        file.write_text(file.read_text().replace("no", "yes"))
    else:
        file.write_bytes(file.read_bytes() + b"x")
    outcome = world.run()
    assert [cell for cell, what in outcome.items() if what == "complete"] == redone
    # A lost record is made again from the answers kept; a changed input asks everything again.
    assert {cell for cell, _ in world.asked} == (set() if "out" in change else set(redone))


def test_other_settings_redo_every_cell(world):
    world.run()
    assert set(world.run(limit=2).values()) == {"complete"}
    assert read_record(world.folder / "out" / "cells" / "dense.json").tasks["gqa"]["n"] == 2
    assert set(world.run(limit=2, batch_size=1).values()) == {"skipped"}  # changes no answer


def test_a_stopped_grid_goes_on_where_it_stopped(world):
    world.fuse = 3
    with pytest.raises(KeyboardInterrupt):
        world.run()
    assert not (world.folder / "out" / "cells" / "dense.json").exists()
    world.fuse = None
    assert world.run()["dense"] == "complete"
    assert [ids for cell, ids in world.asked if cell == "dense"] == [[2]]


def test_a_failed_cell_is_recorded_and_the_rest_goes_on(world):
    world.broken = {"visionzip-16"}
    outcome = world.run()
    assert outcome == {cell: "failed" if cell == "visionzip-16" else "complete" for cell in CELLS}
    record = read_record(world.folder / "out" / "cells" / "visionzip-16.json")
    assert record.status == "failed" and record.error == "RuntimeError: tensor trouble" and record.average is None
    world.broken = set()
    assert world.run() == {cell: "complete" if cell == "visionzip-16" else "skipped" for cell in CELLS}


def test_a_missing_task_file_fails_its_cells_and_names_the_command(world):
    (world.folder / "data" / "eval" / "pope" / "questions.jsonl").unlink()
    assert set(world.run().values()) == {"failed"}
    error = read_record(world.folder / "out" / "cells" / "dense.json").error
    assert "task pope" in error and "questions.jsonl is missing" in error and "llava.miniature.benchmarks" in error


def test_the_work_folder_keeps_itself_out_of_version_control(world):
    world.run()
    assert (world.folder / "work" / "toy" / ".gitignore").read_text() == "*\n"


def test_a_removed_record_is_measured_again_by_another_commit(world, monkeypatch):
    """Answers of older code must not get the stamp of newer code."""
    world.run()
    (world.folder / "out" / "cells" / "dense.json").unlink()
    monkeypatch.setattr(grid, "stamp", lambda **kwargs: {"commit": "another", **kwargs})
    assert world.run()["dense"] == "complete"
    assert [name for name, _ in world.asked] == ["dense"] * 4


def test_a_stopped_cell_does_not_go_on_under_another_commit(world, monkeypatch):
    world.fuse = 3
    with pytest.raises(KeyboardInterrupt):
        world.run(methods=("dense",), budgets=())
    world.fuse = None
    monkeypatch.setattr(grid, "stamp", lambda **kwargs: {"commit": "another", **kwargs})
    world.run(methods=("dense",), budgets=())
    assert sum(len(ids) for _, ids in world.asked) == 6, "all questions are asked again"


def command(*arguments):
    app = grid.typer.Typer()
    app.command()(grid.main)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_exits_non_zero_when_a_checkpoint_cannot_be_loaded(world):
    out = world.folder / "out"
    result = command("--config", world.folder / "grid.yaml", "--out", out, "--method", "visionzip", "--budget", 8)
    assert result.exit_code == 1
    assert "1 of 1 cells failed: visionzip-8" in result.output
    assert [record.cell for record in read_records(out)] == ["visionzip-8"]


def test_the_command_refuses_cells_that_are_not_there(world):
    known = ("--config", world.folder / "grid.yaml", "--out", world.folder / "out", "--method", "dense")
    result = command(*known, "--method", "fastv")
    assert result.exit_code == 2 and "--method fastv is not in the grid toy" in result.output
    result = command(*known, "--budget", 16, "--budget", 99)
    assert result.exit_code == 2 and "--budget 99 is not in the grid toy" in result.output
    assert world.asked == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", r"grid\.yaml: the file: expected keys and values"),
        ("a: [", r"grid\.yaml: not YAML"),
        ("name: x\nfoo: 1", r"grid\.yaml: the file: unknown key 'foo'; known: name, data"),
        ("name: x", r"grid\.yaml: the file: missing key 'data'"),
    ],
)
def test_a_bad_yaml_is_named(tmp_path, text, message):
    (tmp_path / "grid.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_config(tmp_path / "grid.yaml")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("tasks: [gqa, pope]", "tasks: [gqa, vqa]", r"tasks: expected names out of gqa, .* got \['gqa', 'vqa'\]"),
        ("tasks: [gqa, pope]", "tasks: gqa", "tasks: expected a list, got 'gqa'"),
        ("uniform]", "fastv]", "methods: expected names out of dense, visionzip"),
        ("budgets: [16, 8]", "budgets: [16, 16]", r"totals that differ, got \[16, 16\]"),
        ("budgets: [16, 8]", "budgets: [1]", "total must be a whole number >= 2"),
        ("budgets: [16, 8]", "budgets: [x]", "unknown budget 'x'"),
        ("batch_size: 2", "batch_size: 0", "batch_size: expected a whole number >= 1, got 0"),
        ("batch_size: 2", "generation: {tempo: 1}", "generation: unknown key 'tempo'; known: conv_mode"),
        ("batch_size: 2", "order: spatail", "order: expected one of official, spatial; got 'spatail'"),
        ("budgets: [16, 8]", "budgets: []", "methods visionzip, visionzip-tuned, uniform need at least one, got none"),
        ("tuned:", "tuned: null\n#", "a tuned method needs the key 'tuned'"),
    ],
)
def test_a_bad_value_is_named(world, old, new, message):
    file = world.folder / "grid.yaml"
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(ValueError, match=message):
        read_config(file)


def test_budgets_as_totals_names_and_pairs(world):
    file = world.folder / "grid.yaml"
    file.write_text(file.read_text().replace("budgets: [16, 8]", 'budgets: [16, "64", [27, 5]]'))
    assert [(b.dominant, b.contextual) for b in read_config(file).budgets] == [(14, 2), (54, 10), (27, 5)]
