"""Whole runs of the training program on a tiny model: what trains, what is saved, what resumes, what is refused."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from llava.model.builder import load_pretrained_model
from llava.provenance import sha256_file
from llava.train.train import train
from tests.tiny import tiny_anyres_llava
from tests.tiny_checkpoints import TOKENS, write_v16
from tests.tiny_data import write_data
from visionzip import VisionZip


def options(words: list[str], **changes: Any) -> list[str]:
    """`words` with options changed; None takes one away."""
    kept = [word for word in words if word[2:].split("=")[0] not in changes]
    return kept + [f"--{name}={value}" for name, value in changes.items() if value is not None]


def output(words: list[str]) -> Path:
    return Path(next(word for word in words if word.startswith("--output_dir=")).split("=", 1)[1])


def state_of(path: Path, base: Path | None = None) -> dict[str, torch.Tensor]:
    model = load_pretrained_model(path, base, None, device="cpu")[1]
    return {name: value.clone() for name, value in model.state_dict().items()}


def losses(trainer: Any) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_zip_tune_learns_saves_and_reloads(words: list[str], checkpoint: Path, tmp_path: Path) -> None:
    data = write_data(tmp_path / "few", rows=4, text_rows=0)
    words = options(words, data_path=data, image_folder=data.parent, max_steps=15, learning_rate=2e-2)
    trainer = train(argv=words)
    curve = losses(trainer)
    assert curve[-1] < 0.9 * curve[0], curve

    before, after = state_of(checkpoint), trainer.model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "mm_projector" in name}

    folder = output(words)
    assert {file.name for file in folder.iterdir()} == {
        "config.json",
        "mm_projector.bin",
        "run.json",
        "trainer_state.json",
    }
    config = json.loads((folder / "config.json").read_text())
    assert config["tune_mm_mlp_adapter"] is True
    assert not config["unfreeze_mm_vision_tower"]  # true would promise tower weights in the checkpoint
    assert config["use_cache"] is True
    saved = torch.load(folder / "mm_projector.bin", weights_only=True)
    assert set(saved) == {f"model.mm_projector.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")}
    for name, value in saved.items():
        assert torch.equal(value, after[name])

    model = load_pretrained_model(folder, checkpoint, None, device="cpu")[1]
    assert model.get_vision_tower().compressor == VisionZip(5, 2)
    for name, value in model.state_dict().items():
        assert torch.equal(value, after[name]), name


def test_log_and_record(words: list[str], data: Path) -> None:
    trainer = train(argv=options(words, max_steps=2, group_by_modality_length=True))
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert all(entry["samples_per_second"] > 0 for entry in entries)
    assert {entry["visual_tokens_per_sample"] for entry in entries} <= {0, 7}  # image or text batches, never mixed
    record = json.loads((output(words) / "run.json").read_text())
    assert record["stage"] == "projector"
    assert record["compressor"] == {"method": "visionzip", "dominant": 5, "contextual": 2, "merge": "official"}
    assert record["data"]["rows"] == 24
    assert record["data"]["rows_with_images"] == 20
    assert len(record["data"]["sha256"]) == 64
    assert record["result"]["steps"] == 2
    assert record["arguments"]["training"]["learning_rate"] == 5e-3
    assert record["stamp"]["seed"] == 42


METRICS = ("samples_per_second", "tokens_per_second", "visual_tokens_per_sample", "peak_memory_gb", "minutes_left")


def test_tensorboard_gets_every_metric(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    train(argv=options(words, max_steps=1, report_to="tensorboard"))
    written = b"".join(file.read_bytes() for file in (tmp_path / "events").rglob("events.*"))
    for metric in ("loss", *METRICS):
        assert f"train/{metric}".encode() in written


def test_list_of_sets_without_its_text_rows(words: list[str], data: Path, tmp_path: Path) -> None:
    other = write_data(tmp_path / "other", rows=4, text_rows=1)
    path = tmp_path / "sets.yaml"
    entries = [{"json_path": str(data), "sampling_strategy": "random:50%"}]
    entries += [{"json_path": str(other), "image_folder": str(other.parent)}]
    path.write_text(json.dumps({"datasets": entries}))  # JSON is YAML
    train(argv=options(words, data_path=path, skip_text_only=True, max_steps=1))
    found = json.loads((output(words) / "run.json").read_text())["data"]
    assert [(item["available"], item["chosen"]) for item in found["sets"]] == [(24, 12), (4, 4)]
    assert [item["sha256"] for item in found["sets"]] == [sha256_file(data), sha256_file(other)]
    assert found["sha256"] == sha256_file(path)
    assert found["rows"] == found["rows_with_images"] == 16 - found["text_only_rows_left_out"]
    assert found["text_only"] == "left_out" and found["text_only_rows_left_out"] >= 1


def test_rows_without_labels_are_named_in_the_record(words: list[str], tmp_path: Path) -> None:
    """Found in a worker of the data loader, told by the process that trains."""
    data = write_data(tmp_path / "d", rows=4, text_rows=0)
    content = json.loads(data.read_text())
    more = [{"from": "human", "value": "And?"}, {"from": "gpt", "value": "Red."}]
    content[2]["conversations"] += more  # captions have one round
    data.write_text(json.dumps(content))
    changes = {"data_path": data, "image_folder": data.parent, "version": "plain", "max_steps": 1}
    words = options(words, **changes, dataloader_num_workers=1)
    with pytest.raises(ValueError, match=r"row 2 .id 2.*the plain template takes"):
        train(argv=words)
    train(argv=options(words, max_bad_rows=1))
    (name,) = json.loads((output(words) / "run.json").read_text())["data"]["rows_without_labels"]
    assert name.endswith("mix.json row 2 (id 2)")


def test_a_resumed_run_remembers_rows_without_labels(words: list[str], tmp_path: Path) -> None:
    """The first step meets the broken row, the run stops, and the second part, which does not meet it, names it."""
    data = write_data(tmp_path / "d", rows=8, text_rows=0)
    content = json.loads(data.read_text())
    more = [{"from": "human", "value": "And?"}, {"from": "gpt", "value": "Red."}]
    words = options(words, data_path=data, image_folder=data.parent, version="plain", max_bad_rows=1, max_steps=1)
    words = options(words, save_strategy="steps", save_steps=1)
    order = list(train(argv=options(words, output_dir=tmp_path / "order"))._get_train_sampler())
    content[order[0]]["conversations"] += more
    data.write_text(json.dumps(content))
    train(argv=words)
    listed = json.loads((output(words) / "checkpoint-1" / "rows_without_labels.json").read_text())
    assert listed == {"rows": 8, "positions": [order[0]]}
    train(argv=options(words, max_steps=2))
    (name,) = json.loads((output(words) / "run.json").read_text())["data"]["rows_without_labels"]
    assert f"row {order[0]} (id " in name


def test_wandb_writes_its_run_without_a_network(words: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "llava.train.train", *options(words, max_steps=2), "--report_to=wandb"]
    asked = {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_PROJECT": "zip"}
    done = subprocess.run(command, env=os.environ | asked, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    written = b"".join(file.read_bytes() for file in run.glob("*.wandb"))
    assert b"train/loss" in written
    for metric in METRICS:
        assert f"train/{metric}".encode() in written
    assert (output(words) / "mm_projector.bin").exists()


def test_resumed_run_ends_bit_equal(words: list[str], tmp_path: Path) -> None:
    whole = options(words, save_strategy="steps", save_steps=3, group_by_modality_length=True)
    train(argv=whole)
    checkpoint = output(whole) / "checkpoint-3"
    assert {"mm_projector.bin", "config.json", "optimizer.pt", "scheduler.pt", "rng_state.pth"} <= {
        file.name for file in checkpoint.iterdir()
    }
    halved = options(whole, output_dir=tmp_path / "second")
    shutil.copytree(checkpoint, tmp_path / "second" / "checkpoint-3")
    resumed = train(argv=halved)
    assert len(losses(resumed)) == 6  # three of them from the checkpoint's own history
    first = torch.load(output(whole) / "mm_projector.bin", weights_only=True)
    second = torch.load(tmp_path / "second" / "mm_projector.bin", weights_only=True)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not (tmp_path / "second" / "incomplete").exists()


def test_other_compressor_does_not_resume(words: list[str]) -> None:
    words = options(words, save_strategy="steps", save_steps=1, max_steps=1)
    train(argv=words)
    other = options(words, zip_dominant=4, max_steps=2)
    with pytest.raises(ValueError, match=r"checkpoint-1 was trained with mm_compressor .*'dominant': 5"):
        train(argv=other)
    train(argv=options(other, resume_from_checkpoint=False))


def test_asked_for_checkpoint_must_be_complete(words: list[str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no trainer state, no weights"):
        train(argv=options(words, resume_from_checkpoint=tmp_path))


def test_exploding_loss_stops_with_the_step(words: list[str]) -> None:
    with pytest.raises(ValueError, match=r"loss is (nan|inf) at step [2-6]; no checkpoint"):
        train(argv=options(words, learning_rate=1e25))


def test_batch_without_labels_is_an_error(words: list[str]) -> None:
    with pytest.raises(ValueError, match="step 1: no row of the batch has anything to learn"):
        train(argv=options(words, model_max_length=30))


def test_full_stage_trains_the_language_model_and_saves_it_all(words: list[str], checkpoint: Path) -> None:
    words = options(words, tune_mm_mlp_adapter=None, max_steps=2, mm_projector_lr=1e-4)
    trainer = train(argv=words)
    before, after = state_of(checkpoint), state_of(output(words))
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert {name for name in before if "vision_tower" in name} == same
    assert all(torch.equal(value, after[name]) for name, value in trainer.model.state_dict().items())
    assert (output(words) / "tokenizer.model").is_file()
    assert not (output(words) / "training_args.bin").exists()
    rates = {group["initial_lr"] for group in trainer.optimizer.param_groups}
    assert rates == {5e-3, 1e-4}


def test_muon_trains_the_blocks_matrices_and_resumes_bit_equal(words: list[str], tmp_path: Path) -> None:
    words = options(words, tune_mm_mlp_adapter=None, max_steps=4, muon_learning_rate=0.02, learning_rate=1e-3)
    words = options(words, save_strategy="steps", save_steps=2)
    trainer = train(argv=words)
    adam, muon = trainer.optimizer.param_groups
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    matrices = {names[id(parameter)] for parameter in muon["params"]}
    assert {name.rsplit(".", 2)[1] for name in matrices} == {
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    }
    assert not any("vision_tower" in name for name in matrices)
    assert (muon["initial_lr"], adam["initial_lr"]) == (0.02, 1e-3)
    shutil.copytree(output(words) / "checkpoint-2", tmp_path / "second" / "checkpoint-2")
    again = train(argv=options(words, output_dir=tmp_path / "second"))
    assert again.state.global_step == 4
    first, second = state_of(output(words)), state_of(tmp_path / "second")
    assert all(torch.equal(first[name], second[name]) for name in first)
    with pytest.raises(ValueError, match="written without --muon_learning_rate"):
        plain = options(words, output_dir=tmp_path / "third", muon_learning_rate=None)
        train(argv=options(plain, max_steps=2))
        train(argv=options(words, output_dir=tmp_path / "third"))


def test_pretraining_gives_a_language_model_sight(words: list[str], language_model: Path, tmp_path: Path) -> None:
    tower = language_model.parent / "tower"
    words = options(words, model_name_or_path=language_model, vision_tower=tower, version="plain", zip_dominant=None)
    words = options(words, zip_contextual=None, max_steps=2, data_path=write_data(tmp_path / "d", 8, 0))
    words = options(words, image_folder=tmp_path / "d")
    train(argv=words)
    config = json.loads((output(words) / "config.json").read_text())
    assert config["image_aspect_ratio"] == "square"
    assert config["mm_projector_type"] == "mlp2x_gelu"
    assert "mm_compressor" not in config

    projector = output(words) / "mm_projector.bin"
    second = options(words, pretrain_mm_mlp_adapter=projector, tune_mm_mlp_adapter=None, freeze_mm_mlp_adapter=True)
    second = options(second, version="v1", output_dir=tmp_path / "second", image_aspect_ratio="pad")
    train(argv=second)
    pretrained = torch.load(projector, weights_only=True)
    tuned = state_of(tmp_path / "second")
    assert all(torch.equal(value, tuned[name]) for name, value in pretrained.items())


def test_lora_touches_decoder_and_projector_only(words: list[str], checkpoint: Path) -> None:
    words = options(words, tune_mm_mlp_adapter=None, lora_enable=True, lora_r=4, max_steps=2, save_strategy="steps")
    trainer = train(argv=words)
    trained = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    assert all(".layers." in name or "mm_projector" in name for name in trained)
    adapted = {name for name, _ in trainer.model.named_parameters() if "lora_" in name}
    assert not any("vision_tower" in name for name in trained | adapted)
    assert sum("lora_A" in name for name in trained) == 2 * 7
    folder = output(words)
    assert {"adapter_config.json", "adapter_model.safetensors", "non_lora_trainables.bin", "config.json"} <= {
        file.name for file in folder.iterdir()
    }
    merged = trainer.model.merge_and_unload().state_dict()
    loaded = state_of(folder, checkpoint)
    for name, value in loaded.items():
        assert torch.allclose(value, merged[name], atol=1e-6), name


def test_tiles_train_and_text_rows_beside_them(words: list[str], tmp_path: Path) -> None:
    """LLaVA-NeXT: anyres tiles, spatial_unpad, tower weights in the checkpoint."""
    base = write_v16(tiny_anyres_llava(tmp_path, vocab_size=TOKENS), tmp_path / "llava-next-tiny", torch.float32)
    words = options(words, model_name_or_path=base, max_steps=3)
    trainer = train(argv=words)
    entries = [entry["visual_tokens_per_sample"] for entry in trainer.state.log_history if "loss" in entry]
    assert max(entries) >= 2 * 7
    config = json.loads((output(words) / "config.json").read_text())
    assert config["unfreeze_mm_vision_tower"] is True
    assert config["image_aspect_ratio"] == "anyres"
    loaded = state_of(output(words), base)
    assert all(torch.equal(value, loaded[name]) for name, value in trainer.model.state_dict().items())


def test_half_precision_keeps_trained_weights_in_float32(words: list[str]) -> None:
    model = train(argv=options(words, bf16=True, max_steps=2)).model
    for name, parameter in model.named_parameters():
        assert parameter.dtype == (torch.float32 if "mm_projector" in name else torch.bfloat16), name


def test_compressor_of_the_checkpoint_stays(words: list[str], checkpoint: Path, tmp_path: Path) -> None:
    first = options(words, tune_mm_mlp_adapter=None, max_steps=1)
    train(argv=first)
    second = options(words, model_name_or_path=output(first), zip_dominant=None, zip_contextual=None, max_steps=1)
    model = train(argv=options(second, output_dir=tmp_path / "second")).model
    assert model.get_vision_tower().compressor == VisionZip(5, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"freeze_mm_mlp_adapter": True}, "nothing is left to train"),
        ({"lora_enable": True}, "lora_enable"),
        ({"skip_text_only": True, "tune_mm_mlp_adapter": None}, "--skip_text_only .* stage full learns from text-only"),
        ({"mm_projector_type": "linear"}, "mlp2x_gelu"),
        ({"zip_dominant": 16}, "16"),
        ({"model_name_or_path": None}, "--model_name_or_path"),
        ({"data_path": None}, "--data_path"),
        ({"version": "vicuna"}, "vicuna"),
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end"),
        ({"muon_learning_rate": 0.02}, "stage projector does not train them"),
        ({"muon_learning_rate": 0.02, "mm_projector_lr": 1e-3}, "and mm_projector_lr"),
        ({"muon_learning_rate": 0.02, "optim": "sgd"}, "got optim sgd"),
    ],
)
def test_refused(words: list[str], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(argv=options(words, **changes))


def test_projector_stage_of_a_language_model_needs_a_tower(words: list[str], language_model: Path) -> None:
    with pytest.raises(ValueError, match="--vision_tower"):
        train(argv=options(words, model_name_or_path=language_model))
