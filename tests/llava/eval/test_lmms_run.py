"""Starting lmms-eval: the program, its surroundings, and what counts as a failure."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import typer
from typer.testing import CliRunner

from llava.eval import lmms_run
from llava.eval.lmms_config import LmmsConfig, LmmsTask
from llava.eval.lmms_run import command, environment, run

pytest.importorskip("lmms_eval")

CONFIG = LmmsConfig("0.7.3", (LmmsTask("pope", "pope/pope.yaml", ""),))


def test_one_process_is_lmms_eval_itself_and_several_are_accelerates():
    assert command(["--x"], 1) == [sys.executable, "-m", "lmms_eval", "--x"]
    words = command(["--x"], 3)
    assert words[1:3] == ["-m", "accelerate.commands.launch"] and words[-3:] == ["-m", "lmms_eval", "--x"]
    assert words[words.index("--num_processes") + 1] == "3"


def test_with_data_in_a_folder_the_hub_is_not_asked(tmp_path):
    assert environment(CONFIG, {"A": "1"})["A"] == "1" and "HF_HUB_OFFLINE" not in environment(CONFIG, {})
    local = LmmsConfig("0.7.3", CONFIG.tasks, data=tmp_path)
    assert environment(local, {})["HF_HUB_OFFLINE"] == environment(local, {})["HF_DATASETS_OFFLINE"] == "1"


@pytest.fixture
def started(monkeypatch):
    """What would be started; it writes a results file, or not, and ends with a status."""
    seen = {"status": 0, "writes": True}

    def fake(program, cwd, env, check):
        seen.update(program=program, cwd=cwd)
        if seen["writes"]:
            out = lmms_run.Path(program[program.index("--output_path") + 1]) / "ckpt"
            out.mkdir(exist_ok=True)
            number = len(list(out.iterdir()))
            (out / f"20260101_00000{number}_results.json").write_text("{}")
        (lmms_run.Path(program[program.index("--output_path") + 1]) / "mmbench_results.json").write_text("{}")
        return subprocess.CompletedProcess(program, seen["status"])

    monkeypatch.setattr(lmms_run, "subprocess", SimpleNamespace(run=fake))
    return seen


def test_the_new_results_file_comes_back(started, tmp_path):
    first = run(CONFIG, {"pretrained": "x"}, tmp_path / "out", limit=None, processes=1)
    second = run(CONFIG, {"pretrained": "x"}, tmp_path / "out", limit=2, processes=1)
    assert first.name == "20260101_000000_results.json" and second.name == "20260101_000001_results.json"
    assert (tmp_path / "out" / "run.json").is_file() and started["cwd"] is None


def test_lmms_eval_is_started_where_the_data_are(started, tmp_path):
    run(LmmsConfig("0.7.3", CONFIG.tasks, data=tmp_path), {}, tmp_path / "out", limit=None, processes=1)
    assert started["cwd"] == tmp_path


@pytest.mark.parametrize(("status", "writes"), [(0, False), (1, True)])
def test_a_run_without_results_is_a_failure(started, tmp_path, status, writes):
    """lmms-eval ends with 0 after an error; submissions of the same ending are no results."""
    started.update(status=status, writes=writes)
    with pytest.raises(ValueError, match=rf"wrote no results below .* \(status {status}\)"):
        run(CONFIG, {}, tmp_path / "out", limit=None, processes=1)


def test_missing_data_name_the_command_that_writes_them(tmp_path):
    config = LmmsConfig("0.7.3", CONFIG.tasks, data=tmp_path / "none", made_by="python -m maker")
    with pytest.raises(ValueError, match="none is not there; write it first: python -m maker"):
        run(config, {}, tmp_path, limit=None, processes=1)


@pytest.mark.parametrize("bad", [{"limit": 0, "processes": 1}, {"limit": None, "processes": 0}])
def test_bad_numbers_are_refused(tmp_path, bad):
    with pytest.raises(ValueError, match="at least 1"):
        run(CONFIG, {}, tmp_path, **bad)


def test_a_folder_becomes_absolute_and_a_name_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ckpt").mkdir()
    assert lmms_run._local("ckpt") == str(tmp_path / "ckpt")
    assert lmms_run._local("liuhaotian/llava-v1.5-7b") == "liuhaotian/llava-v1.5-7b"
    assert lmms_run._local(None) is None


def invoke(*words):
    app = typer.Typer()
    app.command()(lmms_run.main)
    return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "300", "TERM": "dumb"})


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """What the command would run."""
    seen = {}

    def fake(config, model, out, *, limit, processes):
        seen.update(config=config, model=model, out=out, limit=limit, processes=processes)
        return tmp_path / "results.json"

    monkeypatch.setattr(lmms_run, "run", fake)
    return seen


def test_the_command_line_reaches_the_run(asked):
    words = (
        "org/name",
        "--dominant",
        54,
        "--contextual",
        10,
        "--order",
        "spatial",
        "--attn",
        "eager",
        "--dtype",
        "float16",
    )
    done = invoke(*words, "--tasks", "pope,mme", "--limit", 4, "--batch-size", 3, "--processes", 2, "--out", "o")
    assert done.exit_code == 0 and done.output.strip().endswith("results.json"), done.output
    given = {key: value for key, value in asked["model"].items() if value is not None}
    assert given == {
        "pretrained": "org/name",
        "dominant": 54,
        "contextual": 10,
        "order": "spatial",
        "attn": "eager",
        "dtype": "float16",
    }
    assert [task.name for task in asked["config"].tasks] == ["pope", "mme"] and asked["config"].batch_size == 3
    assert (asked["limit"], asked["processes"], str(asked["out"])) == (4, 2, "o")


def test_without_options_the_whole_table_on_every_gpu(asked, monkeypatch):
    monkeypatch.setattr(lmms_run.torch.cuda, "device_count", lambda: 4)
    assert invoke("org/name").exit_code == 0
    assert asked["processes"] == 4 and len(asked["config"].tasks) == 9 and asked["limit"] is None
    monkeypatch.setattr(lmms_run.torch.cuda, "device_count", lambda: 0)
    assert invoke("org/name").exit_code == 0 and asked["processes"] == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--tasks", "nothing"), "no tasks nothing in the configuration; known: gqa"),
        (("--dominant", 5), "dominant and contextual go together"),
        (("--config", "none.yaml"), "none.yaml: no such configuration"),
    ],
)
def test_wrong_wishes_end_with_a_message(asked, words, message):
    done = invoke("org/name", *words)
    assert done.exit_code == 2 and message in done.output and not asked
