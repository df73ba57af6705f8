"""Parts of memory, on models whose every byte is known."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from llava.bench.footprint import measure_footprint, peak_bytes, weight_bytes

CPU = torch.device("cpu")


class Net(nn.Module):
    """Weights 64 * 64 floats, tied; a buffer of 10 floats; its forward makes 3 matrices, of which 2 live together."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 64, bias=False)
        self.second = nn.Linear(64, 64, bias=False)
        self.second.weight = self.first.weight
        self.register_buffer("table", torch.zeros(20)[:10])  # its storage has 20

    def forward(self, rows: Tensor) -> Tensor:
        return self.second(self.first(rows)).relu()


WEIGHTS = (64 * 64 + 20) * 4


def test_weights_count_every_storage_once() -> None:
    assert weight_bytes(Net()) == {CPU: WEIGHTS}
    net = Net()
    net.part = nn.Parameter(net.first.weight.detach()[:3])  # another parameter over the same memory
    assert weight_bytes(net) == {CPU: WEIGHTS}
    assert weight_bytes(Net().half()) == {CPU: (64 * 64 + 10) * 2}  # conversion cuts the buffer's storage


@pytest.mark.parametrize("layer", ["Linear4bit", "Linear8bitLt"])
def test_quantised_weights_count_as_stored(layer: str) -> None:
    bnb = pytest.importorskip("bitsandbytes")
    if layer == "Linear4bit":
        net: Any = bnb.nn.Linear4bit(256, 512, bias=False, compute_dtype=torch.float32, quant_type="nf4")
    else:
        net = bnb.nn.Linear8bitLt(256, 512, bias=False, has_fp16_weights=False)
    net = nn.Sequential(net).to("cpu")
    if net[0].weight.dtype.is_floating_point:
        pytest.skip("this build of bitsandbytes quantises on a GPU only")
    values = 256 * 512
    twice = values // 64  # absmax of every 64 values
    expected = {
        # 4 bit: packed, absmax in 8 bit with float32 scale per 256 and mean, both code books
        "Linear4bit": values // 2 + twice + twice // 256 * 4 + 4 + (16 + 256) * 4,
        "Linear8bitLt": values + 512 * 4,  # a scale per row
    }[layer]
    assert weight_bytes(net) == {CPU: expected}
    net(torch.zeros(2, 256))  # the first forward moves the scales to the layer's own state
    assert weight_bytes(net) == {CPU: expected}


def test_parts_on_a_cpu() -> None:
    net, rows = Net(), torch.zeros(100, 64)
    matrix = 100 * 64 * 4
    found = measure_footprint(net, lambda: net(rows))
    assert found["weights_bytes"] == WEIGHTS
    assert found["activations_bytes"] == 2 * matrix
    assert found["peak_bytes"] == WEIGHTS + 2 * matrix
    assert found["steady_bytes"] == WEIGHTS + matrix  # the result
    assert (found["cache_bytes"], found["cache_at_peak_bytes"]) == (0, 0)
    assert (found["other_bytes"], found["offloaded_bytes"], found["reserved_bytes"]) == (0, 0, None)
    assert "counted" in found["how"]
    static = measure_footprint(net, lambda: net(rows), static_cache=3 * matrix)
    assert (static["cache_bytes"], static["cache_at_peak_bytes"]) == (3 * matrix, 3 * matrix)
    assert static["activations_bytes"] == 2 * matrix
    assert static["peak_bytes"] == WEIGHTS + 5 * matrix
    assert static["steady_bytes"] == WEIGHTS + 4 * matrix
    with torch.no_grad():
        assert peak_bytes(lambda: net(rows), "cpu") == 2 * matrix


LAYERS, WIDTH, LENGTH = 3, 48, 200
ONE_LAYER = 2 * WIDTH * LENGTH * 4  # keys and values


