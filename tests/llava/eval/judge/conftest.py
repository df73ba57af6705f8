"""The judge of these tests, and the environment that leads to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.stub_judge import StubJudge, point_to, serve


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[StubJudge]:
    with serve(StubJudge(lambda body, number: "1.0")) as judge:
        point_to(judge, monkeypatch)
        yield judge
