"""The grid with a stub for the model: what is skipped, redone, resumed, recorded as failed."""

import json
from dataclasses import dataclass, field, replace

import pytest
from PIL import Image
from typer.testing import CliRunner

from llava.eval import grid, lmms_grid
from llava.eval.cells import read_items, read_record, read_records
from llava.eval.generate import Reply
from llava.eval.grid_config import read_config
from llava.eval.records import write_lines
from llava.eval.server_scores import enter_score
from llava.eval.tasks import TASKS
from llava.miniature.judged import write_judged
from tests.stub_judge import SECRET, StubJudge, point_to, serve
from tests.tiny_eval import write_root
from visionzip import Budget

TYPES = {"structural": "query", "semantic": "attr", "detailed": "x"}
YAML = """
name: toy
data: {data}
tasks: [gqa, seed]
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
    max_new_tokens: int
    model_id: str = "stub"
    how: dict = field(default_factory=lambda: {"attention": "sdpa", "fast": False})

    @property
    def settings(self):
        return {"dtype": "float32", "cell": self.cell.name, "max_new_tokens": self.max_new_tokens}

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
            def answerer(self, cell, max_new_tokens):
                return StubAnswerer(cell, world, max_new_tokens)

            def close(self):
                world.closed.append(source.path)

        return Opened()

    def run(self, **changes):
        self.asked.clear()
        self.opened.clear()
        config = replace(read_config(self.folder / "grid.yaml"), **changes)
        return grid.run_grid(config, self.folder / "out", open_checkpoint=self.open)


def write_annotations(file, task, golds):
    """The public annotation file with these answers to questions 0, 1, 2."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if task == "gqa":
        rows = {
            str(i): {"imageId": "a", "question": "q", "answer": gold, "types": TYPES} for i, gold in enumerate(golds)
        }
        file.write_text(json.dumps(rows))
    else:
        rows = [
            {"question_id": str(i), "answer": gold, "data_type": "image", "question_type_id": 1, "data_id": "a.png"}
            for i, gold in enumerate(golds)
        ]
        file.write_text(json.dumps({"question_type": {"Scene": 1}, "questions": rows}))


@pytest.fixture
def world(tmp_path):
    data = tmp_path / "data" / "eval"
    for task, golds in (("gqa", ["yes", "red", "yes"]), ("seed", ["A", "B", "A"])):
        benchmark = TASKS[task]
        picture = data / benchmark.images / "a.png"
        picture.parent.mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(picture)
        write_lines(data / benchmark.questions, [{"question_id": i, "text": "q", "image": "a.png"} for i in range(3)])
        write_annotations(data / benchmark.annotations[0], task, golds)
    for name in ("base", "zip_16", "zip_8"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "mm_projector.bin").write_text(name)
    keys = {"data": data, "base": tmp_path / "base", "tuned": tmp_path / "zip_{total}", "work": tmp_path / "work"}
    (tmp_path / "grid.yaml").write_text(YAML.format(**keys))
    return World(tmp_path)


CELLS = ["dense", "visionzip-16", "visionzip-tuned-16", "uniform-16", "visionzip-8", "visionzip-tuned-8", "uniform-8"]
ALL = [f"{cell}/{task}" for cell in CELLS for task in ("gqa", "seed")]


def record_of(world, name):
    return read_record(world.folder / "out" / "cells" / f"{name}.json")


