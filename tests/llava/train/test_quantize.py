"""Training beside a language model in 4 or 8 bit: gradients pass through it, and what is saved fits the whole base."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from llava.model.builder import load_pretrained_model
from llava.model.checkpoint import PROJECTOR_FILE, read_file
from llava.train.options import parse_args
from llava.train.setup import load_model
from llava.train.stages import Stage, apply_stage, choose_stage
from llava.train.train import train
from tests.llava.train.test_train import losses, options, output, state_of
from tests.tiny import tiny_images
from tests.tiny_checkpoints import tiny_vicuna_llava, write_plain, write_v15
from tests.tiny_data import write_data

pytest.importorskip("bitsandbytes")


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose widths are multiples of 32, which bitsandbytes' CPU kernels ask for."""
    folder = tmp_path_factory.mktemp("wide")
    model = tiny_vicuna_llava(folder, hidden_size=64, intermediate_size=128)
    write_plain(model, folder / "vicuna-tiny", dtype=torch.float32)
    return write_v15(model, folder / "llava-tiny", dtype=torch.float32)


@pytest.fixture
def wide_words(words: list[str], wide: Path) -> list[str]:
    return options(words, model_name_or_path=wide, max_steps=2)


def prepared(words: list[str], **changes: Any) -> tuple[Any, Stage]:
    """The model of a run, ready to train."""
    arguments = parse_args(options(words, **changes))
    stage = choose_stage(arguments[0], arguments[2])
    model, _ = load_model(*arguments, stage)
    return apply_stage(model, stage, arguments[2]), stage


def gradient(model: Any) -> Tensor:
    """The projector's gradient on one small batch, flat."""
    ids = torch.tensor([[1, 300, -200, 17, 290, 44, 51]])
    labels = torch.where(torch.arange(7) > 2, ids, -100)
    model.train()(ids, images=tiny_images(1), labels=labels).loss.backward()
    trained = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    return torch.cat([value.flatten() for value in trained if value is not None])


def expand(model: Any) -> None:
    """Write what the quantized matrices stand for into a whole model of the same checkpoint."""
    from bitsandbytes.functional import dequantize_4bit

    quantized, whole = model
    for name, module in quantized.named_modules():
        if type(module).__name__ == "Linear4bit":
            value = dequantize_4bit(module.weight.data, module.weight.quant_state)
            whole.get_submodule(name).weight.data.copy_(value)


def test_gradients_reach_the_projector_through_4_bit(wide_words: list[str], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="llava.train.stages"):
        whole, _ = prepared(wide_words)
        quantized, stage = prepared(wide_words, bits=4)
    first, second = (record.getMessage() for record in caplog.records if "parameters" in record.getMessage())
    assert first == second  # as many parameters, however they are packed
    assert stage.projector_only
    kinds = {name for name, module in quantized.named_modules() if type(module).__name__ == "Linear4bit"}
    assert len(kinds) == 14 and all(name.startswith("model.layers.") for name in kinds)
    exact, coarse = gradient(whole), gradient(quantized)
    assert torch.cosine_similarity(exact, coarse, dim=0) > 0.8  # random tiny weights suffer most from 4 bit
    whole.zero_grad()
    expand((quantized, whole))
    assert torch.allclose(gradient(whole), coarse, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("bits", [4, 8])
def test_projector_only_run_learns_and_saves_for_the_whole_base(
    wide_words: list[str], wide: Path, tmp_path: Path, bits: int
) -> None:
    data = write_data(tmp_path / "few", rows=4, text_rows=0)
    words = options(wide_words, data_path=data, image_folder=data.parent, bits=bits, max_steps=6, learning_rate=2e-2)
    trainer = train(argv=words)
    curve = losses(trainer)
    assert curve[-1] < 0.9 * curve[0], curve
    before, after = state_of(wide), state_of(output(words), wide)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "mm_projector" in name}
    assert "quantization_config" not in json.loads((output(words) / "config.json").read_text())
    assert json.loads((output(words) / "run.json").read_text())["arguments"]["training"]["bits"] == bits


@pytest.mark.parametrize("stage", ["projector", "lora"])
def test_resumed_run_ends_bit_equal(wide_words: list[str], tmp_path: Path, stage: str) -> None:
    words = options(wide_words, bits=4, max_steps=4, save_strategy="steps", save_steps=2, bf16=True)
    if stage == "lora":
        words = options(words, tune_mm_mlp_adapter=None, lora_enable=True, lora_r=4)
    train(argv=words)
    shutil.copytree(output(words) / "checkpoint-2", tmp_path / "second" / "checkpoint-2")
    again = train(argv=options(words, output_dir=tmp_path / "second"))
    assert len(losses(again)) == 4
    files = {"projector": ("mm_projector.bin",), "lora": ("adapter_model.safetensors", "non_lora_trainables.bin")}
    for file in files[stage]:
        first, second = read_file(output(words) / file), read_file(tmp_path / "second" / file)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first), file


def test_adapters_beside_4_bit_load_over_the_whole_base(wide_words: list[str], wide: Path) -> None:
    changes = {"tune_mm_mlp_adapter": None, "lora_enable": True, "lora_r": 4, "bits": 4}
    words = options(wide_words, **changes, gradient_checkpointing=True)
    trainer = train(argv=words)
    trained = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    assert sum("lora_A" in name for name in trained) == 2 * 7
    assert all("lora_" in name or "mm_projector" in name for name in trained)
    adapters = {name: value for name, value in trainer.model.named_parameters() if "lora_B" in name}
    assert all(value.abs().sum() > 0 for value in adapters.values())  # they start at zero
    assert "quantization_config" not in json.loads((output(words) / "config.json").read_text())

    before, after = state_of(wide), state_of(output(words), wide)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    layers = {name for name in before if ".layers." in name and "_proj.weight" in name and "vision" not in name}
    assert changed == layers | {name for name in before if "mm_projector" in name}
    for name in layers:
        adapter = name.removesuffix(".weight")
        module = trainer.model.base_model.model.get_submodule(adapter)
        assert torch.allclose(after[name] - before[name], module.get_delta_weight("default"), atol=1e-6)


def test_pretraining_under_4_bit(wide_words: list[str], wide: Path) -> None:
    """A plain language model: tower and projector are new, the projector is saved alone."""
    words = options(wide_words, model_name_or_path=wide.parent / "vicuna-tiny", vision_tower=wide.parent / "tower")
    train(argv=options(words, bits=4))
    model = load_pretrained_model(output(words), wide.parent / "vicuna-tiny", None, device="cpu", load_4bit=True)[1]
    state = model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in read_file(output(words) / PROJECTOR_FILE).items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tune_mm_mlp_adapter": None}, "stage full trains and saves them; add --lora_enable True"),
        ({"bits": 5}, "bits must be 4, 8 or 16"),
        ({"quant_type": "fp4"}, "quant_type nf4 with double_quant True.* got fp4"),
    ],
)
def test_refused(wide_words: list[str], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(argv=options(wide_words, **({"bits": 4} | changes)))
