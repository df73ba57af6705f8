"""Every training script trains two steps of its shipped recipe on a tiny model, and every recipe one step."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from llava.data.subset import make_subset
from llava.model.builder import load_pretrained_model
from llava.train.train import train
from tests.stand_in import started
from tests.tiny import tiny_anyres_llava, tiny_llava
from tests.tiny_checkpoints import (
    PROJECTOR,
    TOKENS,
    weights,
    write_config,
    write_shards,
    write_tower,
    write_v15,
    write_v16,
)
from tests.tiny_data import write_data
from tests.tiny_text import build_chatml, build_sentencepiece

ROOT = Path(__file__).parents[2]
RECIPES = sorted(path for path in (ROOT / "configs/train").glob("*.yaml") if not path.stem.startswith("base_"))
WIDE = {"vocab_size": TOKENS, "hidden_size": 64, "intermediate_size": 128}  # bitsandbytes' CPU kernels ask for x32
FAMILIES = {"vicuna": "llama", "mistral": "mistral", "qwen2": "qwen2"}

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the scripts would take the GPUs")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny bases of every family, finished LLaVAs, data, and a projector to start from."""
    folder = tmp_path_factory.mktemp("scripts")
    for name, family in FAMILIES.items():
        plain(folder / name, family)
    model = tiny_llava(folder, **WIDE)
    write_tower(model, folder / "tower")
    write_v15(model, folder / "v15", dtype=torch.float32)
    (folder / "next").mkdir()
    write_v16(tiny_anyres_llava(folder / "next", **WIDE), folder / "v16", torch.float32)
    projector = {key: value for key, value in weights(model).items() if key.startswith(PROJECTOR)}
    torch.save(projector, folder / "mm_projector.bin")
    data = write_data(folder / "data", rows=8, text_rows=2)
    make_subset(data, 0.75).save(folder / "manifest.json")
    write_data(folder / "captions", rows=8, text_rows=0)
    return folder


def plain(folder: Path, family: str) -> None:
    """A language model as its makers release it."""
    sizes = WIDE | ({"vocab_size": 512} if family == "qwen2" else {})
    model = tiny_llava(folder.parent / f"{family}-parts", family, **sizes)
    keys = dict.fromkeys(key for key in model.config.to_dict() if key.startswith(("mm_", "image_", "use_mm")))
    keys |= dict.fromkeys(("tune_mm_mlp_adapter", "freeze_mm_mlp_adapter"))
    kind = type(model).__mro__[2].__name__
    write_config(model, folder, **keys, model_type=family, architectures=[kind])
    write_shards({key: value for key, value in weights(model).items() if not key.startswith(PROJECTOR)}, folder)
    if family == "qwen2":
        build_chatml(folder, vocab=TOKENS)
    else:
        build_sentencepiece(folder, vocab=TOKENS)