def test_every_benchmark_of_a_cell_gets_a_record_and_each_checkpoint_is_opened_once(world):
    assert world.run() == dict.fromkeys(ALL, "complete")
    assert (
        [path.rsplit("/", 1)[1] for path in world.opened]
        == ["base", "zip_16", "zip_8"]
        == [path.rsplit("/", 1)[1] for path in world.closed]
    )
    assert sorted(record.name for record in read_records(world.folder / "out")) == sorted(ALL)
    record = record_of(world, "visionzip-16/gqa")
    assert record.status == "complete" and record.budget == {"dominant": 14, "contextual": 2, "total": 16}
    assert record.tokens_per_image == 16.0 and record_of(world, "dense/gqa").tokens_per_image == 144.0
    assert record.headline == record.accuracy == pytest.approx(200 / 3) and record.n == record.images == 3
    assert record.inputs["settings"]["compressor"]["dominant"] == 14 and record.stamp["dtype"] == "float32"
    assert record.stamp["how"] == {"batch_size": 2, "processes": 1, "attention": "sdpa", "fast": False}
    assert record.inputs["settings"]["max_new_tokens"] == TASKS["gqa"].max_new_tokens
    items = read_items(world.folder / "out", "dense", "gqa")
    assert items.scores == (1, 0, 1) and items.said == ("yes",) * 3 and items.images == ("a.png",) * 3


def test_a_second_run_asks_nothing(world):
    world.run()
    assert world.run() == dict.fromkeys(ALL, "skipped")
    assert world.asked == []


def test_records_hold_no_absolute_path(world, monkeypatch):
    monkeypatch.chdir(world.folder)
    world.run()
    assert str(world.folder) not in (world.folder / "out" / "cells" / "dense" / "gqa.json").read_text()
    assert record_of(world, "dense/gqa").model["path"] == "base"
    assert world.run() == dict.fromkeys(ALL, "skipped")


SEED = [name for name in ALL if name.endswith("seed")]


@pytest.mark.parametrize(
    ("change", "redone"),
    [
        ("zip_8/mm_projector.bin", ["visionzip-tuned-8/gqa", "visionzip-tuned-8/seed"]),
        ("base/mm_projector.bin", ALL),
        ("data/eval/seed_bench/SEED-Bench.json", SEED),
        ("data/eval/gqa/data/images/a.png", [name for name in ALL if name.endswith("gqa")]),
        ("out/items/uniform-8/gqa.json", ["uniform-8/gqa"]),
        ("out/cells/uniform-16/seed.json", ["uniform-16/seed"]),
    ],
)
def test_only_what_depends_on_a_changed_file_is_redone(world, change, redone):
    world.run()
    file = world.folder / change
    if "out" in change:
        file.unlink() if "items" in change else file.write_text("torn {")
    elif change.endswith(".json"):
        file.write_text(file.read_text().replace('"B"', '"C"'))
    else:
        file.write_bytes(file.read_bytes() + b"x")
    outcome = world.run()
    assert [name for name, what in outcome.items() if what == "complete"] == redone
    # A lost record is made again from the answers kept; a changed input asks everything again.
    asked = {cell for cell, _ in world.asked}
    assert asked == (set() if "out" in change else {name.split("/")[0] for name in redone})


def test_other_settings_redo_everything(world):
    world.run()
    assert set(world.run(limit=2).values()) == {"complete"}
    assert record_of(world, "dense/gqa").n == 2
    assert set(world.run(limit=2, batch_size=1).values()) == {"skipped"}  # changes no answer
    capped = replace(read_config(world.folder / "grid.yaml").generation, max_new_tokens=5)
    assert set(world.run(limit=2, generation=capped).values()) == {"complete"}
    assert record_of(world, "dense/gqa").inputs["settings"]["max_new_tokens"] == 5


def test_a_stopped_grid_goes_on_where_it_stopped(world):
    world.fuse = 3
    with pytest.raises(KeyboardInterrupt):
        world.run()
    assert record_of(world, "dense/gqa").status == "complete"
    assert not (world.folder / "out" / "cells" / "dense" / "seed.json").exists()
    world.fuse = None
    outcome = world.run()
    assert outcome["dense/gqa"] == "skipped" and outcome["dense/seed"] == "complete"
    assert [ids for cell, ids in world.asked if cell == "dense"] == [[2]]


