"""FastV against plain transformers: scores from materialised maps, and tokens masked in deep layers, not dropped."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.visionzip.in_llm.decoders import FAMILIES, LAYERS, eager, prompt, prompts, tiny_llm
from visionzip.in_llm import FastV, generate, keep_for_mean, prefill, step
from visionzip.in_llm.attention import judged_attention
from visionzip.in_llm.tokens import Tokens


class Watched(FastV):
    """FastV that remembers the scores and the tokens it saw."""

    def prune(self, tokens: Tokens, scores: Tensor, kept: Any) -> Tokens:
        object.__setattr__(self, "scores", scores)
        object.__setattr__(self, "pruned", super().prune(tokens, scores, kept))
        return self.pruned  # type: ignore[attr-defined]


def reference_scores(model: Any, embeds: Tensor, layer: int) -> Tensor:
    """[L]: attention of the last token in one layer, mean over heads, from transformers' eager maps."""
    with torch.no_grad():
        return eager(model)(inputs_embeds=embeds, output_attentions=True).attentions[layer][0, :, -1].mean(0)


def masked_logits(model: Any, embeds: Tensor, dropped: list[int], layer: int) -> Tensor:
    """Logits [V] of the last token where layers from `layer` on cannot see `dropped`, all tokens kept, no cache."""
    length = embeds.shape[1]
    sees = torch.ones(length, length, dtype=torch.bool).tril()
    sees[:, dropped] = False
    sees |= torch.eye(length, dtype=torch.bool)

    def blind(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, kwargs | {"attention_mask": sees[None, None]}

    hooks = [deep.register_forward_pre_hook(blind, with_kwargs=True) for deep in model.model.layers[layer:]]
    try:
        with torch.no_grad():
            return model(inputs_embeds=embeds, use_cache=False).logits[0, -1]
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layer", [1, 3])
def test_scores_are_the_last_rows_of_the_eager_maps(family: str, layer: int) -> None:
    """In a batch with padding: every row by its own last token, nothing by what stands in the padding."""
    model = tiny_llm(family)
    rows = [prompt(model, *shape, seed=i) for i, shape in enumerate([(3, 20, 6), (7, 9, 2)])]
    pruner = Watched(layer, ratio=0.5)
    prefill(model.get_decoder(), *prompts(rows), pruner)
    for index, (embeds, visual) in enumerate(rows):
        expected = reference_scores(model, embeds, layer - 1)
        length = visual.shape[1]
        assert_close(pruner.scores[index, -length:], expected, atol=1e-6, rtol=1e-5)  # type: ignore[attr-defined]
        assert not pruner.scores[index, :-length].any()  # type: ignore[attr-defined]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layer", [1, 2, 4])
def test_dropping_equals_masking_from_scratch(family: str, layer: int) -> None:
    """Prefill and every decoding step: positions are the original ones and the cache is right in every layer."""
    model = tiny_llm(family)
    embeds, visual = prompt(model, 3, 20, 6, seed=layer)
    scores = reference_scores(model, embeds, layer - 1)[3:23]
    dropped = (scores.argsort(descending=True)[8:] + 3).tolist()
    state = prefill(model.get_decoder(), embeds, None, visual, FastV(layer, ratio=0.6))
    hidden = state.hidden
    kinds = set()
    for _ in range(8):
        logits = model.lm_head(hidden)[0]
        assert_close(logits, masked_logits(model, embeds, dropped, layer), atol=2e-5, rtol=1e-4)
        token = logits.argmax()
        kinds.add(int(token))
        new = model.model.embed_tokens(token)[None, None]
        embeds = torch.cat([embeds, new], dim=1)
        hidden = step(model.get_decoder(), new, state)
    assert len(kinds) > 2
    dense = masked_logits(model, embeds, [], layer)
    assert (dense - masked_logits(model, embeds, dropped, layer)).abs().max() > 0.01  # masking does matter


def test_what_stays_stays_in_order() -> None:
    model = tiny_llm()
    embeds, visual = prompt(model, 3, 20, 6)
    pruner = Watched(2, keep=7)
    prefill(model.get_decoder(), embeds, None, visual, pruner)
    best = reference_scores(model, embeds, 1)[3:23].topk(7).indices + 3
    expected = [0, 1, 2, *sorted(best.tolist()), *range(23, 29)]
    tokens: Tokens = pruner.pruned  # type: ignore[attr-defined]
    assert tokens.positions[0].tolist() == expected
    assert tokens.visual[0].tolist() == [False] * 3 + [True] * 7 + [False] * 6
    assert tokens.next_position.tolist() == [[29]]


@pytest.mark.parametrize("pruner", [FastV(2, ratio=0.0), FastV(1, keep=20), FastV(3, keep=99)])
def test_nothing_dropped_is_dense(pruner: FastV) -> None:
    model = tiny_llm("mistral")
    embeds, visual = prompt(model, 3, 20, 6)
    dense = prefill(model.get_decoder(), embeds, None, visual)
    state = prefill(model.get_decoder(), embeds, None, visual, pruner)
    assert torch.equal(state.hidden, dense.hidden)
    assert state.visual_per_layer == ((20,),) * LAYERS
    ids = [generate(model, embeds, None, visual, p, max_new_tokens=8).tolist() for p in (None, pruner)]
    assert ids[0] == ids[1]


def test_everything_dropped_is_text_at_its_old_places() -> None:
    model = tiny_llm()
    embeds, visual = prompt(model, 3, 20, 6)
    state = prefill(model.get_decoder(), embeds, None, visual, FastV(2, ratio=1.0))
    expected = masked_logits(model, embeds, list(range(3, 23)), 2)
    assert_close(model.lm_head(state.hidden)[0], expected, atol=2e-5, rtol=1e-4)


def test_two_images_are_ranked_together() -> None:
    model = tiny_llm()
    embeds, visual = prompt(model, 3, 20, 6)
    visual[0, 10:14] = False  # text between two images of 7 and 9 tokens
    scores = reference_scores(model, embeds, 1)
    places = [p for p in range(29) if visual[0, p]]
    dropped = sorted(places, key=lambda p: -float(scores[p]))[8:]
    state = prefill(model.get_decoder(), embeds, None, visual, FastV(2, ratio=0.5))
    expected = masked_logits(model, embeds, dropped, 2)
    assert_close(model.lm_head(state.hidden)[0], expected, atol=2e-5, rtol=1e-4)


def test_scores_in_half_precision_are_computed_in_float32() -> None:
    """From the same bfloat16 queries and keys: no further rounding on the way to the score."""
    model = tiny_llm().bfloat16()
    layer = model.model.layers[1]
    embeds, visual = prompt(model, 3, 20, 6)
    hidden = embeds.bfloat16()
    positions = torch.arange(29)[None]
    rope = model.model.rotary_emb(hidden, positions)
    judges = positions == 28
    keys = torch.randn(1, 2, 29, 12).bfloat16()
    with torch.no_grad():
        tokens = Tokens(hidden, positions, positions[:, -1:] + 1, visual, judges, None, (29,), (20,), 1)
        scores = judged_attention(layer, tokens, rope, keys)
        query = layer.self_attn.q_proj(layer.input_layernorm(hidden[:, -1])).view(4, 12)
        cos, sin = (part[0, -1] for part in rope)
        query = query * cos + torch.cat([-query[:, 6:], query[:, :6]], dim=1) * sin
    logits = torch.stack([keys[0, head // 2].double() @ query[head].double() for head in range(4)]) / 12**0.5
    assert scores.dtype == torch.float32
    assert_close(scores[0], logits.softmax(-1).mean(0).float(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("mean", "layer", "keep"), [(192, 2, 166), (128, 2, 98), (64, 2, 30), (64, 1, 47), (576, 2, 576)]
)
def test_budget_as_a_mean_over_layers(mean: int, layer: int, keep: int) -> None:
    assert keep_for_mean(mean, 576, 32, layer) == keep
    assert abs((layer * 576 + (32 - layer) * keep) / 32 - mean) < 0.5


def test_settings_that_make_no_sense() -> None:
    for wrong in ({"layer": 0}, {"ratio": 1.2}, {"ratio": -0.1}, {"keep": -1}, {"keep": 2.5}, {"layer": True}):
        with pytest.raises(ValueError):
            FastV(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="above 36"):
        keep_for_mean(30, 576, 32)