def changes(place: Path, recipe: Path, output: Path) -> dict[str, Any]:
    """What a recipe needs to run here: other paths, fewer and smaller steps."""
    text = recipe.read_text("utf-8")
    said = {line.split(":")[0]: line.split(": ")[-1] for line in text.splitlines() if line and line[0] not in "# "}
    base = said["model_name_or_path"].lower()
    finished = "v16" if "v1.6" in base else "v15"
    model = next((name for name in FAMILIES if name in base and "liuhaotian" not in base), finished)
    data = place / ("captions" if said["version"] == "plain" else "data")
    found: dict[str, Any] = {
        "model_name_or_path": place / model,
        "data_path": data / "mix.json",
        "image_folder": data,
        "output_dir": output,
        "max_steps": 1,
        "global_batch_size": 2,
        "per_device_train_batch_size": 2,
        "dataloader_num_workers": 0,
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    if "vision_tower" in said:
        found["vision_tower"] = place / "tower"
    if "pretrain_mm_mlp_adapter" in said:
        found["pretrain_mm_mlp_adapter"] = place / "mm_projector.bin"
    if "subset_manifest" in said:
        found["subset_manifest"] = place / "manifest.json"
    if "zip_dominant" in said:
        found |= {"zip_dominant": 5, "zip_contextual": 2}
    if "image_grid_pinpoints" in said:
        found["image_grid_pinpoints"] = "[[56, 112], [112, 56]]"
    return found


def words(options: dict[str, Any]) -> list[str]:
    return [f"--{name}={value}" for name, value in options.items()]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_trains(place: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    trainer = train(argv=["--config", str(recipe), *words(changes(place, recipe, tmp_path / "run"))])
    assert trainer.state.global_step == 1
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    expected = "projector" if "zip_tune" in recipe.stem or recipe.stem.startswith("pretrain") else "full"
    assert record["stage"] == expected
    named = json.loads((tmp_path / "run" / "config.json").read_text())
    if "next" in recipe.stem:
        assert (named["image_aspect_ratio"], named["mm_patch_merge_type"]) == ("anyres", "spatial_unpad")


SCRIPTS = {
    # script: (config or None for the script's own, what the run leaves)
    "pretrain": ("pretrain_v1_5_7b", "mm_projector.bin"),
    "finetune": ("finetune_next_qwen2_7b", "model.safetensors"),
    "finetune_lora": ("finetune_v1_5_7b", "adapter_model.safetensors"),
    "finetune_qlora": ("finetune_task_v1_5_7b", "adapter_model.safetensors"),
    "finetune_task": ("finetune_task_v1_5_7b", "model.safetensors"),
    "zip_tune": ("zip_tune_next_7b", "mm_projector.bin"),
    "zip_train": ("finetune_v1_5_7b", "model.safetensors"),
    "zip_tune_8xa800": (None, "mm_projector.bin"),
    "zip_tune_3090": ("zip_tune_3090_13b", "mm_projector.bin"),
}


def started_by(script: str, given: list[str], venv: Path) -> list[str]:
    """What a script starts on a machine without a GPU: the words of its training command."""
    (command,) = started(f"scripts/train/{script}.sh", *given, venv=venv, environment={"NUM_PROCESSES": "1"})
    assert command[:2] == ["-m", "llava.train.train"]
    return command[2:]


@pytest.mark.parametrize(
    ("script", "given", "folder"),
    [
        ("zip_tune_8xa800", [], "checkpoints/zip_tune_v1_5_7b_64"),
        ("zip_tune_3090", [], "checkpoints/zip_tune_v1_5_7b_64"),
        ("zip_tune_3090", ["configs/train/zip_tune_3090_13b.yaml"], "checkpoints/zip_tune_v1_5_13b_64"),
        ("zip_tune_3090", ["--output_dir", "elsewhere"], "elsewhere"),
    ],
)
def test_the_tuned_projector_goes_where_the_grids_look(
    tmp_path: Path, script: str, given: list[str], folder: str
) -> None:
    command = started_by(script, given, tmp_path / "venv")
    assert [value for flag, value in pairwise(command) if flag == "--output_dir"][-1] == folder


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_trains_two_steps(place: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config, _ = SCRIPTS[name]
    recipe = ROOT / f"configs/train/{config or 'zip_tune_v1_5_7b'}.yaml"
    options = changes(place, recipe, tmp_path / "run") | {"max_steps": 2}
    if name == "zip_train":
        options |= {"zip_dominant": 5, "zip_contextual": 2}
    given = [str(recipe.relative_to(ROOT))] if config else []
    train(argv=started_by(name, [*given, *words(options)], tmp_path / "venv"))
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["result"]["steps"] == 2
    assert (tmp_path / "run" / SCRIPTS[name][1]).is_file()
    training = record["arguments"]["training"]
    assert training["bits"] == (4 if name in ("finetune_qlora", "zip_tune_3090") else 16)
    if name in ("finetune_lora", "finetune_qlora"):
        assert (training["lora_r"], training["learning_rate"], training["mm_projector_lr"]) == (128, 2e-4, 2e-5)
    zipped = {"method": "visionzip", "dominant": 5, "contextual": 2, "merge": "official"}
    assert record["compressor"] == (zipped if "zip" in name else None)
    if name == "finetune_qlora":
        assert load_pretrained_model(tmp_path / "run", place / "v15", None, device="cpu")[1] is not None
