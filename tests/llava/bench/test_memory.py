"""The memory estimate against the bytes a training step really keeps alive."""

from pathlib import Path
from typing import Any

import pytest
import torch

from llava.bench.live_memory import LivePeak
from llava.bench.memory import GB, Step, largest_rows, memory_parts, trained_parameters
from llava.bench.memory_check import counted_bytes, estimated_bytes
from llava.bench.shapes import ModelShape, shape_of
from tests.tiny import LARGE, tiny_images, tiny_llava


def shape(layers: int, width: int, intermediate: int, vocabulary: int = 32000) -> ModelShape:
    return ModelShape(layers, width, intermediate, width, vocabulary, 2, 64, 128, 144, 1)


@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize(("layers", "width", "intermediate"), [(4, 4096, 11008), (8, 1024, 4096)])
def test_activations_of_real_shapes(layers: int, width: int, intermediate: int, checkpointing: bool) -> None:
    model = shape(layers, width, intermediate)
    step = Step(rows=8, tokens=300, supervised=60, checkpointing=checkpointing)
    assert counted_bytes(model, step) == pytest.approx(estimated_bytes(model, step), rel=0.15)


def test_a_whole_step_of_a_tiny_llava(tmp_path: Path) -> None:
    """Tower, projector, splice, language model and loss, on real tensors."""
    sizes = {"hidden_size": 256, "intermediate_size": 688, "num_key_value_heads": 4, "vocab_size": 2000}
    model = tiny_llava(tmp_path, image_size=LARGE, **sizes, mm_hidden_size=32).to(torch.bfloat16).train()
    model.requires_grad_(False).get_model().mm_projector.requires_grad_(True)
    model.save_pretrained(tmp_path / "checkpoint")
    rows, text, supervised = 8, 120, 60
    ids = torch.randint(3, 2000, (rows, text + 1))
    ids[:, 3] = -200
    labels = ids.clone()
    labels[:, : text + 1 - supervised] = -100
    images = tiny_images(rows, LARGE).bfloat16()
    with LivePeak() as live:
        model(ids, images=images, labels=labels, loss_only=True).loss.backward()
    step = Step(rows, text + 144, supervised, checkpointing=False)
    parts = memory_parts(shape_of(str(tmp_path / "checkpoint")), step)
    estimate = estimated_bytes(shape_of(str(tmp_path / "checkpoint")), step) + parts["pictures"]
    assert live.peak == pytest.approx(estimate, rel=0.25)


def test_weights_by_bits() -> None:
    model = shape_of("llava-v1.5-13b")
    weights = {bits: memory_parts(model, Step(1, 300, 60, bits=bits))["weights"] / GB for bits in (16, 8, 4)}
    assert weights[16] == pytest.approx(26.7, abs=0.1)  # 13.02 + 0.33 billion parameters
    assert weights[8] == pytest.approx(14.0, abs=0.2)
    assert weights[4] == pytest.approx(7.9, abs=0.2)


def test_what_trains_and_who_shares_it() -> None:
    model = shape_of("llava-v1.5-7b")
    assert trained_parameters(model, Step(1, 300, 60)) == 20_979_712
    assert trained_parameters(model, Step(1, 300, 60, stage="lora")) == 20_979_712 + 319_815_680  # rank 128
    assert trained_parameters(model, Step(1, 300, 60, stage="full")) == 20_979_712 + 6_738_415_616
    one, eight = (memory_parts(model, Step(1, 300, 60, gpus=gpus)) for gpus in (1, 8))
    assert one["optimizer and gradients"] == 8 * eight["optimizer and gradients"] == 16 * 20_979_712


def test_largest_micro_batch() -> None:
    model = shape_of("llava-v1.5-7b")
    step = Step(1, 314, 100)
    rows = largest_rows(model, step, 24 * GB)
    assert rows > 1
    parts = [sum(memory_parts(model, Step(count, 314, 100)).values()) for count in (rows, 2 * rows)]
    assert parts[0] <= 24 * GB < parts[1]
    assert largest_rows(shape_of("llava-v1.5-13b"), step, 24 * GB) == 0
    dense = largest_rows(model, Step(1, 250 + 576, 100), 24 * GB)
    assert 1 <= dense < rows


@pytest.mark.parametrize(
    ("change", "message"), [({"bits": 5}, "bits"), ({"stage": "head"}, "stage"), ({"stage": "full", "bits": 4}, "full")]
)
def test_impossible_steps(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Step(1, 300, 60, **change)
