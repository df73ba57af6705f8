"""Flags, YAML files, old spellings, and the fit to the machine."""

import json
import logging
from pathlib import Path

import pytest
import torch

from llava.train.options import parse_args
from llava.train.stages import choose_stage

ROOT = Path(__file__).parents[3]
CONFIGS = sorted((ROOT / "configs/train").glob("*.yaml"))
DEEPSPEED = sorted((ROOT / "configs/deepspeed").glob("*.json"))


@pytest.fixture(autouse=True)
def one_process_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda *_, **__: False)


def out(tmp_path: Path) -> list[str]:
    return ["--output_dir", str(tmp_path)]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_yaml_parses(config: Path, tmp_path: Path) -> None:
    model, data, training = parse_args(["--config", str(config), *out(tmp_path)])
    assert model.model_name_or_path
    assert data.data_path
    assert data.image_folder
    assert training.learning_rate > 0
    assert training.report_to == []
    assert training.save_total_limit == 1
    batch = training.per_device_train_batch_size * training.gradient_accumulation_steps
    assert batch == training.global_batch_size


SCALE = [path.stem for path in CONFIGS if "miniature" not in path.stem]


@pytest.mark.parametrize("name", SCALE)
def test_paper_scale_recipes_keep_llavas_schedule(name: str, tmp_path: Path) -> None:
    training = parse_args(["--config", str(ROOT / f"configs/train/{name}.yaml"), *out(tmp_path)])[2]
    assert (training.lr_scheduler_type, training.warmup_steps, training.weight_decay) == ("cosine", 0.03, 0)
    assert (training.bf16, training.gradient_checkpointing, training.num_train_epochs) == (True, True, 1)
    rate = 1e-3 if name.startswith("pretrain") else 1e-5 if name.startswith("finetune_next") else 2e-5
    assert training.learning_rate == rate
    assert training.global_batch_size == (256 if name.startswith("pretrain") else 128)


def test_there_are_configs() -> None:
    sizes = {f"{stage}_{size}" for stage in ("finetune", "zip_tune") for size in ("v1_5_7b", "v1_5_13b", "next_7b")}
    others = {"pretrain_v1_5_7b", "finetune_next_mistral_7b", "finetune_next_qwen2_7b", "finetune_task_v1_5_7b"}
    assert sizes | others | {"zip_tune_next_13b", "zip_tune_miniature"} <= {path.stem for path in CONFIGS}


def test_zip_tune_is_the_recipe(tmp_path: Path) -> None:
    model, data, training = parse_args(["--config", str(ROOT / "configs/train/zip_tune_v1_5_7b.yaml"), *out(tmp_path)])
    assert (model.tune_mm_mlp_adapter, model.zip_dominant, model.zip_contextual) == (True, 54, 10)
    assert data.subset_manifest
    assert (training.learning_rate, training.global_batch_size, training.num_train_epochs) == (2e-5, 128, 1)
    assert training.bf16
    assert training.report_to == []


def test_miniature_recipe_differs_in_sizes_and_paths_only(tmp_path: Path) -> None:
    big = (ROOT / "configs/train/zip_tune_v1_5_7b.yaml").read_text()
    small = (ROOT / "configs/train/zip_tune_miniature.yaml").read_text()

    def keys(text: str) -> set[str]:
        return {line.split(":")[0] for line in text.splitlines() if line and line[0] not in "# "}

    assert keys(small) <= keys(big)


@pytest.mark.parametrize("path", DEEPSPEED, ids=lambda path: path.stem)
def test_deepspeed_configs_keep_cosine_and_gather_weights(path: Path) -> None:
    config = json.loads(path.read_text())
    assert "scheduler" not in config  # a WarmupLR there would replace the cosine
    assert "optimizer" not in config  # one there would replace ours and its learning rates by part
    zero = config["zero_optimization"]
    assert zero["stage"] in (2, 3)
    assert ("stage3_gather_16bit_weights_on_model_save" in zero) == (zero["stage"] == 3)
    assert "gather_16bit_weights_on_model_save" not in zero


