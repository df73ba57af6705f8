"""Counted work equals what torch counts in the modules themselves, on tensors without data where they are large."""

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from llava.bench.memory import WEIGHT_BYTES
from llava.bench.roofline import (
    STAGES,
    Ceilings,
    Request,
    Work,
    attention_flops,
    bound,
    causal_flops,
    floor_seconds,
    kv_bytes,
    measure_ceilings,
    work,
)
from llava.bench.shapes import ModelShape, shape_of
from llava.model.multimodal_projector.builder import build_vision_projector
from visionzip.core.compressor import VisionZip
from visionzip.core.types import VisionEvidence

TINY = ModelShape(2, 48, 96, 24, 320, 6, 32, 64, 144, 5, tower_heads=2)
ASKED = Request(tiles=1, visual=576, text=60, new_tokens=2)
ATTENTION = ("aten.bmm",)  # on tensors without data attention is two batched products


def counted(run: Any) -> tuple[int, int]:
    """(FLOPs of all products but attention's, FLOPs of attention's) that torch counts in `run`."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    by_op = {str(op): flops for op, flops in counter.get_flop_counts()["Global"].items()}
    attention = sum(by_op.pop(name, 0) for name in ATTENTION)
    return sum(by_op.values()), attention


@cache
def language_model(shape: ModelShape) -> Any:
    sizes: dict[str, Any] = {
        "hidden_size": shape.width,
        "num_hidden_layers": shape.layers,
        "intermediate_size": shape.intermediate,
        "vocab_size": shape.vocabulary,
        "num_attention_heads": shape.width // 128 if shape.width % 128 == 0 else 4,
        "attn_implementation": "sdpa",
    }
    with torch.device("meta"):
        if shape.kv_width == shape.width:
            return LlamaForCausalLM._from_config(LlamaConfig(**sizes), dtype=torch.bfloat16)
        kv_heads = sizes["num_attention_heads"] * shape.kv_width // shape.width
        config = MistralConfig(**sizes, num_key_value_heads=kv_heads, sliding_window=None)
        return MistralForCausalLM._from_config(config, dtype=torch.bfloat16)


def embeds(shape: ModelShape, tokens: int) -> Tensor:
    return torch.empty(1, tokens, shape.width, dtype=torch.bfloat16, device="meta")


SHAPES = [
    pytest.param(TINY, id="tiny"),
    pytest.param(shape_of("llava-v1.5-7b"), id="llava-v1.5-7b"),
    pytest.param(replace(shape_of("llava-v1.6-mistral-7b"), layers=3), id="llava-v1.6-mistral-7b, 3 layers"),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_prefill_is_what_torch_counts(shape: ModelShape) -> None:
    model, tokens = language_model(shape), 300
    products, maps = counted(lambda: model(inputs_embeds=embeds(shape, tokens), use_cache=True, logits_to_keep=1))
    ours = work(shape, Request(1, 240, 60, 1))["prefill"].flops
    causal = shape.layers * causal_flops(tokens, shape.width)
    assert ours - causal == products
    assert shape.layers * attention_flops(tokens, tokens, shape.width) == maps  # torch counts the whole map
    assert causal / maps == pytest.approx((1 + 1 / tokens) / 2)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_decoding_step_is_what_torch_counts(shape: ModelShape) -> None:
    model, tokens = language_model(shape), 300
    cache = DynamicCache()
    with torch.no_grad():
        model(inputs_embeds=embeds(shape, tokens), past_key_values=cache)
    products, maps = counted(lambda: model(inputs_embeds=embeds(shape, 1), past_key_values=cache))
    assert work(shape, Request(1, 240, 60, 2))["decode"].flops == products + maps
    assert kv_bytes(shape, tokens + 1) == sum(t.nbytes for layer in cache.layers for t in (layer.keys, layer.values))


@pytest.mark.parametrize("shape", SHAPES[:2])
@pytest.mark.parametrize("blocks", [None, 0, 3])
def test_vision_is_what_torch_counts(shape: ModelShape, blocks: int | None) -> None:
    side = int(shape.patches**0.5) * shape.patch_size
    config = CLIPVisionConfig(
        hidden_size=shape.tower_width,
        intermediate_size=shape.tower_intermediate,
        num_hidden_layers=shape.tower_layers,
        num_attention_heads=shape.tower_heads,
        image_size=side,
        patch_size=shape.patch_size,
    )
    with torch.device("meta"):
        model: Any = CLIPVisionModel(config)
    tiles = torch.empty(5, 3, side, side, device="meta")
    run = model.encoder.layers[: shape.tower_layers - 1 if blocks is None else blocks]

    def encode() -> None:
        hidden = model.pre_layrnorm(model.embeddings(tiles))
        for block in run:
            hidden = block(hidden, None)

    ours = work(shape, replace(ASKED, tiles=5, tower_blocks=blocks))["vision"]
    assert ours.flops == sum(counted(encode))
    ran = [model.embeddings, model.pre_layrnorm, *run]
    weights = sum(parameter.nbytes for module in ran for parameter in module.parameters())
    out = 5 * (shape.patches + 1) * shape.tower_width * 4
    assert work(shape, replace(ASKED, tiles=5, tower_blocks=blocks, element_bytes=4))["vision"].bytes == (
        weights + tiles.nbytes + out
    )


def test_merging_and_projecting_is_what_torch_counts() -> None:
    shape = shape_of("llava-v1.5-7b")
    heads, rows, width = shape.tower_heads, shape.patches + 1, shape.tower_width
    hidden, keys = torch.randn(5, rows, width), torch.randn(5, heads, rows, width // heads)
    zipper = VisionZip(54, 10)
    found = work(shape, replace(ASKED, tiles=5, budget=(54, 10)))
    assert found["merge"].flops == sum(counted(lambda: zipper(VisionEvidence(hidden, keys, keys))))
    assert found["score"].flops == 5 * 2 * rows * width

    class Config:
        mm_projector_type, mm_hidden_size, hidden_size = "mlp2x_gelu", shape.tower_width, shape.width

    with torch.device("meta"):
        projector = build_vision_projector(Config)
    assert found["project"].flops == sum(counted(lambda: projector(torch.empty(5, 64, width, device="meta"))))
    assert work(shape, replace(ASKED, tiles=5, projected=7))["project"].flops == found["project"].flops / 320 * 7
    dense = work(shape, ASKED)
    assert dense["score"] == dense["merge"] == Work()
    assert dense["project"].flops == found["project"].flops / 320 * 576


def test_the_published_formula_counts_multiply_adds_and_the_whole_map() -> None:
    """FastV and SparseVLM quote 4nd^2 + 2n^2d + 3ndm per layer: one per multiply-add, no causal half, no head.

    So their figure doubled, less the half of attention that is never used, is ours without the head.
    """
    shape = shape_of("llava-v1.5-7b")
    n, d, m = 576 + 60, shape.width, shape.intermediate
    published = shape.layers * (4 * n * d**2 + 2 * n**2 * d + 3 * n * d * m)
    unused = shape.layers * 2 * n * (n - 1) * d
    head = 2 * shape.vocabulary * d
    ours = work(shape, ASKED)["prefill"].flops
    assert ours == 2 * published - unused + head
    assert ours / published == pytest.approx(2, rel=0.02)  # what a reader sees: twice the number


def test_pruning_inside_the_model() -> None:
    everywhere = work(TINY, replace(ASKED, kept_per_layer=[576, 576]))
    assert everywhere == work(TINY, ASKED)
    pruned = work(TINY, replace(ASKED, kept_per_layer=[576, 64]))
    short = work(TINY, replace(ASKED, visual=64))
    for stage in ("prefill", "decode"):
        full, less, seen = everywhere[stage].flops, short[stage].flops, pruned[stage].flops
        assert seen == pytest.approx((full + less) / 2)  # one of two layers has the short sequence
    assert kv_bytes(TINY, 60, 2, [576, 64]) == 2 * 2 * 24 * (636 + 124)
    assert kv_bytes(TINY, 636) == kv_bytes(TINY, 60, 2, [576, 576])


def test_bytes_of_the_language_model() -> None:
    shape = replace(shape_of("llava-v1.6-mistral-7b"), layers=3)
    model = language_model(shape)
    weights = sum(p.nbytes for name, p in model.named_parameters() if "embed_tokens" not in name)
    step = work(shape, ASKED)["decode"]
    # The state in, the logits out, 636 tokens of cache read and one written.
    assert step.bytes == weights + 2 * (4096 + 32000) + kv_bytes(shape, 637)
    assert work(shape, ASKED)["prefill"].bytes == weights + 2 * (636 * 4096 + 32000) + kv_bytes(shape, 636)
    small = work(shape, replace(ASKED, llm_weight_bytes=WEIGHT_BYTES[4]))["decode"]
    assert step.bytes - small.bytes == pytest.approx(shape.block_parameters * (2 - WEIGHT_BYTES[4]))


def test_a_batch_reads_weights_once() -> None:
    shape = shape_of("llava-v1.5-7b")
    asked = replace(ASKED, budget=(54, 10), visual=64)
    one, four, eight = (work(shape, replace(asked, batch=batch)) for batch in (1, 4, 8))
    for stage in STAGES:
        assert four[stage].flops == pytest.approx(4 * one[stage].flops)
        per_row = (eight[stage].bytes - four[stage].bytes) / 4
        assert per_row > 0
        assert one[stage].bytes - per_row == pytest.approx(four[stage].bytes - 4 * per_row)  # what rows share
    assert four["decode"].bytes < 1.1 * one["decode"].bytes


def test_decode_is_the_mean_over_the_steps() -> None:
    steps = [work(TINY, Request(1, 100 + extra, 60, 2))["decode"].flops for extra in range(9)]
    assert work(TINY, Request(1, 100, 60, 10))["decode"].flops == pytest.approx(sum(steps) / 9)
    assert work(TINY, Request(1, 100, 60, 1))["decode"].flops == steps[0]


def test_floor() -> None:
    ceilings = Ceilings(100.0, 10.0, "by hand")
    assert floor_seconds(Work(1000, 50), ceilings) == 10
    assert floor_seconds(Work(100, 50), ceilings) == 5
    assert [bound(Work(1000, 50), ceilings), bound(Work(100, 50), ceilings)] == ["compute", "memory"]
    assert Work(1, 2) + Work(3, 4) == Work(4, 6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tower_blocks": 7}, "tower_blocks must be 0 to 6.*got 7"),
        ({"kept_per_layer": [1]}, "one entry for each of 2 layers, got 1"),
        ({"budget": (140, 10)}, "does not fit a tile of 144 patches"),
        ({"budget": (0, 0)}, "not both 0"),
        ({"tiles": 0}, "tiles must be at least 1, got 0"),
        ({"visual": 0, "text": 0}, "at least one token"),
    ],
)
def test_refusals(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        work(TINY, replace(ASKED, **change))


def test_ceilings_of_a_cpu() -> None:
    before = torch.get_rng_state()
    found = measure_ceilings("cpu", torch.float32, repeats=1)
    assert torch.equal(before, torch.get_rng_state())
    assert 1e8 < found.flops_per_s < 1e14 and 1e7 < found.bytes_per_s < 1e13
    assert "1024^3 in float32" in found.how and "random data" in found.how
    with pytest.raises(ValueError, match=r"floating dtype, got cpu and torch\.int64"):
        measure_ceilings("cpu", torch.int64)


@pytest.mark.gpu
def test_ceilings_of_a_gpu() -> None:
    found = measure_ceilings("cuda", torch.bfloat16)
    assert 1e13 < found.flops_per_s < 1e16 and 1e11 < found.bytes_per_s < 2e13
    assert "8192^3" in found.how and "CUDA events" in found.how
