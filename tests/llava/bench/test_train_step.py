"""A training step is measured of what it can train only."""

from typing import Any

import pytest

from llava.bench import train_step
from llava.bench.cases import parse_case
from tests.llava.bench.tiny_subject import tiny_subject


@pytest.mark.parametrize("case", ["fastv:16", "sparsevlm:16", "visionzip:16:official", "dense:fast", "dense:lean"])
def test_a_case_that_would_train_as_another_is_refused(case: str) -> None:
    options: dict[str, Any] = {"rows": 1, "text": 40, "supervised": 10, "rounds": 1, "report": print}
    with pytest.raises(ValueError, match=f"train: case '{parse_case(case).label}' .* leave it out"):
        train_step.measure(tiny_subject(), [parse_case("dense"), parse_case(case)], **options)


def test_no_more_tokens_are_supervised_than_there_are() -> None:
    options: dict[str, Any] = {"rows": 1, "text": 60, "supervised": 100, "rounds": 1, "report": print}
    with pytest.raises(ValueError, match="supervised 100: expected 1 to 60"):
        train_step.measure(tiny_subject(), [parse_case("dense")], **options)