def test_what_failed_is_recorded_and_the_rest_goes_on(world):
    world.broken = {"visionzip-16"}
    outcome = world.run()
    assert {name for name, what in outcome.items() if what == "failed"} == {"visionzip-16/gqa", "visionzip-16/seed"}
    record = record_of(world, "visionzip-16/gqa")
    assert record.status == "failed" and record.error == "RuntimeError: tensor trouble" and record.headline is None
    world.broken = set()
    assert {name for name, what in world.run().items() if what == "complete"} == {
        "visionzip-16/gqa",
        "visionzip-16/seed",
    }


def test_a_missing_file_fails_its_benchmark_only_and_says_where_to_get_it(world):
    (world.folder / "data" / "eval" / TASKS["seed"].questions).unlink()
    outcome = world.run()
    assert {name for name, what in outcome.items() if what == "failed"} == set(SEED)
    error = record_of(world, "dense/seed").error
    assert "llava-seed-bench.jsonl not found" in error and TASKS["seed"].obtain in error


def test_files_that_cannot_be_read_now_say_nothing_against_a_record(world):
    world.run()
    questions = world.folder / "data" / "eval" / TASKS["seed"].questions
    questions.rename(world.folder / "away")
    assert {world.run()[name] for name in SEED} == {"failed"}
    assert record_of(world, "dense/seed").status == "complete"


def test_judged_benchmarks_are_judged_once_by_the_judge_the_grid_names(world, monkeypatch):
    write_judged(world.folder / "data" / "eval", bench_questions=3, vet_questions=2)
    words = {"tasks": ("gqa", "llavabench", "mmvet"), "methods": ("dense", "uniform"), "judge": "judge-a"}
    with serve(StubJudge(lambda body, number: "8 4\nfine" if "[Context]" in str(body) else "0.5")) as stub:
        point_to(stub, monkeypatch)
        assert set(world.run(**words).values()) == {"complete"}
        for name in ("dense/llavabench", "dense/mmvet", "uniform-8/mmvet"):
            record = record_of(world, name)
            assert record.headline == pytest.approx(50.0) and record.figures["judge"] == "judge-a"
            assert record.inputs["settings"]["judge"] == "judge-a"
        assert "judge" not in record_of(world, "dense/gqa").inputs["settings"]
        assert {body["model"] for body in stub.requests} == {"judge-a"}
        sent = len(stub.requests)
        assert sent == 3 + 2, "all cells say the same to the same question, which is judged once"
        assert set(world.run(**words).values()) == {"skipped"}
        # Another judge judges the same answers; records that are lost come back from what was judged.
        assert world.run(**{**words, "judge": "judge-b"})["dense/mmvet"] == "complete"
        assert world.asked == [] and len(stub.requests) == 2 * sent
        (world.folder / "out" / "cells" / "dense" / "mmvet.json").unlink()
        assert world.run(**{**words, "judge": "judge-b"})["dense/mmvet"] == "complete"
        assert world.asked == [] and len(stub.requests) == 2 * sent
    kept = [
        file.read_text() for file in world.folder.rglob("*") if file.is_file() and file.suffix in (".json", ".jsonl")
    ]
    assert not any(SECRET in text for text in kept)


