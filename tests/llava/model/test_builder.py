"""Every checkpoint layout loads, decided by files and config, and gives the logits of the model it was written from."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from llava.model.builder import load_pretrained_model
from tests.tiny import LARGE, tiny_anyres_llava, tiny_images, tiny_tower_folder
from tests.tiny_checkpoints import (
    PROJECTOR,
    TOKENS,
    TOWER,
    tiny_vicuna_llava,
    weights,
    write_lora,
    write_plain,
    write_projector_only,
    write_shards,
    write_tower,
    write_v15,
    write_v16,
)

IDS = torch.tensor([[1, 300, -200, 17, 290, 44]])


def load(path: Path, base: Path | None = None, name: str = "my-ckpt", **kwargs: Any) -> tuple[Any, Any, Any, int]:
    return load_pretrained_model(
        str(path), None if base is None else str(base), name, **({"device_map": "cpu"} | kwargs)
    )


@torch.no_grad()
def logits(model: Any, images: Tensor | list[Tensor] | None = None, **kwargs: Any) -> Tensor:
    return model(IDS, images=tiny_images(1) if images is None else images, **kwargs).logits


def same_weights(loaded: Any, expected: Any, atol: float = 0.0) -> bool:
    ours, theirs = loaded.state_dict(), expected.state_dict()
    assert ours.keys() == theirs.keys()
    return all(torch.allclose(ours[key], theirs[key], atol=atol, rtol=0) for key in theirs)


def test_v15_shards_without_tower(tmp_path: Path) -> None:
    model = tiny_vicuna_llava(tmp_path)
    tokenizer, loaded, processor, context = load(write_v15(model, tmp_path / "my-ckpt"))
    reference = {k: v.half().float() if not k.startswith(TOWER) else v for k, v in model.state_dict().items()}
    assert all(torch.equal(loaded.state_dict()[key], value) for key, value in reference.items())
    assert type(loaded).__name__ == "LlavaLlamaForCausalLM" and not loaded.training
    assert torch.allclose(logits(loaded), logits(model), atol=0.05)
    assert (len(tokenizer), context, processor.crop_size["height"]) == (TOKENS, 2048, 56)
    assert tokenizer("hello").input_ids[0] == 1


def test_v15_in_float32_is_exact(tmp_path: Path) -> None:
    model = tiny_vicuna_llava(tmp_path)
    _, loaded, _, _ = load(write_v15(model, tmp_path / "x", dtype=torch.float32))
    assert same_weights(loaded, model)
    assert torch.equal(logits(loaded), logits(model))


def test_one_file_of_safetensors(tmp_path: Path) -> None:
    model = tiny_vicuna_llava(tmp_path)
    folder = write_v15(model, tmp_path / "x")
    for file in folder.glob("pytorch_model*"):
        file.unlink()
    save_file(weights(model), folder / "model.safetensors")
    assert same_weights(load(folder)[1], model)


def test_v16_takes_the_tower_from_the_checkpoint(tmp_path: Path) -> None:
    model = tiny_vicuna_llava(tmp_path)
    folder = write_v16(model, tmp_path / "x", dtype=torch.float32)
    tiny_tower_folder(tmp_path / "tower", seed=5)  # what mm_vision_tower names is another tower by now
    _, loaded, processor, context = load(folder)
    assert same_weights(loaded, model)
    assert torch.equal(logits(loaded), logits(model))
    assert context == 4096 and processor is not None
    assert loaded.config.unfreeze_mm_vision_tower is True


def test_v15_reads_the_tower_its_config_names(tmp_path: Path) -> None:
    model = tiny_vicuna_llava(tmp_path)
    folder = write_v15(model, tmp_path / "x", dtype=torch.float32)
    before = logits(load(folder)[1])
    tiny_tower_folder(tmp_path / "tower", seed=5)
    assert not torch.allclose(logits(load(folder)[1]), before)


def test_a_full_fine_tune_of_v15_with_its_tower_is_accepted(tmp_path: Path) -> None:
    """Rule: tower weights in the checkpoint win, whatever unfreeze_mm_vision_tower says."""
    model = tiny_vicuna_llava(tmp_path)
    folder = write_v16(model, tmp_path / "x", dtype=torch.float32, unfreeze_mm_vision_tower=False)
    tiny_tower_folder(tmp_path / "tower", seed=5)
    _, loaded, _, _ = load(folder)
    assert same_weights(loaded, model)
    assert loaded.config.unfreeze_mm_vision_tower is False


def test_anyres_with_newline(tmp_path: Path) -> None:
    model = tiny_anyres_llava(tmp_path, vocab_size=TOKENS)
    _, loaded, _, _ = load(write_v16(model, tmp_path / "x", dtype=torch.float32))
    image = [tiny_images(5)]
    expected = logits(model, image, image_sizes=[(112, 112)])
    assert torch.equal(loaded.model.image_newline, model.model.image_newline)
    assert torch.equal(logits(loaded, image, image_sizes=[(112, 112)]), expected)


@pytest.mark.parametrize("prefix", ["model.", "", "base_model.model.model.", "module.model."])
def test_projector_over_a_language_model(tmp_path: Path, prefix: str) -> None:
    model = tiny_vicuna_llava(tmp_path)
    base = write_plain(model, tmp_path / "vicuna", dtype=torch.float32)
    folder = write_projector_only(model, tmp_path / "run", prefix=prefix, dtype=torch.float32)
    tokenizer, loaded, processor, _ = load(folder, base)
    assert same_weights(loaded, model)
    assert torch.equal(logits(loaded), logits(model))
    assert len(tokenizer) == TOKENS and processor is not None


def test_projector_over_a_llava_replaces_the_projector_alone(tmp_path: Path) -> None:
    model, tuned = tiny_vicuna_llava(tmp_path), tiny_vicuna_llava(tmp_path, seed=3)
    write_tower(model, tmp_path / "tower")
    base = write_v15(model, tmp_path / "llava", dtype=torch.float32)
    _, loaded, _, _ = load(write_projector_only(tuned, tmp_path / "run", dtype=torch.float32), base)
    for key, value in loaded.state_dict().items():
        source = tuned if key.startswith(PROJECTOR) else model
        assert torch.equal(value, source.state_dict()[key]), key


def test_projector_over_anyres_keeps_newline_and_tower_of_the_base(tmp_path: Path) -> None:
    model = tiny_anyres_llava(tmp_path, vocab_size=TOKENS)
    base = write_v16(model, tmp_path / "llava", dtype=torch.float32)
    folder = write_projector_only(model, tmp_path / "run", dtype=torch.float32)
    tiny_tower_folder(tmp_path / "tower", seed=5)
    assert same_weights(load(folder, base)[1], model)


def test_a_folder_with_weights_and_projector_file_needs_no_base(tmp_path: Path) -> None:
    model = tiny_vicuna_llava(tmp_path)
    folder = write_v15(model, tmp_path / "x", dtype=torch.float32)
    torch.save({f"{PROJECTOR}0.weight": torch.zeros(48, 32)}, folder / "mm_projector.bin")
    assert same_weights(load(folder)[1], model)


@pytest.mark.parametrize("kind", ["plain", "llava"])
def test_lora_with_its_extra_weights(tmp_path: Path, kind: str) -> None:
    model = tiny_vicuna_llava(tmp_path)
    writer = write_plain if kind == "plain" else write_v15
    base = writer(model, tmp_path / "base", dtype=torch.float32)
    folder, merged = write_lora(model, tmp_path / "lora")
    tokenizer, loaded, processor, _ = load(folder, base)
    assert same_weights(loaded, merged, atol=1e-6)
    assert torch.allclose(logits(loaded), logits(merged), atol=1e-5)
    assert not torch.allclose(logits(loaded), logits(model), atol=0.1)
    assert not any("lora" in name for name, _ in loaded.named_modules()) and not hasattr(loaded, "peft_config")
    assert len(tokenizer) == TOKENS and processor is not None


@pytest.mark.parametrize("layout", ["v15 with tower", "v16"])
def test_lora_over_a_base_that_holds_its_tower(tmp_path: Path, layout: str) -> None:
    """The adapter's targets are named by last part, which the tower's layers share; they are not meant."""
    model = tiny_vicuna_llava(tmp_path)
    if layout == "v16":
        base = write_v16(model, tmp_path / "base", dtype=torch.float32)
    else:
        base = write_v15(model, tmp_path / "base", dtype=torch.float32)
        write_shards(weights(model, tower=True), base)
    folder, merged = write_lora(model, tmp_path / "lora")
    assert json.loads((folder / "adapter_config.json").read_text())["exclude_modules"] is None
    loaded = load(folder, base)[1]
    assert same_weights(loaded, merged, atol=1e-6)
    assert torch.allclose(logits(loaded), logits(merged), atol=1e-5)


def test_lora_that_trained_biases_as_well(tmp_path: Path) -> None:
    model = tiny_vicuna_llava(tmp_path, "qwen2")
    base = write_v15(model, tmp_path / "base", dtype=torch.float32, model_type="llava_qwen")
    folder, merged = write_lora(model, tmp_path / "lora", bias="all", model_type="llava_qwen")
    stored = torch.load(folder / "non_lora_trainables.bin")
    assert any(key.endswith("q_proj.base_layer.bias") for key in stored)
    assert same_weights(load(folder, base)[1], merged, atol=1e-6)


def test_half_a_lora_folder_says_whose_projector_it_uses(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_vicuna_llava(tmp_path)
    base = write_v15(model, tmp_path / "base", dtype=torch.float32)
    folder, _ = write_lora(model, tmp_path / "lora")
    (folder / "non_lora_trainables.bin").unlink()
    load(folder, base)
    assert "holds no non_lora_trainables.bin: the projector is the one of" in caplog.text


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2"])
@pytest.mark.parametrize("scaling", [None, {"type": "linear", "factor": 2.0}])
def test_rope_is_saved_as_the_public_tree_reads_it(tmp_path: Path, family: str, scaling: dict[str, Any] | None) -> None:
    """transformers 4 knows rope_theta and rope_scaling; without them it computes with 10000."""
    kinds = {"llama": "llava_llama", "mistral": "llava_mistral", "qwen2": "llava_qwen"}
    model = tiny_vicuna_llava(tmp_path, family)
    keys = {"rope_theta": 1e6, "rope_scaling": scaling, "model_type": kinds[family]}
    loaded = load(write_v15(model, tmp_path / "in", dtype=torch.float32, **keys))[1]
    loaded.save_pretrained(tmp_path / "out")
    saved = json.loads((tmp_path / "out" / "config.json").read_text())
    assert saved["rope_theta"] == 1e6
    assert saved["rope_scaling"] == scaling
    again = type(loaded).from_pretrained(tmp_path / "out")
    again.get_vision_tower().load_model()
    assert torch.equal(logits(again), logits(loaded))


def test_the_class_saves_a_released_checkpoint(tmp_path: Path) -> None:
    """Released generation defaults give a temperature and do not sample, which transformers 5 refuses to write."""
    folder = write_v15(tiny_vicuna_llava(tmp_path), tmp_path / "in", dtype=torch.float32)
    model = type(load(folder)[1]).from_pretrained(folder)
    model.save_pretrained(tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_a_bare_adapter_over_a_llava(tmp_path: Path) -> None:
    model = tiny_vicuna_llava(tmp_path)
    base = write_v15(model, tmp_path / "base", dtype=torch.float32)
    folder, merged = write_lora(model, tmp_path / "lora", non_lora=False)
    assert not (folder / "config.json").exists()
    assert same_weights(load(folder, base)[1], merged, atol=1e-6)


def test_a_plain_language_model(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_vicuna_llava(tmp_path)
    folder = write_plain(model, tmp_path / "llava-by-name-only", dtype=torch.float32)
    tokenizer, loaded, processor, context = load(folder, name="llava-by-name-only")
    assert type(loaded).__name__ == "LlamaForCausalLM" and processor is None and context == 2048
    assert "plain language model" in caplog.text
    with torch.no_grad():
        ids = tokenizer("hello there", return_tensors="pt").input_ids
        assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_an_adapter_over_a_plain_language_model(tmp_path: Path) -> None:
    model = tiny_vicuna_llava(tmp_path)
    base = write_plain(model, tmp_path / "base", dtype=torch.float32)
    plain = load(base)[1]
    folder, merged = write_lora(plain, tmp_path / "lora", non_lora=False)
    _, loaded, processor, _ = load(folder, base)
    assert same_weights(loaded, merged, atol=1e-6) and processor is None


@pytest.mark.parametrize(
    ("family", "model_type", "expected"),
    [
        ("mistral", "llava_mistral", "LlavaMistralForCausalLM"),
        ("qwen2", "llava_qwen", "LlavaQwenForCausalLM"),
        ("llama", "llava_llama", "LlavaLlamaForCausalLM"),
        ("llama", "llava", "LlavaLlamaForCausalLM"),
    ],
)
def test_the_config_chooses_the_family(tmp_path: Path, family: str, model_type: str, expected: str) -> None:
    model = tiny_vicuna_llava(tmp_path, family)
    folder = write_v15(model, tmp_path / "x", dtype=torch.float32, model_type=model_type)
    _, loaded, _, _ = load(folder, name="vicuna-mistral-qwen")
    assert type(loaded).__name__ == expected and same_weights(loaded, model)


def test_the_name_decides_only_what_the_config_leaves_open(tmp_path: Path) -> None:
    model = tiny_vicuna_llava(tmp_path, "mistral")
    folder = write_v15(model, tmp_path / "x", architectures=None)  # model_type llava, no class named
    assert type(load(folder, name="llava-v1.6-mistral-7b")[1]).__name__ == "LlavaMistralForCausalLM"
    assert type(load(folder, name="my-ckpt")[1]).__name__ == "LlavaLlamaForCausalLM"


def test_a_compressed_checkpoint_reopens_compressed(tmp_path: Path) -> None:
    model = tiny_vicuna_llava(tmp_path, image_size=LARGE)
    config = {"method": "visionzip", "dominant": 14, "contextual": 2, "merge": "official"}
    base = write_v15(model, tmp_path / "base", dtype=torch.float32)
    run = write_projector_only(model, tmp_path / "run", dtype=torch.float32, mm_compressor=config)
    images = tiny_images(1, LARGE)
    assert load(base)[1].encode_images(images).shape[1] == 144
    compressed = load(run, base)[1]
    assert compressed.encode_images(images).shape[1] == 16
    assert compressed.config.mm_compressor == config
    assert logits(compressed, images).shape[1] == IDS.shape[1] - 1 + 16


def test_what_we_load_can_be_pickled_and_saved_and_loaded_again(tmp_path: Path) -> None:
    model = tiny_vicuna_llava(tmp_path)
    tokenizer, loaded, _, _ = load(write_v15(model, tmp_path / "x", dtype=torch.float32))
    assert torch.equal(logits(pickle.loads(pickle.dumps(loaded))), logits(model))
    loaded.save_pretrained(tmp_path / "again")
    tokenizer.save_pretrained(tmp_path / "again")
    assert torch.equal(logits(load(tmp_path / "again")[1]), logits(model))
    saved = json.loads((tmp_path / "again" / "config.json").read_text())
    assert saved["model_type"] == "llava_llama" and saved["mm_vision_tower"] == model.config.mm_vision_tower


def test_a_tower_beside_the_checkpoint_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_vicuna_llava(tmp_path)
    folder = write_v15(model, tmp_path / "x", dtype=torch.float32, mm_vision_tower="playground/towers/tower")
    run = write_projector_only(model, tmp_path / "runs" / "a", dtype=torch.float32, mm_vision_tower="towers/tower")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    _, loaded, _, _ = load(folder)
    assert same_weights(loaded, model)
    assert loaded.config.mm_vision_tower == "playground/towers/tower"
    assert same_weights(load(run, folder)[1], model)


def test_complete_weights_need_no_base(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_vicuna_llava(tmp_path)
    folder = write_v15(model, tmp_path / "x", dtype=torch.float32)
    assert same_weights(load(folder, write_plain(model, tmp_path / "base"))[1], model)
    assert "is not used" in caplog.text


def test_qwen_ties_its_head_to_the_embedding(tmp_path: Path) -> None:
    model = tiny_vicuna_llava(tmp_path, "qwen2", tie_word_embeddings=True)
    folder = write_v15(model, tmp_path / "x", model_type="llava_qwen", tie_word_embeddings=True)
    for file in folder.glob("pytorch_model*"):
        file.unlink()
    write_shards({k: v for k, v in weights(model).items() if k != "lm_head.weight"}, folder)
    assert torch.equal(logits(load(folder)[1]), logits(model))
