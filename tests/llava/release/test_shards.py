"""Weights as safetensors, in shards."""

import json
from pathlib import Path

import pytest
import torch

from llava.model.weight_files import read_weights
from llava.release.shards import write_weights

STATE = {f"w{number}": torch.arange(100.0) + number for number in range(5)}  # 400 bytes each


def test_shards_hold_what_the_index_says(tmp_path: Path) -> None:
    names = write_weights(STATE, tmp_path, shard_gb=900e-9)
    assert names == [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    assert json.loads((tmp_path / "model.safetensors.index.json").read_text())["metadata"]["total_size"] == 2000
    read = read_weights(tmp_path)
    assert read.keys() == STATE.keys() and all(torch.equal(read[key], STATE[key]) for key in STATE)


def test_one_file_needs_no_index_and_a_large_tensor_gets_its_own(tmp_path: Path) -> None:
    assert write_weights(STATE, tmp_path / "one") == ["model.safetensors"]
    assert len(list((tmp_path / "one").iterdir())) == 1
    assert len(write_weights(STATE, tmp_path / "many", shard_gb=1e-9)) == 5


def test_shared_memory_and_dtypes(tmp_path: Path) -> None:
    table = torch.randn(4, 3).to(torch.bfloat16)
    write_weights({"a": table, "b": table, "c": table.T}, tmp_path)
    read = read_weights(tmp_path)
    assert torch.equal(read["a"], table) and torch.equal(read["c"], table.T) and read["b"].dtype == torch.bfloat16


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no weights to write"):
        write_weights({}, tmp_path)
    with pytest.raises(ValueError, match="--shard-gb must be above 0"):
        write_weights(STATE, tmp_path, shard_gb=0)


def test_others_may_read_them(tmp_path: Path) -> None:
    (tmp_path / "sample").touch()
    write_weights(STATE, tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "sample").stat().st_mode
