"""Walking the layers: dense it is transformers' own model; pruning changes neither rows beside each other nor speed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from tests.stage_listener import Heard
from tests.visionzip.in_llm.decoders import FAMILIES, LAYERS, prompt, prompts, tiny_llm
from visionzip.core.stages import listening
from visionzip.in_llm import FastV, SparseVLM, cache_bytes, generate, prefill, step
from visionzip.in_llm.walk import _causal

PRUNERS = {
    "fastv": FastV(2, ratio=0.6),
    "fastv keep": FastV(1, keep=3),
    "sparsevlm": SparseVLM((9, 5, 2), layers=(0, 1, 3)),
    "sparsevlm scaled": SparseVLM((12, 5), layers=(1, 2), of=24),
    "sparsevlm plain": SparseVLM((7, 4), layers=(0, 2), recycle=False),
}
SHAPES = [(3, 24, 6), (5, 11, 9), (2, 24, 4)]  # text, visual tokens, text


def dense_ids(model: Any, embeds: torch.Tensor, mask: torch.Tensor | None, n: int, **more: Any) -> torch.Tensor:
    mask = torch.ones(embeds.shape[:2], dtype=torch.int64) if mask is None else mask
    return model.generate(inputs_embeds=embeds, attention_mask=mask, max_new_tokens=n, do_sample=False, **more)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_dense_equals_transformers(family: str, padded: bool) -> None:
    model = tiny_llm(family)
    rows = [prompt(model, *shape, seed=i) for i, shape in enumerate(SHAPES)]
    embeds, mask, visual = prompts(rows) if padded else (rows[0][0], None, rows[0][1])
    state = prefill(model.get_decoder(), embeds, mask, visual)
    with torch.no_grad():
        positions = None if mask is None else (mask.cumsum(1) - 1).clamp_min(0)
        logits = model(inputs_embeds=embeds, attention_mask=mask, position_ids=positions).logits[:, -1]
        assert_close(model.lm_head(state.hidden), logits, atol=1e-5, rtol=1e-5)
    ids = generate(model, embeds, mask, visual, max_new_tokens=12)
    assert ids.tolist() == dense_ids(model, embeds, mask, 12, eos_token_id=None).tolist()
    assert len(set(ids.flatten().tolist())) > 4  # no constant answer that any mistake would give too


def test_generate_stops_and_pads_like_transformers() -> None:
    model = tiny_llm()
    embeds, mask, visual = prompts([prompt(model, *shape, seed=i) for i, shape in enumerate(SHAPES)])
    free = generate(model, embeds, mask, visual, max_new_tokens=9)
    ends = [int(free[0, 1]), int(free[1, 4]), int(free[2, 6])]  # rows end at different steps, before the ninth
    ids = generate(model, embeds, mask, visual, max_new_tokens=9, eos_token_id=ends, pad_token_id=5)
    assert ids.tolist() == dense_ids(model, embeds, mask, 9, eos_token_id=ends, pad_token_id=5).tolist()
    assert ids.shape[1] < 9 and 5 in ids[0].tolist()
    one = generate(model, embeds[:1], mask[:1], visual[:1], max_new_tokens=9, eos_token_id=ends[0])
    assert one.tolist() == [free[0, :2].tolist()]


@pytest.mark.parametrize("name", PRUNERS)
def test_a_row_does_not_depend_on_its_batch(name: str) -> None:
    """Rows of different lengths, numbers of visual tokens and numbers of raters; one has no image at all."""
    model, pruner = tiny_llm("qwen2"), PRUNERS[name]
    rows = [prompt(model, *shape, seed=i) for i, shape in enumerate([*SHAPES, (8, 0, 5)])]
    embeds, mask, visual = prompts(rows)
    together = prefill(model.get_decoder(), embeds, mask, visual, pruner)
    ids = generate(model, embeds, mask, visual, pruner, max_new_tokens=8)
    for index, (row, marks) in enumerate(rows):
        alone = prefill(model.get_decoder(), row, None, marks, pruner)
        assert_close(together.hidden[index], alone.hidden[0], atol=1e-4, rtol=1e-4)
        assert [layer[index] for layer in together.visual_per_layer] == [layer[0] for layer in alone.visual_per_layer]
        assert ids[index].tolist() == generate(model, row, None, marks, pruner, max_new_tokens=8)[0].tolist()


@pytest.mark.parametrize("name", PRUNERS)
def test_equal_rows_need_no_mask(name: str) -> None:
    """Without padding no layer gets a mask, before and behind pruning, in decoding too: the flash kernel can run."""
    model = tiny_llm()
    decoder = model.get_decoder()
    rows = [prompt(model, 3, 24, 6, seed=i) for i in range(3)]
    embeds, mask, visual = prompts(rows)
    masks = []
    for layer in decoder.layers:
        layer.register_forward_pre_hook(
            lambda module, args, kwargs: masks.append(kwargs["attention_mask"]), with_kwargs=True
        )
    state = prefill(decoder, embeds, mask, visual, PRUNERS[name])
    hidden = step(decoder, embeds[:, :1], state)
    assert masks == [None] * (2 * LAYERS)
    for index, (row, marks) in enumerate(rows):
        alone = prefill(decoder, row, None, marks, PRUNERS[name])
        assert_close(state.hidden[index], alone.hidden[0], atol=1e-4, rtol=1e-4)
        assert_close(hidden[index], step(decoder, embeds[index : index + 1, :1], alone)[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", PRUNERS)
def test_stages_are_those_of_the_usual_path(name: str) -> None:
    model, heard = tiny_llm(), Heard()
    embeds, visual = prompt(model, 3, 24, 6)
    with listening(heard):
        generate(model, embeds, None, visual, PRUNERS[name], max_new_tokens=3)
    assert heard.names == ["prefill", "decode", "decode"]


def test_no_row_of_the_mask_is_empty() -> None:
    """Real tokens see real ones up to themselves; padding sees itself, for a softmax over nothing is no number."""
    mask = _causal(torch.tensor([[False, False, True, True]]))
    assert mask[0, 0].int().tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]


class Waits(TorchDispatchMode):
    """Counts operations for which a host would have to wait for a device."""

    NAMES = ("aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::masked_select", "aten::equal")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name().split(".")[0] in self.NAMES:
            self.seen.append(func.name())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("name", "waits"), [("fastv", 0), ("sparsevlm", 1), ("sparsevlm scaled", 1)])
def test_the_host_waits_at_the_start_only(name: str, waits: int) -> None:
    """Beside the counts of the rows (a tolist, which is no operation), only the raters are waited for, once."""
    model = tiny_llm()
    embeds, visual = prompt(model, 3, 24, 6)
    with Waits() as counter:
        state = prefill(model.get_decoder(), embeds, None, visual, PRUNERS[name])
        step(model.get_decoder(), embeds[:, :1], state)
    assert len(counter.seen) == waits, counter.seen


def test_what_is_reported() -> None:
    """5 layers, FastV behind layer 1: 24 tokens in two layers, 9.6 = 10 in three; bytes = 2 x 2 heads x 12 x 4 each."""
    model = tiny_llm()
    embeds, visual = prompt(model, 3, 24, 6)
    state = prefill(model.get_decoder(), embeds, None, visual, FastV(2, ratio=0.6))
    assert state.visual_per_layer == ((24,), (24,), (10,), (10,), (10,))
    assert state.mean_visual == 78 / 5
    assert cache_bytes(state) == (2 * 33 + 3 * 19) * 2 * 2 * 12 * 4
    step(model.get_decoder(), embeds[:, :1], state)
    assert cache_bytes(state) == (2 * 34 + 3 * 20) * 2 * 2 * 12 * 4


def test_what_does_not_fit_is_refused() -> None:
    model = tiny_llm()
    decoder = model.get_decoder()
    embeds, visual = prompt(model, 3, 6, 4)
    mask = torch.ones_like(visual)
    right, hole = mask.clone(), mask.clone()
    right[:, -1], hole[:, 1] = False, False
    unseen = mask.clone()
    unseen[:, :5] = False
    cases: list[tuple[Any, str]] = [
        ((model, embeds, None, visual), "LlamaForCausalLM"),
        ((decoder, embeds[0], None, visual), r"embeds must be \[B, L, D\]"),
        ((decoder, embeds, mask[:, 1:], visual), "mask and visual"),
        ((decoder, embeds, None, visual.long()), "bool"),
        ((decoder, embeds, right, visual), "row 0: padding must be on the left"),
        ((decoder, embeds, hole, visual), "row 0: padding must be on the left"),
        ((decoder, embeds, unseen, visual), "visual tokens must be real"),
        ((decoder, embeds, None, visual, FastV(5)), "after the last one"),
        ((decoder, embeds[:, :9], None, visual[:, :9], SparseVLM((3,), (1,))), "row 0 has no text behind its 6"),
        ((tiny_llm("mistral", sliding_window=8).get_decoder(), embeds, None, visual), "sliding_window=8"),
        ((tiny_llm(attn_implementation="eager").get_decoder(), embeds, None, visual), "'eager'"),
        ((tiny_llm().train().get_decoder(), embeds, None, visual), "training mode"),
    ]
    for given, message in cases:
        with pytest.raises(ValueError, match=message):
            prefill(*given)
    with pytest.raises(ValueError, match="max_new_tokens"):
        generate(model, embeds, None, visual, max_new_tokens=0)


@pytest.mark.gpu
@pytest.mark.parametrize("name", [None, *PRUNERS])
def test_half_precision_on_a_device(name: str | None) -> None:
    """In bfloat16 every attention of a row without padding runs on the flash kernel, and a batch with padding runs."""
    model = tiny_llm(hidden_size=64).to("cuda", torch.bfloat16)
    rows = [prompt(model, *shape, seed=i) for i, shape in enumerate(SHAPES)]
    pruner = None if name is None else PRUNERS[name]
    embeds, visual = (part.to("cuda") for part in rows[0])
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        ids = generate(model, embeds.bfloat16(), None, visual, pruner, max_new_tokens=6)
    assert ids.shape == (1, 6)
    embeds, mask, visual = (part.to("cuda") for part in prompts(rows))
    state = prefill(model.get_decoder(), embeds.bfloat16(), mask, visual, pruner)
    hidden = step(model.get_decoder(), embeds[:, -1:].bfloat16(), state)
    assert hidden.dtype == torch.bfloat16 and bool(hidden.isfinite().all())
    exact = prefill(model.float().get_decoder(), embeds, mask, visual, pruner)
    assert state.visual_per_layer == exact.visual_per_layer
