"""Bytes alive are counted to the byte."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from llava.bench.live_memory import LivePeak


def work() -> torch.Tensor:
    first = torch.zeros(1000)  # 4000 B
    second = first + 1  # 8000 B alive
    del first
    third = second * 2  # 8000 B
    view = third[:10]  # no memory of its own
    second.add_(1)  # nor this
    del second, third
    return view


@pytest.mark.parametrize("fake", [False, True])
def test_peak_and_rest(fake: bool) -> None:
    if fake:
        with FakeTensorMode(), LivePeak() as live:
            kept = work()
    else:
        with LivePeak() as live:
            kept = work()
    assert live.peak == 8000
    assert live.now == 4000  # the view holds the storage of `third`
    del kept
    assert live.now == 0


def test_saved_activations_live_until_the_backward_pass() -> None:
    weight = torch.ones(100, 100, requires_grad=True)
    with LivePeak() as live:
        loss = (torch.ones(50, 100) @ weight).relu().sum()
        kept = live.now
        loss.backward()
    assert kept >= 2 * 50 * 100 * 4  # input of the product, output of relu
    assert live.now < kept + weight.grad.nbytes
