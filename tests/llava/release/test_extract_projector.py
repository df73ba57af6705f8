"""The projector comes out of every kind of checkpoint with the bits it had."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llava.model.checkpoint import load_projector
from llava.model.weight_files import read_weights
from llava.release.extract_projector import SAFE_FILE, extract_projector
from tests.tiny_checkpoints import (
    tiny_vicuna_llava,
    write_lora,
    write_plain,
    write_projector_only,
    write_v15,
    write_v16,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_vicuna_llava(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize(
    ("write", "dtype"),
    [(write_v15, torch.float16), (write_v16, torch.bfloat16), (write_projector_only, torch.bfloat16)],
)
def test_from_full_checkpoints_and_projector_runs(model, tmp_path: Path, write, dtype) -> None:
    source = write(model, tmp_path / "source", dtype=dtype)
    out = extract_projector(str(source), tmp_path / "out")
    want = {key: value.to(dtype) for key, value in model.state_dict().items() if "mm_projector" in key}
    assert len(want) == 4
    for state in (load_projector(out), torch.load(out / "mm_projector.bin"), load_file(out / SAFE_FILE)):
        assert state.keys() == want.keys()
        assert all(torch.equal(state[key], want[key]) and state[key].dtype == dtype for key in want)
    assert json.loads((out / "config.json").read_text())["mm_hidden_size"] == 32


def test_from_a_lora_run(model, tmp_path: Path) -> None:
    folder, tuned = write_lora(model, tmp_path / "lora")
    (folder / "run.json").write_text("{}")
    state = load_projector(extract_projector(str(folder), tmp_path / "out"))
    assert torch.equal(state["model.mm_projector.0.weight"], tuned.state_dict()["model.mm_projector.0.weight"])
    assert (tmp_path / "out" / "run.json").exists()


def test_it_loads_over_the_base(model, tmp_path: Path) -> None:
    from llava.model.builder import load_pretrained_model

    base = write_v15(model, tmp_path / "base", dtype=torch.float32)
    out = extract_projector(str(base), tmp_path / "out")
    loaded = load_pretrained_model(out, base, None, device="cpu")[1]
    key = "model.mm_projector.2.weight"
    assert torch.equal(loaded.state_dict()[key], read_weights(base)[key])


def test_refusals(model, exported: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"names no mm_vision_tower"):
        extract_projector(str(write_plain(model, tmp_path / "plain")), tmp_path / "out")
    with pytest.raises(ValueError, match="convert it first"):
        extract_projector(str(exported), tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").touch()
    with pytest.raises(ValueError, match="not empty"):
        extract_projector(str(write_v15(model, tmp_path / "v15")), tmp_path / "out")
