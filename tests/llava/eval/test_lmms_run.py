"""Starting lmms-eval: the program, its surroundings, and what counts as a failure."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from llava.eval import lmms_run
from llava.eval.lmms_config import LmmsConfig, LmmsTask
from llava.eval.lmms_records import as_measured
from llava.eval.lmms_run import command, environment, run
from tests.llava.eval.test_lmms_records import result
from visionzip import VisionZip

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
    monkeypatch.setattr(lmms_run, "HfApi", lambda: SimpleNamespace(dataset_info=revision))
    return seen


def revision(name, timeout):
    """What the hub says of a data set; it has one of them."""
    if name != "lmms-lab-encoder/POPE":
        raise ConnectionError(f"{name}: no such thing")
    return SimpleNamespace(sha="a1b2")


def test_the_new_results_file_comes_back(started, tmp_path):
    first = run(CONFIG, {"pretrained": "x"}, tmp_path / "out", limit=None, processes=1)
    second = run(CONFIG, {"pretrained": "x"}, tmp_path / "out", limit=2, processes=1)
    assert first.name == "20260101_000000_results.json" and second.name == "20260101_000001_results.json"
    assert (tmp_path / "out" / "run.json").is_file() and started["cwd"] is None


def test_what_was_run_on_which_data_is_noted(started, tmp_path, caplog):
    mme = LmmsTask("mme", "mme/mme.yaml", "")
    run(LmmsConfig("0.7.3", (*CONFIG.tasks, mme)), {"device": "cpu"}, tmp_path / "out", limit=None, processes=1)
    noted = json.loads((tmp_path / "out" / "run.json").read_text())
    assert noted["data"] == {"lmms-lab-encoder/MME": None, "lmms-lab-encoder/POPE": "a1b2"}
    assert "the revision of lmms-lab-encoder/MME is not known: " in caplog.text
    assert noted["model"]["dtype"] == noted["stamp"]["dtype"] == "float32"
    words = started["program"]
    assert "dtype=float32" in words[words.index("--model_args") + 1]
    run(CONFIG, {"dtype": "bfloat16"}, tmp_path / "other", limit=None, processes=1)
    assert json.loads((tmp_path / "other" / "run.json").read_text())["model"]["dtype"] == "bfloat16"


def test_data_in_a_folder_are_known_by_the_names_and_sizes_of_their_files(started, tmp_path):
    def noted():
        run(LmmsConfig("0.7.3", CONFIG.tasks, data=tmp_path), {}, tmp_path / "out", limit=None, processes=1)
        return json.loads((tmp_path / "out" / "run.json").read_text())["data"]

    assert noted() == {"lmms-lab-encoder/POPE": None}
    folder = tmp_path / "lmms-lab-encoder" / "POPE" / "data"
    folder.mkdir(parents=True)
    (folder / "test.parquet").write_text("abc")
    first = noted()["lmms-lab-encoder/POPE"]
    assert first.startswith("names and sizes: sha256 ")
    (folder.parent / ".cache").mkdir()
    (folder.parent / ".cache" / "of-the-hub").write_text("left by a download")
    assert noted()["lmms-lab-encoder/POPE"] == first
    (folder / "test.parquet").write_text("abcd")
    other = noted()["lmms-lab-encoder/POPE"]
    (folder / "test.parquet").rename(folder / "val.parquet")
    assert len({first, other, noted()["lmms-lab-encoder/POPE"]}) == 3


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
    return CliRunner().invoke(lmms_run.app, [str(word) for word in words])


@pytest.fixture
def checkpoint(tmp_path):
    """A folder with a config."""
    folder = tmp_path / "llava"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llava"}')
    return folder


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """What the command would run."""
    seen = {}

    def fake(config, model, out, *, limit, processes):
        seen.update(config=config, model=model, out=out, limit=limit, processes=processes)
        return tmp_path / "results.json"

    monkeypatch.setattr(lmms_run, "run", fake)
    return seen


def test_the_command_line_reaches_the_run(asked, checkpoint):
    words = (
        checkpoint,
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
        "pretrained": str(checkpoint),
        "method": "visionzip",
        "dominant": 54,
        "contextual": 10,
        "order": "spatial",
        "attn": "eager",
        "dtype": "float16",
    }
    assert [task.name for task in asked["config"].tasks] == ["pope", "mme"] and asked["config"].batch_size == 3
    assert (asked["limit"], asked["processes"], str(asked["out"])) == (4, 2, "o")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ((), ("visionzip-tuned", 54, 10)),
        (("--dominant", 54, "--contextual", 10), ("visionzip-tuned", 54, 10)),
        (("--dominant", 27, "--contextual", 5), ("visionzip", 27, 5)),
        (("--method", "dense"), ("dense", None, None)),
    ],
)
def test_the_model_is_told_what_it_is_so_that_a_report_can_read_it(asked, checkpoint, words, named):
    (checkpoint / "config.json").write_text(json.dumps({"mm_compressor": VisionZip(54, 10).to_config()}))
    assert invoke(checkpoint, "--model-base", "org/base", *words).exit_code == 0
    model = asked["model"]
    assert (model["method"], model["dominant"], model["contextual"]) == named
    args = {key: str(value) for key, value in model.items() if value is not None}
    assert as_measured(result(model_args=args)).record.method == named[0]


def test_a_checkpoint_saved_without_a_compressor_is_dense(asked, checkpoint):
    assert invoke(checkpoint).exit_code == 0 and asked["model"]["method"] == "dense"


def test_without_options_the_whole_table_on_every_gpu(asked, checkpoint, monkeypatch):
    monkeypatch.setattr(lmms_run.torch.cuda, "device_count", lambda: 4)
    assert invoke(checkpoint).exit_code == 0
    assert asked["processes"] == 4 and len(asked["config"].tasks) == 9 and asked["limit"] is None
    monkeypatch.setattr(lmms_run.torch.cuda, "device_count", lambda: 0)
    assert invoke(checkpoint).exit_code == 0 and asked["processes"] == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--tasks", "nothing"), "no tasks nothing in the configuration; known: gqa"),
        (("--dominant", 5), "dominant and contextual go together"),
        (("--config", "none.yaml"), "none.yaml: no such configuration"),
    ],
)
def test_wrong_wishes_end_with_a_message(asked, checkpoint, words, message):
    done = invoke(checkpoint, *words)
    assert done.exit_code == 2 and message in done.output and not asked
    assert "│" not in done.output, "plain text, as of the other commands"


def test_a_folder_without_a_config_is_refused_before_anything_starts(asked, checkpoint):
    (checkpoint / "config.json").unlink()
    done = invoke(checkpoint)
    assert done.exit_code == 2 and "expected a checkpoint, found no config.json in it" in done.output and not asked
