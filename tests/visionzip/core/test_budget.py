from __future__ import annotations

from typing import Any

import pytest

from visionzip import BUDGETS, Budget, budget_for, named_budget


@pytest.mark.parametrize(
    ("name", "dominant", "contextual", "total"),
    [
        ("64", 54, 10, 64),
        ("128", 108, 20, 128),
        ("192", 162, 30, 192),
        ("next-160", 27, 5, 32),
        ("next-320", 54, 10, 64),
        ("next-640", 108, 20, 128),
    ],
)
def test_named_budgets(name: str, dominant: int, contextual: int, total: int) -> None:
    budget = named_budget(name)
    assert (budget.dominant, budget.contextual, budget.total) == (dominant, contextual, total)


@pytest.mark.parametrize("name", ["64", "128", "192"])
def test_the_split_reproduces_the_papers_budgets(name: str) -> None:
    assert budget_for(int(name)) == BUDGETS[name]


@pytest.mark.parametrize(
    ("total", "dominant", "contextual"), [(48, 40, 8), (32, 27, 5), (16, 14, 2), (2, 1, 1), (5, 4, 1), (221, 186, 35)]
)
def test_the_split_of_other_totals(total: int, dominant: int, contextual: int) -> None:
    assert budget_for(total) == Budget(dominant, contextual)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'96'.*64, 128, 192, next-160"):
        named_budget("96")


@pytest.mark.parametrize("value", [0, -1, True, 54.0, "54", None])
def test_numbers_must_be_counts(value: Any) -> None:
    with pytest.raises(ValueError, match="dominant must be a whole number >= 1, got"):
        Budget(value, 10)
    with pytest.raises(ValueError, match="contextual must be a whole number >= 1, got"):
        Budget(54, value)


@pytest.mark.parametrize("total", [1, 0, True, 64.0])
def test_a_total_needs_room_for_both_kinds(total: Any) -> None:
    with pytest.raises(ValueError, match="total must be a whole number >= 2, got"):
        budget_for(total)


def test_all_rows_of_a_tile_may_be_kept_but_no_more() -> None:
    Budget(547, 30).check_fits(576)
    with pytest.raises(
        ValueError, match=r"548 \+ contextual=30 = 578 .* 577 rows \(CLS \+ 576 patches\).*577 together"
    ):
        Budget(548, 30).check_fits(576)


def test_a_tile_without_cls_has_a_row_less() -> None:
    Budget(546, 30).check_fits(576, has_cls=False)
    with pytest.raises(ValueError, match=r"577 tokens .* 576 rows \(576 patches, no CLS\).*576 together"):
        Budget(547, 30).check_fits(576, has_cls=False)


def test_the_numbers_of_five_tiles_get_the_advice_to_divide() -> None:
    with pytest.raises(ValueError, match=r"leave 37 rows for 100 contextual.*per tile.*dominant=108, contextual=20"):
        Budget(540, 100).check_fits(576)
    with pytest.raises(ValueError, match="leave 0 rows"):
        Budget(600, 100).check_fits(576)
