from __future__ import annotations

import copy
import pickle
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import CLIPVisionModel

from tests.tiny import tiny_clip
from visionzip import QKTap


class Fused(nn.Module):
    """Attention with one qkv layer, laid out as (3, heads, head width)."""

    def __init__(self, heads: int | None = 2, head_dim: int | None = None, bias: bool = True) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24, bias=bias)
        if heads is not None:
            self.num_heads = heads
        if head_dim is not None:
            self.head_dim = head_dim

    def forward(self, x: Tensor) -> Tensor:
        return self.qkv(x)[..., :8]


@pytest.fixture
def tower() -> CLIPVisionModel:
    return tiny_clip()


@pytest.fixture
def block(tower: CLIPVisionModel) -> nn.Module:
    return tower.encoder.layers[-2]


def rows(seed: int = 0, tiles: int = 2) -> Tensor:
    return torch.randn(tiles, 17, 32, generator=torch.Generator().manual_seed(seed))


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_records_the_raw_projections_whatever_the_kernel(tower: CLIPVisionModel, block: Any, kernel: str) -> None:
    tower.set_attn_implementation(kernel)
    x = rows()
    with QKTap(block.self_attn) as tap:
        tapped = block(x, None)
    assert torch.equal(tapped, block(x, None))
    normed = block.layer_norm1(x)
    for got, layer in ((tap.query, block.self_attn.q_proj), (tap.keys, block.self_attn.k_proj)):
        assert got.shape == (2, 2, 17, 16)
        expected = layer(normed)  # bias included, unscaled
        assert torch.equal(got[:, 0], expected[..., :16])
        assert torch.equal(got[:, 1], expected[..., 16:])


def test_reproduces_the_eager_attention_map(tower: CLIPVisionModel, block: Any) -> None:
    tower.set_attn_implementation("eager")
    pixels = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), QKTap(block.self_attn) as tap:
        maps = tower(pixels, output_attentions=True).attentions[-2]
    again = (tap.query @ tap.keys.transpose(-1, -2) / 16**0.5).softmax(dim=-1)
    torch.testing.assert_close(again, maps, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("module", [Fused(heads=2), Fused(heads=None, head_dim=4), Fused(bias=False)])
def test_fused_projection(module: Fused) -> None:
    x = torch.randn(3, 5, 8)
    with QKTap(module) as tap:
        module(x)
    q, k, _ = module.qkv(x).reshape(3, 5, 3, 2, 4).permute(2, 0, 3, 1, 4)
    assert torch.equal(tap.query, q) and torch.equal(tap.keys, k)


def test_a_packed_sequence_counts_as_one_tile() -> None:
    module = Fused()
    with QKTap(module) as tap:
        module(torch.randn(5, 8))
    assert tap.keys.shape == (1, 2, 5, 4)


def test_no_hook_stays(tower: CLIPVisionModel, block: Any) -> None:
    with QKTap(block.self_attn):
        assert hooks(tower) == 2
        block(rows(), None)
    assert hooks(tower) == 0


def test_no_hook_stays_after_an_error_and_the_error_is_the_callers(tower: CLIPVisionModel, block: Any) -> None:
    with pytest.raises(ZeroDivisionError), QKTap(block.self_attn) as tap:
        _ = 1 / 0
    assert hooks(tower) == 0
    with pytest.raises(ValueError, match="got 0"):
        _ = tap.keys


def test_no_forward_or_two_are_errors_and_leave_no_hook(tower: CLIPVisionModel, block: Any) -> None:
    with pytest.raises(ValueError, match=r"CLIPAttention: expected exactly one forward of q_proj .*got 0"):
        with QKTap(block.self_attn):
            pass
    with pytest.raises(ValueError, match="got 2"):
        with QKTap(block.self_attn):
            block(rows(), None)
            block(rows(), None)
    assert hooks(tower) == 0


def test_reading_before_the_forward_is_an_error(block: Any) -> None:
    with pytest.raises(ValueError, match="got 0"):
        _ = QKTap(block.self_attn).query


def test_two_taps_on_one_module_record_the_same(tower: CLIPVisionModel, block: Any) -> None:
    with QKTap(block.self_attn) as outer, QKTap(block.self_attn) as inner:
        block(rows(), None)
    assert torch.equal(outer.query, inner.query)
    assert hooks(tower) == 0


def test_one_tap_cannot_be_entered_twice_at_once_but_again_later(tower: CLIPVisionModel, block: Any) -> None:
    tap = QKTap(block.self_attn)
    with tap:
        with pytest.raises(ValueError, match="already recording"), tap:
            pass
        block(rows(0), None)
    first = tap.keys
    with tap:
        block(rows(1), None)
    assert not torch.equal(tap.keys, first)
    assert hooks(tower) == 0


def test_another_threads_forward_is_not_recorded(block: Any) -> None:
    with QKTap(block.self_attn) as tap:
        block(rows(0), None)
        other = threading.Thread(target=lambda: block(rows(1), None))
        other.start()
        other.join()
    assert torch.equal(tap.keys[:, 0], block.self_attn.k_proj(block.layer_norm1(rows(0)))[..., :16])


def test_the_tower_copies_and_pickles_afterwards(tower: CLIPVisionModel, block: Any) -> None:
    with QKTap(block.self_attn):
        block(rows(), None)
    for twin in (copy.deepcopy(tower), pickle.loads(pickle.dumps(tower))):
        assert hooks(twin) == 0
        assert torch.equal(twin.encoder.layers[-2](rows(), None), block(rows(), None))


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputation_under_gradient_checkpointing(block: Any, reentrant: bool) -> None:
    x = rows().requires_grad_()
    block(x, None).square().sum().backward()
    expected, x.grad = x.grad, None
    with QKTap(block.self_attn) as tap:
        out = checkpoint(block, x, None, use_reentrant=reentrant)
    keys = tap.keys.detach().clone()
    out.square().sum().backward()
    assert torch.equal(x.grad, expected)
    assert torch.equal(tap.keys, keys)


def test_gradient_flows_through_what_was_recorded(block: Any) -> None:
    x = rows().requires_grad_()
    with QKTap(block.self_attn) as tap:
        block(x, None)
    tap.keys.sum().backward()
    assert x.grad.abs().sum() > 0


def test_a_module_without_projections(block: Any) -> None:
    with pytest.raises(ValueError, match=r"neither q_proj and k_proj nor qkv in CLIPMLP \(its layers: .*fc1"):
        QKTap(block.mlp)
    half = nn.Module()
    half.q_proj = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="neither q_proj and k_proj"):
        QKTap(half)


def test_a_module_that_does_not_tell_its_heads() -> None:
    with pytest.raises(ValueError, match="Fused has none of num_heads"):
        QKTap(Fused(heads=None))


def test_a_block_compiled_on_its_own_is_an_error_not_a_wrong_result(block: Any) -> None:
    torch.compiler.reset()
    block.compile(backend="eager")
    block(rows(), None)
    try:
        with QKTap(block.self_attn) as tap:
            out = block(rows(1), None)
    except ValueError as error:
        assert "compile the tower instead" in str(error)
    else:
        assert torch.equal(tap.keys[:, 0], block.self_attn.k_proj(block.layer_norm1(rows(1)))[..., :16])
        assert out.shape == (2, 17, 32)
    finally:
        torch.compiler.reset()
