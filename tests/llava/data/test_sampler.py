"""The sampling order: every row once, mega-batches of one modality, even loads, the same order for the same epoch."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava.data.sampler import ModalityLengthSampler, balanced_chunks


@st.composite
def tasks(draw: st.DrawFn) -> tuple[list[int], list[bool], int, int]:
    count = draw(st.integers(1, 120))
    lengths = draw(st.lists(st.integers(1, 500), min_size=count, max_size=count))
    has_image = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    return lengths, has_image, draw(st.integers(1, 5)), draw(st.integers(1, 4))


@given(tasks(), st.integers(0, 5))
def test_every_row_once(task: tuple[list[int], list[bool], int, int], epoch: int) -> None:
    sampler = ModalityLengthSampler(*task, seed=0)
    sampler.set_epoch(epoch)
    assert sorted(sampler) == list(range(len(sampler)))


@given(tasks())
def test_whole_megabatches_hold_one_modality(task: tuple[list[int], list[bool], int, int]) -> None:
    lengths, has_image, batch_size, num_chunks = task
    order = list(ModalityLengthSampler(*task, seed=0))
    size = batch_size * num_chunks
    pure = sum(has_image) // size + (len(lengths) - sum(has_image)) // size
    for start in range(0, pure * size, size):
        assert len({has_image[index] for index in order[start : start + size]}) == 1


def test_order_depends_on_seed_and_epoch_only() -> None:
    task = ([3] * 64, [True, False] * 32, 2, 2)
    sampler = ModalityLengthSampler(*task, seed=1)
    first = list(sampler)
    random.seed(99)
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert list(sampler) != first
    sampler.set_epoch(0)
    assert list(sampler) == first
    assert list(ModalityLengthSampler(*task, seed=2)) != first


@given(st.lists(st.integers(1, 1000), min_size=8, max_size=64), st.integers(1, 8))
def test_chunks_are_equal_in_size_and_near_equal_in_load(lengths: list[int], num_chunks: int) -> None:
    whole = len(lengths) - len(lengths) % num_chunks
    chunks = balanced_chunks(range(whole), lengths, num_chunks)
    assert {len(chunk) for chunk in chunks} == {whole // num_chunks}
    loads = [sum(lengths[index] for index in chunk) for chunk in chunks]
    assert max(loads) - min(loads) <= max(lengths) * (whole // num_chunks)


@pytest.mark.parametrize("has_image", [True, False])
def test_loads_are_even_for_one_modality_as_well(has_image: bool) -> None:
    """Text-only data must be balanced like image data."""
    rng = random.Random(0)
    lengths = [rng.randint(1, 1000) for _ in range(640)]
    order = list(ModalityLengthSampler(lengths, [has_image] * 640, 16, 4, seed=0))
    spreads = []
    for start in range(0, 640, 64):
        loads = [sum(lengths[i] for i in order[start + 16 * rank : start + 16 * rank + 16]) for rank in range(4)]
        spreads.append((max(loads) - min(loads)) / (sum(loads) / 4))
    assert max(spreads) < 0.05


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="2 lengths but 1"):
        ModalityLengthSampler([1, 2], [True], 1, 1, seed=0)
    with pytest.raises(ValueError, match="batch_size"):
        ModalityLengthSampler([1], [True], 0, 1, seed=0)