def test_what_a_server_scores_is_answered_and_written_and_its_score_stays_while_the_answers_do(world):
    data, out = write_root(world.folder / "data" / "eval"), world.folder / "out"
    words = {"tasks": ("gqa", "vqav2"), "methods": ("dense", "uniform"), "budgets": (Budget(14, 2),)}
    outcome = world.run(**words)
    assert outcome == {
        "dense/gqa": "complete",
        "dense/vqav2": "answered",
        "uniform-16/gqa": "complete",
        "uniform-16/vqav2": "answered",
    }
    record = record_of(world, "uniform-16/vqav2")
    assert (record.status, record.headline, record.n, record.tokens_per_image) == ("answered", None, 2, 16.0)
    assert "EvalAI" in record.server and record.inputs["settings"]["compressor"]["method"] == "uniform"
    sent = data / "vqav2/answers_upload/llava_vqav2_mscoco_test-dev2015/toy-uniform-16.json"
    assert record.figures["submission"] == sent.name, "a place outside the working directory is not told"
    assert [row["answer"] for row in json.loads(sent.read_text())] == ["", "yes", "yes"]
    assert set(world.run(**words).values()) == {"skipped"} and world.asked == []

    enter_score([out], "dense/vqav2=76.8")
    record = record_of(world, "dense/vqav2")
    assert (record.status, record.headline, record.n) == ("complete", 76.8, 2)
    assert record.figures["source"] == "from the server, entered by hand" and "EvalAI" in record.server
    assert set(world.run(**words).values()) == {"skipped"} and record_of(world, "dense/vqav2").headline == 76.8
    weights = world.folder / "base" / "mm_projector.bin"
    weights.write_text("other weights")
    assert world.run(**words)["dense/vqav2"] == "answered"
    assert record_of(world, "dense/vqav2").headline is None, "the score was that of other answers"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("dense/vqav2", "expected CELL/BENCHMARK=SCORE with a score in percent; got 'dense/vqav2'"),
        ("vqav2=70", "expected CELL/BENCHMARK=SCORE"),
        ("dense/vqav2=seventy", "expected CELL/BENCHMARK=SCORE"),
        ("dense/vqav2=nan", "expected CELL/BENCHMARK=SCORE"),
        ("dense/vqav2=768", "expected CELL/BENCHMARK=SCORE"),
        ("dense/vqav2=76.8", "no record dense/vqav2 in .*out; answer the benchmark first"),
        ("dense/gqa=76.8", "dense/gqa is complete and no server scores it"),
    ],
)
def test_a_score_is_entered_only_where_a_server_gives_one(world, entry, message):
    world.run(methods=("dense",), budgets=())
    with pytest.raises(ValueError, match=message):
        enter_score([world.folder / "out"], entry)


def test_the_command_adds_judged_benchmarks_and_those_asked_for_by_name(world):
    """All fail, as the toy checkpoint cannot be loaded; their names are what counts."""
    known = ("--config", world.folder / "grid.yaml", "--out", world.folder / "out", "--method", "dense")
    write_judged(world.folder / "data" / "eval", bench_questions=3, vet_questions=2)
    assert (
        "4 of 4 failed: dense/gqa, dense/seed, dense/llavabench, dense/mmvet" in command(*known, "--judge", "a").output
    )
    assert record_of(world, "dense/mmvet").inputs["settings"]["judge"] == "a"
    assert "1 of 1 failed: dense/mme\n" in command(*known, "--task", "mme").output
    assert "1 of 1 failed: dense/mmvet\n" in command(*known, "--task", "mmvet", "--judge", "a").output
    result = command(*known, "--task", "mmvet")
    assert result.exit_code == 2 and "judge: mmvet need the name of a judge" in " ".join(result.output.split())
    for more in (("--judge", "a"), ("--task", "mme")):  # the script passes the same words to lmms-eval's part
        beside = CliRunner().invoke(lmms_grid.app, [str(word) for word in (*known, *more)])
        assert beside.exit_code == 0 and "nothing for lmms-eval" in beside.output


def test_without_a_key_only_the_judged_benchmark_fails(world, monkeypatch):
    write_judged(world.folder / "data" / "eval", bench_questions=3, vet_questions=2)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    outcome = world.run(tasks=("gqa", "mmvet"), methods=("dense",), judge="judge-a")
    assert outcome == {"dense/gqa": "complete", "dense/mmvet": "failed"}
    assert "OPENAI_API_KEY is not set" in record_of(world, "dense/mmvet").error


