from __future__ import annotations

import pytest
import torch

from tests.visionzip.hosts import evidence
from visionzip import VisionEvidence, VisionTokens


def test_patches_and_grid_leave_cls_out() -> None:
    assert (evidence(patches=16).num_patches, evidence(patches=16).grid) == (16, (4, 4))
    assert (evidence(patches=9, has_cls=False).num_patches, evidence(patches=9, has_cls=False).grid) == (9, (3, 3))


def test_a_grid_that_is_no_square_is_an_error() -> None:
    with pytest.raises(ValueError, match="17 patches do not form a square"):
        _ = VisionEvidence(
            torch.zeros(1, 17, 4), torch.zeros(1, 2, 17, 2), torch.zeros(1, 2, 17, 2), has_cls=False
        ).grid


@pytest.mark.parametrize(
    ("hidden", "query", "keys", "message"),
    [
        ((17, 4), (1, 2, 17, 2), (1, 2, 17, 2), "hidden must be"),
        ((1, 17, 4), (1, 2, 16, 2), (1, 2, 17, 2), "query must be"),
        ((1, 17, 4), (1, 2, 17, 2), (2, 2, 17, 2), "keys must be"),
        ((1, 17, 4), (1, 17, 4), (1, 17, 4), "query must be"),
        ((1, 17, 4), (1, 4, 17, 2), (1, 2, 17, 2), "fewer key heads"),
    ],
)
def test_evidence_of_different_shapes_is_an_error(
    hidden: tuple[int, ...], query: tuple[int, ...], keys: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        VisionEvidence(torch.zeros(hidden), torch.zeros(query), torch.zeros(keys))


def test_tokens_need_one_integer_position_each() -> None:
    with pytest.raises(ValueError, match=r"\(1, 3, 4\) and \(1, 2\)"):
        VisionTokens(torch.zeros(1, 3, 4), torch.zeros(1, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="int64"):
        VisionTokens(torch.zeros(1, 3, 4), torch.zeros(1, 3))
