"""No mask is made inside the block, even where transformers believes that a graph is being traced."""

import pytest
import torch
from transformers import masking_utils

from llava.model.maskless import NAME, causal_without_mask
from tests.tiny import tiny_llava


@pytest.fixture
def model(tmp_path):
    return tiny_llava(tmp_path)


def seen_mask(model, monkeypatch, tracing: bool):
    """What the first layer gets as its mask, and the decoder's output."""
    seen = []
    handle = model.model.layers[0].register_forward_pre_hook(
        lambda _m, _a, kwargs: seen.append(kwargs["attention_mask"]), with_kwargs=True
    )
    monkeypatch.setattr(masking_utils, "is_tracing", lambda tensor=None: tracing)
    monkeypatch.setattr(masking_utils, "is_torchdynamo_exporting", lambda: tracing, raising=False)
    embeds = torch.randn(1, 7, model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        out = model.model(inputs_embeds=embeds, use_cache=False).last_hidden_state
    handle.remove()
    return seen[0], out


def test_a_traced_pass_makes_a_mask_outside_and_none_inside(model, monkeypatch):
    mask, expected = seen_mask(model, monkeypatch, tracing=True)
    assert mask is not None, "nothing to save: transformers makes no mask while tracing any more"
    with causal_without_mask(model.config):
        mask, out = seen_mask(model, monkeypatch, tracing=True)
    assert mask is None
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


def test_names_live_inside_the_block_only(model):
    with pytest.raises(RuntimeError, match="inside"), causal_without_mask(model.config):
        assert model.config._attn_implementation == NAME
        raise RuntimeError("inside")
    assert model.config._attn_implementation == "sdpa"
    assert NAME not in masking_utils.ALL_MASK_ATTENTION_FUNCTIONS


def test_another_attention_is_left_alone(model):
    model.config._attn_implementation = "eager"
    with causal_without_mask(model.config):
        assert model.config._attn_implementation == "eager"