def language_model() -> tuple[LlamaForCausalLM, Any]:
    config = LlamaConfig(
        vocab_size=320, hidden_size=WIDTH, intermediate_size=96, num_hidden_layers=LAYERS, num_attention_heads=4
    )
    model = LlamaForCausalLM(config).eval()
    embeds = torch.randn(1, LENGTH, WIDTH)

    def answer(before: int = 0, after: int = 0) -> Any:
        """A prompt read, its cache dropped; before and after: floats made on either side and dropped."""
        torch.zeros(before)
        out = model(inputs_embeds=embeds, past_key_values=DynamicCache(config=config), logits_to_keep=1).logits
        torch.zeros(after)
        return out.argmax()

    return model, answer


@pytest.mark.parametrize(
    ("before", "after", "layers"),
    [(10**7, 0, 0), (0, 10**7, LAYERS), (0, 0, LAYERS)],
    ids=["in the encoder", "behind the layers", "in the last layer"],
)
def test_the_cache_at_the_peak_is_what_was_there_then(before: int, after: int, layers: int) -> None:
    model, answer = language_model()
    found = measure_footprint(model, lambda: answer(before, after), layers=model.model.layers)
    assert found["cache_bytes"] == LAYERS * ONE_LAYER
    assert found["cache_at_peak_bytes"] == layers * ONE_LAYER
    parts = ("weights", "other", "cache_at_peak", "activations")
    assert found["peak_bytes"] == sum(found[f"{part}_bytes"] for part in parts)
    if before or after:
        inputs = 0 if before else found["activations_bytes"] - 4 * 10**7
        assert 4 * (before + after) + inputs == found["activations_bytes"] and inputs < ONE_LAYER
    else:  # a tensor of the MLP is 200 x 96 floats; several live at one time, the cache beside them
        assert 2 * LENGTH * 96 * 4 < found["activations_bytes"] < 20 * LENGTH * 96 * 4


def test_steady_holds_the_cache_though_the_answer_does_not() -> None:
    model, answer = language_model()
    found = measure_footprint(model, answer, layers=model.model.layers)
    assert 0 < found["steady_bytes"] - found["weights_bytes"] - LAYERS * ONE_LAYER <= 8  # the answer's id
    assert not any(layer._forward_pre_hooks for layer in model.model.layers)


@pytest.mark.gpu
def test_parts_on_a_gpu() -> None:
    net, rows = Net().to("cuda"), torch.zeros(100_000, 64, device="cuda")
    matrix = rows.nbytes
    found = measure_footprint(net, lambda: net(rows))
    assert found["weights_bytes"] == (64 * 64 + 10) * 4  # moving a buffer cuts its storage
    assert found["activations_bytes"] == pytest.approx(2 * matrix, rel=0.01)
    assert found["steady_bytes"] - found["weights_bytes"] - found["other_bytes"] == pytest.approx(matrix, rel=0.01)
    assert found["other_bytes"] >= matrix  # the input, and what libraries keep
    assert found["reserved_bytes"] >= found["peak_bytes"]
    static = measure_footprint(net, lambda: net(rows), static_cache=matrix)  # the input plays the cache
    assert static["activations_bytes"] == pytest.approx(2 * matrix, rel=0.01)
    assert static["other_bytes"] + matrix == found["other_bytes"]
    with pytest.raises(ValueError, match="static_cache is"):
        measure_footprint(net, lambda: net(rows), static_cache=1000 * matrix)
    with torch.no_grad():
        made = peak_bytes(lambda: net(rows), "cuda")
    assert made == pytest.approx(2 * matrix, rel=0.01)


@pytest.mark.gpu
def test_the_cache_of_a_language_model_on_a_gpu() -> None:
    model = language_model()[0].to("cuda")
    rows = torch.randn(1, LENGTH, WIDTH, device="cuda")

    def prefill() -> Any:
        return model(inputs_embeds=rows, past_key_values=DynamicCache(config=model.config), logits_to_keep=1).logits

    found = measure_footprint(model, prefill, layers=model.model.layers)
    assert found["cache_bytes"] == found["cache_at_peak_bytes"] == LAYERS * ONE_LAYER
    held = found["steady_bytes"] - found["weights_bytes"] - found["other_bytes"]
    assert LAYERS * ONE_LAYER <= held < (LAYERS + 1) * ONE_LAYER
