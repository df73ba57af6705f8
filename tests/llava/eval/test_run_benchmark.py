"""What a record says was run: as asked for, as saved, and when VisionZip is the tuned one. Which answers it goes on
with, and what it says of missing pictures."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

from llava.eval.answer_command import ModelOptions
from llava.eval.answerer import LlavaAnswerer
from llava.eval.cells import read_record
from llava.eval.run_benchmark import app, what_runs
from llava.eval.tasks import TASKS
from tests.tiny_checkpoints import tiny_vicuna_llava, write_v15
from tests.tiny_eval import picture, write_root
from visionzip import Budget, VisionZip
from visionzip.methods import Pool

ROOT = Path(__file__).resolve().parents[3]


def runs(compressor, saved=None, **asked):
    tower = SimpleNamespace(compressor=compressor)
    model = SimpleNamespace(get_vision_tower=lambda: tower)
    source = {"saved": None if saved is None else saved.to_config()}
    options = ModelOptions(model_path="ckpt", **asked)
    return what_runs(SimpleNamespace(model=model, source=source), options)


def test_dense_and_what_was_asked_for():
    assert runs(None) == ("dense", None)
    assert runs(None, saved=VisionZip(5, 2), method="dense") == ("dense", None)
    assert runs(VisionZip(5, 2), dominant=5, contextual=2) == ("visionzip", Budget(5, 2))
    assert runs(Pool(7), method="pool", dominant=5, contextual=2) == ("pool", Budget(5, 2))


def test_a_checkpoint_saved_under_visionzip_is_the_tuned_one():
    zipped = VisionZip(5, 2)
    assert runs(zipped, saved=zipped) == ("visionzip-tuned", Budget(5, 2))
    assert runs(zipped, saved=zipped, dominant=5, contextual=2) == ("visionzip-tuned", Budget(5, 2))
    assert runs(VisionZip(4, 1), saved=zipped, dominant=4, contextual=1) == ("visionzip", Budget(4, 1))


def test_another_saved_compressor_has_to_be_named():
    with pytest.raises(ValueError, match=r"ckpt was saved with .*'pool'.*; say --method"):
        runs(Pool(7), saved=Pool(7))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    return write_v15(tiny_vicuna_llava(folder), folder / "llava-tiny", dtype=torch.float32)


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_root(tmp_path / "eval")


def invoke(checkpoint, *flags):
    given = ["pope", "--model-path", checkpoint, "--root", "eval", "--max-new-tokens", 2, "--batch-size", 5, *flags]
    result = CliRunner().invoke(app, [str(word) for word in given])
    return result.exit_code, " ".join(result.output.replace("│", " ").split())


def test_runs_that_would_share_a_file_are_told_apart_by_name(checkpoint, world, tmp_path):
    code, said = invoke(checkpoint, "--dominant", 5, "--contextual", 2)
    assert code == 0, said
    how = read_record(tmp_path / "runs/benchmarks/llava-tiny/cells/visionzip-7/pope.json").stamp["how"]
    assert how == {"batch_size": 5, "processes": 1, "attention": "sdpa", "fast": False}
    other = ["--dominant", 4, "--contextual", 3]
    code, said = invoke(checkpoint, *other)
    assert code == 2 and "was begun with other settings (compressor: " in said
    assert said.endswith(", or answer into another file (--name)")
    code, said = invoke(checkpoint, *other, "--name", "four")
    assert code == 0, said
    assert sorted(file.name for file in (world / "pope/answers").glob("*.jsonl")) == [
        "four.jsonl",
        "llava-tiny-visionzip-7.jsonl",
    ]
    kept = read_record(tmp_path / "runs/benchmarks/four/cells/visionzip-7/pope.json").budget
    assert kept == {"dominant": 4, "contextual": 3, "total": 7}


def test_the_last_lines_name_the_true_folder_of_the_record(checkpoint, world, tmp_path):
    code, said = invoke(checkpoint, "--limit", 2, "--name", "four")
    assert code == 0 and "(F1 over adversarial alone, no random and no popular among the questions; 2 " in said
    folder = "runs/benchmarks/four-first2"
    assert said.endswith(
        f"record: {folder}/cells/dense/pope.json table: visionzip eval report --records {folder} --out {folder}/report"
    )
    assert read_record(tmp_path / folder / "cells/dense/pope.json").figures["categories"].keys() == {"adversarial"}


def test_ctrl_c_ends_it_with_130_and_no_traceback(checkpoint, world, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(LlavaAnswerer, "reply", stop)
    code, said = invoke(checkpoint)
    assert code == 130 and "Traceback" not in said


def test_ctrl_c_while_importing_ends_it_without_a_traceback(tmp_path):
    """Imports take longer than all else of a small run; a slow one stands in for them."""
    (tmp_path / "typer.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    command = [sys.executable, "-m", "llava.eval.run_benchmark", "pope"]
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    with subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # where the tests ignore it
    ) as run:
        assert run.stdout is not None and run.stdout.readline() == "importing\n"
        run.send_signal(signal.SIGINT)
        _, said = run.communicate(timeout=20)
    assert run.returncode == -signal.SIGINT and said == ""


def test_a_checkpoint_overwritten_in_place_does_not_get_the_former_ones_answers(checkpoint, world, tmp_path):
    mine = tmp_path / "llava-tiny"
    shutil.copytree(checkpoint, mine)
    code, said = invoke(mine)
    assert code == 0, said
    other = write_v15(tiny_vicuna_llava(tmp_path / "other", seed=1), tmp_path / "llava-other", dtype=torch.float32)
    shutil.copy(other / "pytorch_model-00002-of-00002.bin", mine)
    code, said = invoke(mine)
    assert code == 2 and "inputs than are there now (model/pytorch_model-00002-of-00002.bin); to ask anew" in said
    shutil.copytree(checkpoint, mine, dirs_exist_ok=True)
    picture(world / "pope/val2014/COCO_1.jpg", shade=99)
    code, said = invoke(mine)
    assert code == 2 and "other inputs than are there now (pictures); to ask anew delete llava-tiny.jsonl" in said


def test_missing_pictures_are_counted_and_told_before_the_model_is_loaded(world):
    (world / "pope/val2014/COCO_1.jpg").unlink()
    code, said = invoke("nowhere/llava")
    assert code == 2 and "1 of 1 pictures are not in eval/pope/val2014: COCO_1.jpg" in said
    assert TASKS["pope"].obtain.split(";")[0] in said
