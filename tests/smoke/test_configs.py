"""Every shipped YAML and JSON parses, and its consumer accepts it."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(path for path in (ROOT / "configs").rglob("*") if path.suffix in (".yaml", ".yml", ".json"))
TRAIN = [path for path in FILES if path.parent.name == "train"]
OVERLAYS = [path for path in FILES if path.parent.name == "overlays"]
LMMS = [path for path in FILES if path.parent.name == "eval" and path.name.startswith("lmms_")]
EVAL = [path for path in FILES if path.parent.name == "eval" and path not in LMMS]
DEEPSPEED = [path for path in FILES if path.parent.name == "deepspeed"]
PAPER = [path for path in FILES if path.parent.name == "paper"]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


class UniqueKeys(yaml.SafeLoader):
    """YAML in which a key given twice is an error, not the later value."""


def _mapping(loader: UniqueKeys, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key) for key, _ in node.value]
    twice = {key for key in keys if keys.count(key) > 1}
    if twice:
        raise ValueError(f"{node.start_mark}: {sorted(twice)} given twice")
    return loader.construct_mapping(node, deep=True)


UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def parse(path: Path) -> Any:
    text = path.read_text("utf-8")
    return json.loads(text) if path.suffix == ".json" else yaml.load(text, UniqueKeys)


def test_there_are_configs() -> None:
    assert TRAIN and OVERLAYS and EVAL and LMMS and DEEPSPEED and PAPER


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_parses(path: Path) -> None:
    content = parse(path)
    assert isinstance(content, dict) and content, f"{name_of(path)} holds no mapping"


def test_a_key_given_twice_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("bf16: true\nlr: 1\nbf16: false\n")
    with pytest.raises(ValueError, match="bf16"):
        parse(file)


@pytest.mark.parametrize("path", TRAIN, ids=name_of)
def test_train_configs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trainer's own parser takes the file, and the files of this repository it names exist."""
    from llava.train.options import parse_args

    monkeypatch.chdir(ROOT)
    parse_args(["--config", name_of(path), "--output_dir", str(tmp_path)])
    deepspeed = parse(path).get("deepspeed")
    assert deepspeed is None or (ROOT / deepspeed).is_file(), f"{name_of(path)}: no file {deepspeed}"


