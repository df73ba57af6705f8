"""Stages are heard in order by who listens, and by nobody else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from tests.visionzip.hosts import evidence
from visionzip import VisionEvidence, VisionZip
from visionzip.core.stages import listening, stage


class Diary:
    """Writes down what begins and ends."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.heard.append(name)
        yield
        self.heard.append(f"end of {name}")


def test_a_listener_hears_the_names_in_order() -> None:
    diary = Diary()
    with listening(diary):
        with stage("score"):
            diary.heard.append("work")
        with stage("merge"):
            pass
    assert diary.heard == ["score", "work", "end of score", "merge", "end of merge"]


def test_nothing_is_heard_outside_the_with_also_after_an_error() -> None:
    diary = Diary()
    with stage("before"):
        pass
    with pytest.raises(KeyError), listening(diary):
        raise KeyError
    with stage("after"):
        pass
    assert diary.heard == []


def test_the_inner_listener_hears_and_the_outer_comes_back() -> None:
    outer, inner = Diary(), Diary()
    with listening(outer):
        with listening(inner), stage("a"):
            pass
        with stage("b"):
            pass
    assert (outer.heard, inner.heard) == (["b", "end of b"], ["a", "end of a"])


def test_another_thread_is_not_heard() -> None:
    diary = Diary()

    def work() -> None:
        with stage("elsewhere"):
            pass

    with listening(diary):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert diary.heard == []


@pytest.mark.parametrize("has_cls", [True, False])
def test_visionzip_scores_then_merges(has_cls: bool) -> None:
    diary = Diary()
    seen = evidence(has_cls=has_cls)
    plain = VisionZip(5, 3)(seen)
    with listening(diary):
        heard = VisionZip(5, 3)(seen)
    assert diary.heard == ["score", "end of score", "merge", "end of merge"]
    assert torch.equal(heard.features, plain.features)


def test_compiled_code_has_no_stages_and_works_under_a_listener() -> None:
    def compress(seen: VisionEvidence) -> Tensor:
        return VisionZip(5, 3)(seen).features

    compiled, diary, seen = torch.compile(compress, backend="eager", fullgraph=True), Diary(), evidence()
    with listening(diary):
        first = compiled(seen)
    assert diary.heard == []
    assert torch.equal(first, compress(seen)) and torch.equal(compiled(seen), first)
