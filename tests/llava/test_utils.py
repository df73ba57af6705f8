"""The helpers of llava.utils do what they say and nothing to the process."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest
import torch

from llava.utils import disable_torch_init, rank0_print, write_json


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