def test_under_a_launcher_a_failure_does_not_stop_the_other_ranks(world, monkeypatch):
    """torchrun ends all ranks when one leaves with an error."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = command("--config", world.folder / "grid.yaml", "--out", world.folder / "out", "--method", "dense")
    assert result.exit_code == 0 and "2 of 2 failed" in result.output


def test_the_work_folder_keeps_itself_out_of_version_control(world):
    world.run()
    assert (world.folder / "work" / "toy" / ".gitignore").read_text() == "*\n"


def test_a_removed_record_is_measured_again_by_another_commit(world, monkeypatch):
    """Answers of older code must not get the stamp of newer code."""
    world.run()
    (world.folder / "out" / "cells" / "dense" / "gqa.json").unlink()
    monkeypatch.setattr(grid, "stamp", lambda **kwargs: {"commit": "another", **kwargs})
    assert world.run()["dense/gqa"] == "complete"
    assert [name for name, _ in world.asked] == ["dense"] * 2


def test_a_stopped_cell_does_not_go_on_under_another_commit(world, monkeypatch):
    world.fuse = 3
    with pytest.raises(KeyboardInterrupt):
        world.run(methods=("dense",), budgets=())
    world.fuse = None
    monkeypatch.setattr(grid, "stamp", lambda **kwargs: {"commit": "another", **kwargs})
    world.run(methods=("dense",), budgets=())
    assert world.asked == [("dense", [0, 1]), ("dense", [2])], "all questions of the stopped benchmark are asked again"


def command(*arguments):
    return CliRunner().invoke(grid.app, [str(argument) for argument in arguments])


def test_the_command_exits_non_zero_when_a_checkpoint_cannot_be_loaded(world):
    out = world.folder / "out"
    result = command("--config", world.folder / "grid.yaml", "--out", out, "--method", "visionzip", "--budget", 8)
    assert result.exit_code == 1
    assert "2 of 2 failed: visionzip-8/gqa, visionzip-8/seed" in result.output
    assert {record.cell for record in read_records(out)} == {"visionzip-8"}


def test_the_command_refuses_cells_that_are_not_there(world):
    known = ("--config", world.folder / "grid.yaml", "--out", world.folder / "out", "--method", "dense")
    result = command(*known, "--method", "fastv")
    assert result.exit_code == 2 and "--method fastv is not in the grid toy" in result.output
    result = command(*known, "--task", "mmu")
    assert result.exit_code == 2 and "--task mmu is not in the grid toy; it has gqa, seed" in result.output
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
        ("tasks: [gqa, seed]", "tasks: [gqa, vqa]", r"tasks: expected names out of gqa, .* got \['gqa', 'vqa'\]"),
        ("tasks: [gqa, seed]", "tasks: gqa", "tasks: expected a list, got 'gqa'"),
        ("uniform]", "fastv]", "methods: expected names out of dense, visionzip"),
        ("budgets: [16, 8]", "budgets: [16, 16]", r"totals that differ, got \[16, 16\]"),
        ("budgets: [16, 8]", "budgets: [1]", "total must be a whole number >= 2"),
        ("budgets: [16, 8]", "budgets: [x]", "unknown budget 'x'"),
        ("batch_size: 2", "batch_size: 0", "batch_size: expected a whole number >= 1, got 0"),
        ("batch_size: 2", "generation: {tempo: 1}", "generation: unknown key 'tempo'; known: conv_mode"),
        ("batch_size: 2", "order: spatail", "order: expected one of official, spatial; got 'spatail'"),
        ("budgets: [16, 8]", "budgets: []", "methods visionzip, visionzip-tuned, uniform need at least one, got none"),
        ("tuned:", "tuned: null\n#", "a tuned method needs the key 'tuned'"),
        ("tasks: [gqa, seed]", "tasks: [gqa, mmvet]", "judge: mmvet need the name of a judge"),
        ("tasks: [gqa, seed]", "tasks: [mmvet]\njudge: x\nlimit: 3", "limit: mmvet are judged whole"),
        ("batch_size: 2", "judge: 3", "judge: expected a string, got 3"),
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
