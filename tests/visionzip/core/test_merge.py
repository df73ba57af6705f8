from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.visionzip.hosts import evidence
from visionzip.core.merge import head_mean, merge_rows


def axis(*numbers: int, width: int = 4) -> Tensor:
    """One-hot keys [1, R, width]."""
    return torch.eye(width)[list(numbers)].unsqueeze(0)


def rows(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).reshape(1, -1, 1)


def test_official_adds_the_mean_of_the_members_to_the_target() -> None:
    got = merge_rows(rows(1, 2, 4, 10, 20, 40), axis(0, 0, 0, 1, 1, 0), 2)  # targets: rows 0 and 3
    torch.testing.assert_close(got, rows(1 + (2 + 4 + 40) / 3, 10 + 20))


def test_average_divides_by_members_and_target() -> None:
    got = merge_rows(rows(1, 2, 4, 10, 20, 40), axis(0, 0, 0, 1, 1, 0), 2, "average")
    torch.testing.assert_close(got, rows((1 + 2 + 4 + 40) / 4, (10 + 20) / 2))


@pytest.mark.parametrize("merge", ["official", "average"])
def test_a_target_without_members_stays(merge: str) -> None:
    got = merge_rows(rows(1, 2, 3, 4), axis(0, 0, 1, 0), 2, merge)  # type: ignore[arg-type]
    assert got[0, 1, 0] == 3


def test_rows_past_the_last_target_are_members_only() -> None:
    # 5 rows, 2 targets: stride 2, targets 0 and 2; row 4 would be a third target and must join the first instead
    got = merge_rows(rows(1, 2, 3, 4, 5), axis(0, 1, 1, 1, 0), 2)
    torch.testing.assert_close(got, rows(1 + 5, 3 + (2 + 4) / 2))


def test_nothing_is_merged_when_every_row_is_a_target() -> None:
    everything = torch.randn(2, 5, 3)
    assert torch.equal(merge_rows(everything, torch.randn(2, 5, 4), 5), everything)


def test_equal_similarity_joins_the_first_target() -> None:
    got = merge_rows(rows(1, 2, 4, 8, 16, 32), axis(0, 0, 0, 0, 0, 0), 3)
    torch.testing.assert_close(got, rows(1 + (2 + 8 + 32) / 3, 4, 16))


def test_similarity_ignores_the_length_of_keys_and_a_zero_key_joins_the_first() -> None:
    keys = torch.tensor([[[1.0, 0.0], [0.2, 0.9], [1.0, 1.2], [100.0, 1.0], [0.0, 0.0], [1e-30, 3e-30]]])
    got = merge_rows(rows(1, 2, 4, 8, 16, 32), keys, 2)  # stride 3, targets 0 and 3
    # row 1 and 2 point along y like neither target, yet row 3 leans that way a little more; so does row 5
    torch.testing.assert_close(got, rows(1 + 16, 8 + (2 + 4 + 32) / 3))
    assert got.isfinite().all()


def test_sums_are_float32_for_half_precision_rows() -> None:
    # the sum of the members is 204900, beyond the range of float16
    half = torch.full((1, 2050, 1), 100, dtype=torch.float16)
    half[0, 0] = 0
    got = merge_rows(half, torch.ones(1, 2050, 2), 1)
    assert got.dtype == torch.float16
    assert got.item() == 100


def test_the_metric_is_the_mean_over_heads_in_float32() -> None:
    keys = evidence(dtype=torch.bfloat16).keys
    assert head_mean(keys).dtype == torch.float32
    torch.testing.assert_close(head_mean(keys), keys.float().mean(dim=1))