@pytest.mark.parametrize("path", OVERLAYS, ids=name_of)
def test_overlays(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An overlay is a part of a recipe, and a script lays it over one."""
    from llava.train.options import parse_args

    monkeypatch.chdir(ROOT)
    parse_args([
        "--config",
        "configs/train/finetune_v1_5_7b.yaml",
        "--config",
        name_of(path),
        "--output_dir",
        str(tmp_path),
    ])
    assert any(name_of(path) in script.read_text("utf-8") for script in (ROOT / "scripts" / "train").glob("*.sh"))


def test_accelerate_takes_its_config() -> None:
    """Its own reader of `accelerate launch --config_file` knows every key."""
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(ROOT / "configs" / "accelerate" / "fsdp.yaml"))
    assert config.distributed_type == "FSDP"
    assert config.fsdp_config["fsdp_transformer_layer_cls_to_wrap"] == "LlamaDecoderLayer"


def test_the_example_hostfile_is_one() -> None:
    """`name slots=count`, as the deepspeed launcher reads it."""
    lines = (ROOT / "configs" / "deepspeed" / "hostfile.example").read_text("utf-8").splitlines()
    hosts = [line.split() for line in lines if line and not line.startswith("#")]
    assert len(hosts) == 2
    assert all(len(words) == 2 and words[1].removeprefix("slots=").isdigit() for words in hosts)


@pytest.mark.parametrize("path", EVAL, ids=name_of)
def test_eval_configs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The grid's own reader takes the file and makes cells of it; what it names is there, and the declared average is
    over columns it has and the published table knows."""
    from llava.eval.grid_config import read_config
    from llava.eval.lmms_config import read_config as read_lmms_config
    from llava.eval.lmms_records import task_name
    from llava.eval.published import find_row, read_published

    monkeypatch.chdir(ROOT)
    config = read_config(path)
    assert list(config.cells())
    columns = {*config.tasks}
    if config.lmms is not None:
        assert read_lmms_config(config.lmms.config).only(config.lmms.tasks).tasks
        columns |= {task_name(task) for task in config.lmms.tasks}
    assert set(config.average_over) <= columns
    if config.tuned is not None and path.stem != "miniature":
        assert config.methods == ("dense", "visionzip", "visionzip-tuned", "random", "uniform", "pool", "downsample")
        recipe = parse(ROOT / "configs" / "train" / f"{Path(config.tuned.path).name.removesuffix('_{total}')}.yaml")
        assert config.tuned.path.startswith("checkpoints/zip_tune_")
        assert recipe["model_name_or_path"] == config.tuned.base == config.model.path
    if config.published is not None:
        table = read_published(config.published)
        assert set(config.average_over) <= set(table.columns)
        for cell in config.cells():
            if cell.method in ("dense", "visionzip", "visionzip-tuned"):
                tokens = None if cell.budget is None else cell.budget.total * table.tiles
                assert find_row(table, cell.method, tokens)


@pytest.mark.parametrize("path", LMMS, ids=name_of)
def test_lmms_configs(path: Path, tmp_path: Path) -> None:
    """Made for the installed lmms-eval, whose tasks say what is pinned."""
    from llava.eval.lmms_config import check_version, read_config, write_tasks

    assert check_version(read_config(path)) is None
    write_tasks(read_config(path), tmp_path)
    assert all(task.differs for task in read_config(path).tasks)


@pytest.mark.parametrize("path", PAPER, ids=name_of)
def test_published_tables(path: Path) -> None:
    """Their own reader takes the file."""
    from llava.eval.published import read_published

    assert read_published(path).rows


@pytest.mark.parametrize("path", DEEPSPEED, ids=name_of)
def test_deepspeed_configs(path: Path) -> None:
    """The Trainer fills in what is "auto", and no scheduler of DeepSpeed's own replaces the recipe's."""
    content = parse(path)
    for key in ("train_micro_batch_size_per_gpu", "train_batch_size", "gradient_accumulation_steps"):
        assert content[key] == "auto", f"{name_of(path)}: {key}"
    assert content["bf16"]["enabled"] == "auto"
    assert "scheduler" not in content, "a scheduler here would replace the cosine of the recipe"
    assert content["zero_optimization"]["stage"] in (2, 3)
    if content["zero_optimization"]["stage"] == 3:
        assert content["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] is True


def test_lock_and_package_agree() -> None:
    """Every dependency of pyproject.toml is pinned, by version only, and sentencepiece fits protobuf."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *(item for extra in project["optional-dependencies"].values() for item in extra),
    ]
    lines = (ROOT / "requirements" / "lock.txt").read_text("utf-8").splitlines()
    pins = dict(line.split(" ;")[0].split("==") for line in lines if line and not line.startswith("#"))
    for requirement in wanted:
        package = requirement.split(">")[0].split("=")[0].strip().lower()
        assert package in pins, f"{package} is in pyproject.toml but not in requirements/lock.txt: run `make lock`"
    assert not [line for line in lines if "://" in line or " @ " in line or line.startswith("-")]
    assert tuple(map(int, pins["sentencepiece"].split("."))) < (0, 2, 3)
    assert pins["protobuf"].startswith("6.")


def test_entry_point_names_something_that_exists() -> None:
    """lmms-eval only warns when a plug-in does not load, so this test must not."""
    from importlib import import_module

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for target in project["entry-points"]["lmms_eval.models"].values():
        module, _, attribute = target.partition(":")
        assert (ROOT / (module.replace(".", "/") + ".py")).is_file()
        assert hasattr(import_module(module), attribute)
