"""A merged checkpoint is what `load_pretrained_model(tuned, base)` gives, and keeps all other bits of the base."""

import json
from pathlib import Path

import pytest
import torch

from llava.model.builder import load_pretrained_model
from llava.model.checkpoint import load_projector
from llava.model.weight_files import read_weights
from llava.provenance import sha256_file
from llava.release.merge import merge
from tests.tiny_checkpoints import (
    tiny_vicuna_llava,
    write_lora,
    write_plain,
    write_projector_only,
    write_v15,
    write_v16,
)
from tests.tiny_release import ZIP, tuned_projector

TOWER = "model.vision_tower."


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_vicuna_llava(tmp_path_factory.mktemp("tiny"))


def load(path: Path, base: Path | None = None, dtype: str = "float32"):
    return load_pretrained_model(path, base, None, device="cpu", dtype=dtype)[1]


def same(one, other) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)


@pytest.mark.parametrize(("write", "dtype"), [(write_v15, torch.float16), (write_v16, torch.bfloat16)])
def test_a_tuned_projector(model, tmp_path: Path, write, dtype) -> None:
    base = write(model, tmp_path / "base")
    tuned = tuned_projector(base, tmp_path / "tuned")
    out = merge(str(tuned), str(base), tmp_path / "out", shard_gb=5e-5)

    before, after, trained = read_weights(base), read_weights(out), load_projector(tuned)
    assert before.keys() == after.keys()  # the tower is inside exactly where the base has it inside
    for key, value in after.items():
        want = trained.get(key, before[key])
        assert torch.equal(value, want) and value.dtype == want.dtype, key
    assert before["model.norm.weight"].dtype == dtype and trained["model.mm_projector.0.bias"].dtype == torch.float32
    assert len(list(out.glob("model-*-of-*.safetensors"))) > 1
    for precision in ("float32", "float16"):
        assert same(load(out, dtype=precision), load(tuned, base, precision))


def test_what_lies_beside_the_weights(model, tmp_path: Path) -> None:
    base = write_v15(model, tmp_path / "base")
    tuned = tuned_projector(base, tmp_path / "tuned", _name_or_path=str(tmp_path / "base"))
    out = merge(str(tuned), str(base), tmp_path / "out", tower="org/tower")
    config = json.loads((out / "config.json").read_text())
    assert config["mm_compressor"] == ZIP and config["torch_dtype"] == "float16"
    assert config["mm_vision_tower"] == "org/tower" and config["_name_or_path"] == "base"
    for name in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"):
        assert (out / name).read_bytes() == (base / name).read_bytes()
    assert json.loads((out / "run.json").read_text())["stage"] == "projector"
    origin = json.loads((out / "origin.json").read_text())
    assert origin["model"] == {"mm_projector.bin": sha256_file(tuned / "mm_projector.bin")}
    assert origin["base"] and all(sha256_file(base / name) == value for name, value in origin["base"].items())
    merged = load(merge(str(tuned), str(base), tmp_path / "out2"))
    assert merged.get_vision_tower().compressor.to_config().items() >= ZIP.items()


def test_a_projector_over_a_plain_language_model(model, tmp_path: Path) -> None:
    base = write_plain(model, tmp_path / "base", dtype=torch.float32)
    tuned = write_projector_only(model, tmp_path / "tuned", dtype=torch.float32)
    assert same(load(merge(str(tuned), str(base), tmp_path / "out")), model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_lora_run(model, tmp_path: Path, dtype) -> None:
    base = write_v15(model, tmp_path / "base", dtype=dtype)
    lora, _ = write_lora(model, tmp_path / "lora", mm_compressor=ZIP)
    out = merge(str(lora), str(base), tmp_path / "out")
    before, after = read_weights(base), read_weights(out)
    assert before.keys() == after.keys()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    targets = ("q_proj.weight", "v_proj.weight", "up_proj.weight")
    assert {key for key in changed if "mm_projector" not in key} == {k for k in before if k.endswith(targets)}
    assert sum("mm_projector" in key for key in changed) == 4
    assert all(after[key].dtype == dtype for key in after if "mm_projector" not in key)
    assert same(load(out, dtype=str(dtype).removeprefix("torch.")), load(lora, base, str(dtype).removeprefix("torch.")))


def test_what_does_not_fit_is_refused(model, tmp_path: Path) -> None:
    base = write_v15(model, tmp_path / "base")
    with pytest.raises(ValueError, match=r"is a full checkpoint: only a tuned projector"):
        merge(str(base), str(base), tmp_path / "out")
    tuned = tuned_projector(base, tmp_path / "tuned")
    state = torch.load(tuned / "mm_projector.bin")
    torch.save({key: value[:5] for key, value in state.items()}, tuned / "mm_projector.bin")
    with pytest.raises(ValueError, match="wrong shapes 4"):
        merge(str(tuned), str(base), tmp_path / "out")
    assert not (tmp_path / "out").exists()
