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
    found = measure_footprint(net, lambda: net(rows), 0)
    assert found["weights_bytes"] == WEIGHTS
    assert found["activations_bytes"] == 2 * matrix
    assert found["peak_bytes"] == WEIGHTS + 2 * matrix
    assert found["steady_bytes"] == WEIGHTS + matrix  # the result
    assert (found["other_bytes"], found["offloaded_bytes"], found["reserved_bytes"]) == (0, 0, None)
    assert "counted" in found["how"]
    split = measure_footprint(net, lambda: net(rows), matrix)
    assert (split["cache_bytes"], split["activations_bytes"]) == (matrix, matrix)
    with pytest.raises(ValueError, match=f"cache_bytes is {3 * matrix}, but the run had {2 * matrix} bytes at"):
        measure_footprint(net, lambda: net(rows), 3 * matrix)
    static = measure_footprint(net, lambda: net(rows), 3 * matrix, cache_before=True)
    assert (static["cache_bytes"], static["activations_bytes"]) == (3 * matrix, 2 * matrix)
    assert static["peak_bytes"] == WEIGHTS + 5 * matrix
    assert static["steady_bytes"] == WEIGHTS + 4 * matrix
    with torch.no_grad():
        assert peak_bytes(lambda: net(rows), "cpu") == 2 * matrix


def test_the_cache_a_language_model_leaves_is_steady() -> None:
    config = LlamaConfig(
        vocab_size=320, hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4
    )
    model = LlamaForCausalLM(config).eval()
    embeds = torch.randn(1, 200, 48)

    def prefill() -> Any:
        cache = DynamicCache(config=config)
        model(inputs_embeds=embeds, past_key_values=cache, logits_to_keep=1)
        return cache

    cache = 2 * 2 * 48 * 200 * 4
    found = measure_footprint(model, prefill, cache)
    assert found["steady_bytes"] == found["weights_bytes"] + cache
    # A tensor of the MLP is 200 x 96 floats; several live at one time, the cache beside them.
    assert 2 * 200 * 96 * 4 < found["activations_bytes"] < 20 * 200 * 96 * 4
    assert found["peak_bytes"] == sum(found[f"{part}_bytes"] for part in ("weights", "other", "cache", "activations"))


@pytest.mark.gpu
def test_parts_on_a_gpu() -> None:
    net, rows = Net().to("cuda"), torch.zeros(100_000, 64, device="cuda")
    matrix = rows.nbytes
    found = measure_footprint(net, lambda: net(rows), matrix)
    near = pytest.approx(matrix, rel=0.01)
    assert found["weights_bytes"] == (64 * 64 + 10) * 4  # moving a buffer cuts its storage
    assert found["cache_bytes"] == matrix
    assert found["activations_bytes"] == near
    assert found["steady_bytes"] - found["weights_bytes"] - found["other_bytes"] == near
    assert found["other_bytes"] >= matrix  # the input, and what libraries keep
    assert found["reserved_bytes"] >= found["peak_bytes"]
    static = measure_footprint(net, lambda: net(rows), matrix, cache_before=True)  # the input plays the cache
    assert static["activations_bytes"] == pytest.approx(2 * matrix, rel=0.01)
    assert static["other_bytes"] + matrix == found["other_bytes"]
    with torch.no_grad():
        made = peak_bytes(lambda: net(rows), "cuda")
    assert made == pytest.approx(2 * matrix, rel=0.01)
