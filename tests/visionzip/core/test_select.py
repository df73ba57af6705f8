from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.visionzip.reference import rank
from visionzip.core.select import gather_rows, split_by_score


@settings(deadline=None, max_examples=100)
@given(
    data=st.data(),
    scores=st.integers(1, 12).flatmap(
        lambda n: st.lists(st.lists(st.integers(0, 4), min_size=n, max_size=n), min_size=1, max_size=3)
    ),
)
def test_kept_and_rest_are_the_ranking_in_spatial_order_also_with_ties(
    data: st.DataObject, scores: list[list[int]]
) -> None:
    dominant = data.draw(st.integers(1, len(scores[0]) + 1))
    kept, rest = split_by_score(torch.tensor(scores, dtype=torch.float32), dominant)
    for tile, row in enumerate(scores):
        best = [patch + 1 for patch in rank([float(x) for x in row])[: dominant - 1]]
        assert kept[tile].tolist() == [0, *sorted(best)]
        assert rest[tile].tolist() == [index for index in range(1, len(row) + 1) if index not in best]


def test_without_cls_all_kept_rows_are_patches() -> None:
    kept, rest = split_by_score(torch.tensor([[0.1, 0.9, 0.2, 0.9, 0.3]]), 2, has_cls=False)
    assert (kept.tolist(), rest.tolist()) == ([[1, 3]], [[0, 2, 4]])


def test_equal_scores_keep_the_lower_index_at_full_size() -> None:
    kept, _ = split_by_score(torch.zeros(1, 576), 54)
    assert kept.tolist() == [list(range(54))]


def test_rows_are_gathered_per_tile() -> None:
    rows = torch.arange(12.0).reshape(2, 3, 2)
    got = gather_rows(rows, torch.tensor([[2, 0], [1, 1]]))
    assert got.tolist() == [[[4.0, 5.0], [0.0, 1.0]], [[8.0, 9.0], [8.0, 9.0]]]
