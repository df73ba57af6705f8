"""Reading weight files: every layout comes out the same, every broken one is an error that names file and key."""

import json
import os
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from llava.model.weight_files import find_weights, read_file, read_json, read_weights
from llava.utils import atomic_path

State = dict[str, Tensor]


@pytest.fixture
def state() -> State:
    generator = torch.Generator().manual_seed(0)
    return {
        "model.a.weight": torch.randn(4, 3, generator=generator),
        "model.b.weight": torch.randn(5, generator=generator).half(),
        "model.c.weight": torch.randn(2, 2, generator=generator).bfloat16(),
    }


def write(state: State, path: Path) -> Path:
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


def write_sharded(state: State, folder: Path, kind: str) -> Path:
    """One key per shard and an index; the index's path."""
    stem, suffix = ("model", "safetensors") if kind == "safetensors" else ("pytorch_model", "bin")
    names = {key: f"{stem}-{i:05d}-of-{len(state):05d}.{suffix}" for i, key in enumerate(state, 1)}
    for key, name in names.items():
        write({key: state[key]}, folder / name)
    index = folder / f"{stem}.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return index


def assert_same(read: State, expected: State) -> None:
    assert read.keys() == expected.keys()
    for key, value in expected.items():
        assert read[key].dtype == value.dtype and torch.equal(read[key], value)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("sharded", [False, True])
def test_every_layout_reads_the_same(tmp_path: Path, state: State, kind: str, sharded: bool) -> None:
    if sharded:
        write_sharded(state, tmp_path, kind)
    else:
        write(state, tmp_path / ("model.safetensors" if kind == "safetensors" else "pytorch_model.bin"))
    assert_same(read_weights(tmp_path), state)


def test_a_pickle_of_the_old_format_reads_too(tmp_path: Path, state: State) -> None:
    torch.save(state, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert_same(read_weights(tmp_path), state)


def test_safetensors_win_over_bin(tmp_path: Path, state: State) -> None:
    write(state, tmp_path / "model.safetensors")
    write({"other": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    assert_same(read_weights(tmp_path), state)


def test_the_index_says_which_shard_a_doubled_key_comes_from(tmp_path: Path, state: State) -> None:
    index = write_sharded(state, tmp_path, "safetensors")
    shard = sorted(tmp_path.glob("*.safetensors"))[-1]
    write({"model.c.weight": state["model.c.weight"], "model.a.weight": torch.zeros(4, 3)}, shard)
    assert_same(read_weights(tmp_path), state)
    assert (
        find_weights(tmp_path).promised["model.a.weight"].name in json.loads(index.read_text())["weight_map"].values()
    )


def test_obsolete_buffers_are_dropped(tmp_path: Path, state: State) -> None:
    old = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2),
        "model.vision_tower.vision_tower.vision_model.embeddings.position_ids": torch.arange(3),
    }
    write(state | old, tmp_path / "pytorch_model.bin")
    assert_same(read_weights(tmp_path), state)


def test_parameters_come_without_gradient(tmp_path: Path, state: State) -> None:
    write({"a": torch.nn.Parameter(state["model.a.weight"])}, tmp_path / "pytorch_model.bin")
    assert not read_weights(tmp_path)["a"].requires_grad


def test_a_folder_without_weights_is_told_apart_from_a_broken_one(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert find_weights(tmp_path) is None
    with pytest.raises(ValueError, match=r"holds no weights.*found config\.json"):
        read_weights(tmp_path)


def test_a_shard_the_index_names_is_missing(tmp_path: Path, state: State) -> None:
    write_sharded(state, tmp_path, "bin")
    (tmp_path / "pytorch_model-00002-of-00003.bin").unlink()
    with pytest.raises(ValueError, match=r"names 3 files.*1 are not.*pytorch_model-00002-of-00003\.bin.*Download"):
        read_weights(tmp_path)


def test_shards_without_their_index(tmp_path: Path, state: State) -> None:
    write_sharded(state, tmp_path, "safetensors").unlink()
    with pytest.raises(ValueError, match=r"no index.*model\.safetensors\.index\.json"):
        read_weights(tmp_path)


def test_the_index_names_a_key_no_shard_has(tmp_path: Path, state: State) -> None:
    index = write_sharded(state, tmp_path, "safetensors")
    content = json.loads(index.read_text())
    content["weight_map"]["model.ghost.weight"] = "model-00001-of-00003.safetensors"
    index.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"model-00001-of-00003\.safetensors lacks 1 .*model\.ghost\.weight"):
        read_weights(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"metadata": {}}', '{"weight_map": {}}'])
def test_a_broken_index(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ValueError, match=r"model\.safetensors\.index\.json"):
        read_weights(tmp_path)


@pytest.mark.parametrize("name", ["w.safetensors", "w.bin", "old.bin"])
@pytest.mark.parametrize("keep", [0.0, 0.05, 0.5, 0.97])
def test_a_half_written_file_is_named(tmp_path: Path, name: str, keep: float) -> None:
    path = tmp_path / name
    state = {"a": torch.randn(64, 64), "b": torch.randn(9)}
    if name == "old.bin":
        torch.save(state, path, _use_new_zipfile_serialization=False)
    else:
        write(state, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(ValueError, match=rf"{name}.*(half-written|empty)"):
        read_file(path)


@pytest.mark.parametrize("name", ["w.safetensors", "w.bin"])
def test_a_git_lfs_pointer_is_recognised(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 13\n")
    with pytest.raises(ValueError, match="git lfs pull"):
        read_file(tmp_path / name)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "it-ran"),)

    path = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.zeros(2), "x": Payload()}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"refused to load .*pytorch_model\.bin.*posix\.mkdir.*safetensors") as caught:
        read_weights(tmp_path)
    assert not (tmp_path / "it-ran").exists()
    assert caught.value.__cause__ is not None


def test_a_pickle_with_a_harmless_class_is_refused_too(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2), "args": Namespace(lr=1)}, tmp_path / "w.bin")
    with pytest.raises(ValueError, match=r"refused.*argparse\.Namespace"):
        read_file(tmp_path / "w.bin")


def test_a_training_checkpoint_is_no_state_dict(tmp_path: Path) -> None:
    torch.save({"model": {"a": torch.zeros(2)}, "step": 3}, tmp_path / "w.bin")
    with pytest.raises(ValueError, match=r"w\.bin.*model \(dict\), step \(int\)"):
        read_file(tmp_path / "w.bin")
    torch.save([torch.zeros(2)], tmp_path / "list.bin")
    with pytest.raises(ValueError, match=r"list\.bin.*found list"):
        read_file(tmp_path / "list.bin")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone\.bin does not exist"):
        read_file(tmp_path / "gone.bin")


def test_read_json_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config\.json does not exist"):
        read_json(tmp_path / "config.json")
    (tmp_path / "config.json").write_text('{"a": ')
    with pytest.raises(ValueError, match=r"config\.json is no valid JSON"):
        read_json(tmp_path / "config.json")
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"config\.json.*found list"):
        read_json(tmp_path / "config.json")


def test_atomic_path_replaces_only_when_the_block_ends_well(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file.bin"
    with atomic_path(target) as temporary:
        temporary.write_text("one")
        assert not target.exists()
    assert target.read_text() == "one"
    with pytest.raises(RuntimeError, match="broke off"), atomic_path(target) as temporary:
        temporary.write_text("tw")
        raise RuntimeError("broke off")
    assert target.read_text() == "one"
    assert [file.name for file in target.parent.iterdir()] == ["file.bin"]
