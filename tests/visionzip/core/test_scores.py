from __future__ import annotations

import pytest
import torch

from tests.tiny import tiny_clip
from tests.visionzip.hosts import evidence, walk
from tests.visionzip.reference import cls_scores, received_scores
from visionzip import VisionEvidence
from visionzip.core.scores import cls_attention, patch_scores


def test_equal_to_the_loops() -> None:
    seen = evidence(tiles=3, dtype=torch.float64)
    expected = [cls_scores(q, k) for q, k in zip(seen.query.tolist(), seen.keys.tolist(), strict=True)]
    torch.testing.assert_close(patch_scores(seen), torch.tensor(expected, dtype=torch.float64))


def test_equal_to_the_cls_row_of_eager_attention() -> None:
    tower = tiny_clip()
    tower.set_attn_implementation("eager")
    pixels = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        maps = tower(pixels, output_attentions=True).attentions[-2]
        seen = walk(tower, pixels)
    torch.testing.assert_close(patch_scores(seen), maps.sum(dim=1)[:, 0, 1:], atol=1e-6, rtol=1e-5)


def test_a_score_sums_over_heads_and_leaves_out_what_cls_gives_itself() -> None:
    seen = evidence(heads=3)
    total = patch_scores(seen).sum(dim=-1)
    assert (total < 3).all() and (total > 0).all()
    blind = torch.zeros_like(seen.query)
    torch.testing.assert_close(cls_attention(blind, seen.keys), torch.full((2, 16), 3 / 17))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_scored_in_float32(dtype: torch.dtype) -> None:
    seen = evidence(dtype=dtype)
    scores = patch_scores(seen)
    assert scores.dtype == torch.float32
    assert torch.equal(scores, cls_attention(seen.query.float(), seen.keys.float()))


def test_large_logits_do_not_overflow_in_float16() -> None:
    seen = evidence(dtype=torch.float16)
    scores = cls_attention(seen.query * 300, seen.keys * 300)
    assert scores.isfinite().all()


def test_without_cls_equal_to_the_loops() -> None:
    seen = evidence(tiles=3, dtype=torch.float64, has_cls=False)
    expected = [received_scores(q, k) for q, k in zip(seen.query.tolist(), seen.keys.tolist(), strict=True)]
    torch.testing.assert_close(patch_scores(seen), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("has_cls", [True, False])
def test_scores_carry_no_gradient(has_cls: bool) -> None:
    seen = evidence(has_cls=has_cls)
    query = seen.query.requires_grad_()
    assert not patch_scores(VisionEvidence(seen.hidden, query, seen.keys, has_cls)).requires_grad
