"""Two optimizers in one: each steps as it would alone, and both are scheduled, saved and restored."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from llava.train.muon import MuonAdamW

ADAM = {"lr": 1e-2, "betas": (0.9, 0.98), "eps": 1e-8}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def split(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    parameters = list(model.parameters())
    return [p for p in parameters if p.ndim == 2], [p for p in parameters if p.ndim != 2]


def learn(model: nn.Module, *optimizers: torch.optim.Optimizer, seed: int = 1) -> None:
    torch.manual_seed(seed)
    loss = (model(torch.randn(5, 6)) ** 2).mean()
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()


def test_equals_the_two_alone() -> None:
    together, apart = network(), network()
    one = MuonAdamW(*split(together), 0.02, weight_decay=0.1, **ADAM)
    matrices, others = split(apart)
    muon = torch.optim.Muon(matrices, lr=0.02, weight_decay=0.1, adjust_lr_fn="original")
    adam = torch.optim.AdamW(others, weight_decay=0.0, **ADAM)
    before = copy.deepcopy(together.state_dict())
    for seed in range(3):
        learn(together, one, seed=seed)
        learn(apart, muon, adam, seed=seed)
    assert all(torch.equal(a, b) for a, b in zip(together.parameters(), apart.parameters(), strict=True))
    assert not any(torch.equal(before[name], value) for name, value in together.state_dict().items())


def test_a_scheduler_reaches_both() -> None:
    model = network()
    optimizer = MuonAdamW(*split(model), 0.02, **ADAM)
    schedule = LambdaLR(optimizer, lambda step: 0.0 if step else 1.0)
    learn(model, optimizer)
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.0, 0.0]
    before = copy.deepcopy(model.state_dict())
    learn(model, optimizer)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_restored_state_goes_on_bit_equal() -> None:
    model = network()
    optimizer = MuonAdamW(*split(model), 0.02, **ADAM)
    learn(model, optimizer)
    other = copy.deepcopy(model)
    restored = MuonAdamW(*split(other), 0.5, **ADAM)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert [group["lr"] for group in restored.param_groups] == [1e-2, 0.02], "rates come back with the state"
    learn(model, optimizer, seed=2)
    learn(other, restored, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_refuses_what_it_cannot_do() -> None:
    model = network()
    optimizer = MuonAdamW(*split(model), 0.02, **ADAM)
    with pytest.raises(ValueError, match="expected the state of MuonAdamW"):
        optimizer.load_state_dict(torch.optim.AdamW(model.parameters()).state_dict())
    with pytest.raises(ValueError, match="no closure"):
        optimizer.step(lambda: 0.0)