def test_flags_win_over_yaml_and_later_yaml_over_earlier(tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("learning_rate: 2e-5\nversion: plain\nmodel_max_length: 100\n")
    second.write_text("version: v1\nbits:\n")
    words = ["--config", str(first), "--model_max_length", "7", "--config", str(second), *out(tmp_path)]
    model, _, training = parse_args(words)
    assert (model.version, training.model_max_length, training.learning_rate, training.bits) == ("v1", 7, 2e-5, 16)


def test_unknown_yaml_key_names_key_file_and_neighbour(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("leraning_rate: 1e-3\n")
    with pytest.raises(ValueError) as error:
        parse_args(["--config", str(path)])
    for word in ("leraning_rate", str(path), "'learning_rate'"):
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--leraning_rate", "1"], "learning_rate"),
        (["--learn", "1"], "unknown flag --learn"),
        (["zip.yaml"], "--config"),
        (["--learning_rate", "fast"], "invalid float value: 'fast'"),
        (["--zip_dominant", "54"], "zip_contextual"),
        (["--mm_tunable_parts", "mm_mlp_adapter,head"], "head"),
        (["--bits", "5"], "bits must be 4, 8 or 16"),
        (["--bits", "4", "--double_quant", "False"], "double_quant False"),
        (["--lora_bias", "lora_only"], "lora_bias"),
        (["--model_max_length", "0"], "model_max_length"),
        (["--use_cpu", "False"], "asks for a GPU"),
        (["--config", "none.yaml"], "none.yaml"),
        (["--global_batch_size", "12", "--per_device_train_batch_size", "8"], "global_batch_size 12"),
    ],
)
def test_bad_words(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        parse_args([*words, *(out(tmp_path) if words[0].startswith("--") else [])])


def test_yaml_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    for content in ("- a\n", "a: [\n"):
        path.write_text(content)
        with pytest.raises(ValueError, match=str(path)):
            parse_args(["--config", str(path)])


COMMON = """--deepspeed ./scripts/zero3.json --version v1 --data_path ./d.json --image_folder ./d
    --vision_tower openai/clip-vit-large-patch14-336 --mm_projector_type mlp2x_gelu --mm_vision_select_layer -2
    --mm_use_im_start_end False --mm_use_im_patch_token False --bf16 True --num_train_epochs 1
    --per_device_train_batch_size 16 --per_device_eval_batch_size 4 --gradient_accumulation_steps 1
    --evaluation_strategy no --save_strategy steps --save_steps 50000 --save_total_limit 1 --learning_rate 2e-5
    --weight_decay 0. --warmup_ratio 0.03 --lr_scheduler_type cosine --logging_steps 1 --tf32 True
    --model_max_length 2048 --gradient_checkpointing True --dataloader_num_workers 4 --lazy_preprocess True
    --report_to wandb"""
FINETUNE = "--image_aspect_ratio pad --group_by_modality_length True"
LORA = "--lora_enable True --lora_r 128 --lora_alpha 256 --mm_projector_lr 2e-5"
# What each of LLaVA's scripts/v1_5/*.sh says besides.
PUBLIC = {
    "pretrain": "--model_name_or_path lmsys/vicuna-13b-v1.5 --tune_mm_mlp_adapter True",
    "finetune": f"--model_name_or_path lmsys/vicuna-13b-v1.5 --pretrain_mm_mlp_adapter ./mm_projector.bin {FINETUNE}",
    "finetune_lora": f"{LORA} --model_name_or_path lmsys/vicuna-13b-v1.5 --pretrain_mm_mlp_adapter ./p.bin {FINETUNE}",
    "finetune_task": f"--model_name_or_path liuhaotian/llava-v1.5-13b {FINETUNE}",
    "finetune_task_lora": f"{LORA} --model_name_or_path liuhaotian/llava-v1.5-13b {FINETUNE}",
    "finetune_qlora": f"{LORA} --bits 4 --model_name_or_path lmsys/vicuna-13b-v1.5 {FINETUNE}",
}


@pytest.mark.parametrize("script", PUBLIC)
def test_public_llava_scripts_parse_as_they_are(script: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The flags of LLaVA's scripts/v1_5, and of its older finetune_qlora.sh, in its own spelling."""
    words = [*COMMON.split(), *PUBLIC[script].split(), *out(tmp_path)]
    with caplog.at_level(logging.INFO):
        model, _data, training = parse_args(words)
    assert model.mm_vision_select_layer == -2
    assert (training.eval_strategy, training.warmup_steps, training.bf16) == ("no", 0.03, True)
    assert training.report_to == ["wandb"]
    assert "--evaluation_strategy is called --eval_strategy" in caplog.text
    assert "--warmup_ratio is called --warmup_steps" in caplog.text
    assert "unknown" not in caplog.text
    stage = choose_stage(model, training)
    assert stage.name == ("projector" if script == "pretrain" else "lora" if "lora" in script else "full")
    assert training.bits == (4 if script == "finetune_qlora" else 16)


def test_a_recipe_in_the_older_words_is_no_news(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What was typed is told its new name; a YAML file that ships with the repository was not typed."""
    words = ["--config", str(ROOT / "configs/train/zip_tune_miniature.yaml"), *out(tmp_path)]
    with caplog.at_level(logging.INFO):
        assert parse_args(words)[2].warmup_steps == 0.03
    assert "is called" not in caplog.text
    with caplog.at_level(logging.INFO):
        assert parse_args([*words, "--warmup_ratio", "0.1"])[2].warmup_steps == 0.1
    assert caplog.text.count("--warmup_ratio is called --warmup_steps") == 1


@pytest.mark.parametrize(("overlay", "bits"), [("lora", 16), ("qlora", 4), ("zip", 16)])
def test_an_overlay_wins_over_a_recipe_and_flags_over_both(overlay: str, bits: int, tmp_path: Path) -> None:
    files = ["finetune_v1_5_7b", f"overlays/{overlay}"]
    words = [word for file in files for word in ("--config", str(ROOT / f"configs/train/{file}.yaml"))]
    model, _, training = parse_args([*words, "--lora_r", "8", *out(tmp_path)])
    assert (training.bits, training.lora_r, training.global_batch_size) == (bits, 8, 128)
    assert training.learning_rate == (2e-5 if overlay == "zip" else 2e-4)
    assert (model.zip_dominant, training.lora_enable) == ((54, False) if overlay == "zip" else (None, True))


def test_ignored_options_say_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    words = [
        "--overwrite_output_dir",
        "True",
        "--mpt_attn_impl",
        "triton",
        "--cache_dir",
        "x",
        "--is_multimodal",
        "False",
    ]
    parse_args([*words, *out(tmp_path)])
    for name in ("overwrite_output_dir", "mpt_attn_impl", "cache_dir", "is_multimodal False"):
        assert f"--{name} is ignored" in caplog.text


@pytest.mark.parametrize(("value", "strategy"), [("True", "group_by_length"), ("False", "random")])
def test_group_by_length_is_translated(value: str, strategy: str, tmp_path: Path) -> None:
    assert parse_args(["--group_by_length", value, *out(tmp_path)])[2].train_sampling_strategy == strategy


def test_lone_process_runs_without_deepspeed_and_on_the_cpu(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    words = ["--deepspeed", "configs/deepspeed/zero2.json", "--bf16", "--tf32", "True", *out(tmp_path)]
    training = parse_args(words)[2]
    assert not training.deepspeed
    assert training.use_cpu
    assert not training.tf32
    assert "no GPU found" in caplog.text
    assert "zero2.json" in caplog.text


def test_several_gpus_in_one_process_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda *_, **__: True)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 4)
    with pytest.raises(ValueError, match="4 GPUs"):
        parse_args(out(tmp_path))


def test_global_batch_sets_the_accumulation_unless_that_is_given_later(tmp_path: Path) -> None:
    words = ["--global_batch_size", "24", "--per_device_train_batch_size", "4"]
    assert parse_args([*words, *out(tmp_path)])[2].gradient_accumulation_steps == 6
    words += ["--gradient_accumulation_steps", "2"]
    assert parse_args([*words, *out(tmp_path)])[2].gradient_accumulation_steps == 2


def test_help_shows_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_args(["--help"])
    text = capsys.readouterr().out
    assert "--config configs/train/zip_tune_v1_5_7b.yaml" in text
    assert "--zip_dominant" in text
