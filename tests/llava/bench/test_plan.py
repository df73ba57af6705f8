"""The command `visionzip plan`."""

import json
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from llava.cli import app, main

ROOT = Path(__file__).parents[3]
RECIPES = ROOT / "configs/train"
BASES = ("lmsys", "mistralai", "Qwen")
ARGUMENTS = ["plan", "--model", "liuhaotian/llava-v1.5-7b", "--gpu", "24"]


def plan(*more: str) -> str:
    result = CliRunner().invoke(app, [*ARGUMENTS, *more], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def test_a_7b_tune_on_24_gb() -> None:
    shown = plan()
    for part in ("weights", "optimizer and gradients", "activations", "block or logits", "peak", "card"):
        assert part in shown
    assert "314 (64 visual, 250 text)" in shown
    assert "--per_device_train_batch_size 32 --gradient_accumulation_steps 4" in shown
    assert "54 + 10 on 1 tile of 576 patches, 64 of 576 (assumed, the paper's smallest budget" in shown
    assert "66,530 rows (the tenth of the 665K mix; --rows for other data) are 520 steps" in shown
    assert "not known" in shown


def test_time_from_a_throughput() -> None:
    assert "520 steps, 35 min at 10,000 tokens/s" in plan("--tokens-per-second", "10000")
    assert "4 min" in plan("--tokens-per-second", "10000", "--gpus", "8")


def test_the_batch_holds_over_gpus() -> None:
    assert "--per_device_train_batch_size 16 --gradient_accumulation_steps 1" in plan("--gpus", "8")


def test_a_card_that_needs_no_checkpointing_is_told() -> None:
    assert "without gradient checkpointing" not in plan()
    result = CliRunner().invoke(app, ["plan", "--model", "llava-v1.5-7b", "--gpu", "80", "--gpus", "8"])
    assert "fits without gradient checkpointing" in " ".join(result.output.split())


def test_dense_and_tiles() -> None:
    assert "826 (576 visual" in plan("--dominant", "0", "--contextual", "0")
    shown = CliRunner().invoke(app, ["plan", "--model", "llava-v1.6-vicuna-7b", "--gpu", "80"]).output
    assert "27 + 5 on up to 5 tiles of 576 patches, 160 of 2,880" in " ".join(shown.split())
    assert "128 rows are 1 steps" in plan("--rows", "128")


def models_of_recipes() -> list[str]:
    """What the recipes start from: public names, and the miniature (other folders are made by training)."""
    named = {yaml.safe_load(file.read_text("utf-8")).get("model_name_or_path") for file in RECIPES.glob("*.yaml")}
    return sorted(name for name in named if name and not name.startswith("checkpoints/"))


@pytest.mark.parametrize("model", models_of_recipes())
def test_every_model_of_the_recipes_is_known(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    shown = plan("--model", model, "--gpu", "80")
    assert f"{model}: projector training" in shown
    expected = {"llava-mini-v1.5": "14 + 2 on 1 tile of 144 patches, 16 of 144 (assumed, a ninth"}
    usual = "160 of 2,880" if "v1.6" in model else "64 of 576"
    assert expected.get(model.split("/")[-1], usual) in shown
    assert ("tower assumed: openai/clip-vit-large-patch14-336" in shown) == (model.split("/")[0] in BASES)


def test_a_language_model_of_next_has_tiles() -> None:
    assert "160 of 2,880" in plan("--model", "Qwen/Qwen2-7B-Instruct", "--tiles", "5", "--gpu", "80")


def test_a_checkpoint_says_its_own_budget_and_a_long_path_stays_whole(tmp_path: Path) -> None:
    folder = tmp_path / ("a-long-name" * 12) / "llava"
    folder.mkdir(parents=True)
    config = json.loads((ROOT / "playground/miniature/llava-mini-v1.5/config.json").read_text("utf-8"))
    config |= {"mm_compressor": {"method": "visionzip", "dominant": 20, "contextual": 4}}
    config |= {"mm_vision_tower": str(ROOT / "playground/miniature/clip-mini-patch14-168")}
    (folder / "config.json").write_text(json.dumps(config))
    shown = CliRunner().invoke(app, ["plan", "--model", str(folder), "--gpu", "8"]).output
    assert f"{folder}: projector training, 64 rows a step on one GPU (estimate)\n" in shown
    assert "20 + 4 on 1 tile of 144 patches, 24 of 144 (as the checkpoint says)" in " ".join(shown.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "llava-v1.5-13b"], "try --bits 4"),
        (["--gpus", "6"], "cannot be shared equally"),
        (["--dominant", "600", "--contextual", "10"], "do not fit a tile of 576 patches"),
        (["--dominant", "0", "--contextual", "10"], "do not fit"),
        (["--dominant", "54"], "go together"),
        (["--model", "nowhere"], "Qwen/Qwen2-7B-Instruct"),
    ],
)
def test_what_cannot_be_is_said(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(*words)


def test_an_error_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["visionzip", *ARGUMENTS, "--gpus", "6"])
    with pytest.raises(SystemExit, match=r"^error: --global-batch 128 cannot be shared equally"):
        main()
