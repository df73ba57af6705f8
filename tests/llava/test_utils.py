"""The helpers of llava.utils do what they say and nothing to the process."""

from __future__ import annotations

import json
import logging
import os
import re
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from llava.utils import disable_torch_init, give_usual_mode, rank0_print, write_json


def test_disable_torch_init_leaves_torch_alone() -> None:
    before = (torch.nn.Linear.reset_parameters, torch.nn.LayerNorm.reset_parameters)
    disable_torch_init()
    assert (torch.nn.Linear.reset_parameters, torch.nn.LayerNorm.reset_parameters) == before
    assert torch.nn.Linear(3, 3).weight.abs().sum() > 0


def test_rank0_print_logs_in_the_first_process_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO, logger="llava.utils")
    monkeypatch.delenv("RANK", raising=False)
    rank0_print("step", 3)
    monkeypatch.setenv("RANK", "1")
    rank0_print("silent")
    monkeypatch.setenv("RANK", "0")
    rank0_print("again")
    assert [record.getMessage() for record in caplog.records] == ["step 3", "again"]
    assert capsys.readouterr().out == ""


def test_no_log_files_appear(tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rank0_print("x")
    disable_torch_init()
    assert os.listdir(tmp_path) == []


def test_write_json_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_json(file, {"b": 1})
    assert file.read_text() == '{\n  "b": 1\n}\n'
    with pytest.raises(TypeError):
        write_json(file, {"b": object()})
    assert json.loads(file.read_text()) == {"b": 1}
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640)])
def test_weights_get_the_mode_of_any_new_file(tmp_path: Path, umask: int, mode: int) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(2)}, file)
    before = os.umask(umask)
    try:
        give_usual_mode(file)
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == mode and list(tmp_path.iterdir()) == [file]


def test_every_place_that_writes_safetensors_gives_that_mode() -> None:
    """safetensors' own files are for their owner only; each of our calls is followed by the helper."""
    for path in (Path(__file__).resolve().parents[2] / "llava").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        calls = len(re.findall(r"^ +save_file\(", text, re.MULTILINE))
        assert text.count("    give_usual_mode(") >= calls, path
