"""Muon for the matrices of the decoder blocks, AdamW for everything else: one optimizer to the Trainer.

Muon replaces a matrix's momentum by the nearest orthogonal matrix, so that every direction of it learns at one rate. A
model that starts from nothing needs about half of AdamW's steps (numbers in LOG.md). Source: K. Jordan et al., "Muon:
An optimizer for hidden layers in neural networks", 2024; the arithmetic is torch.optim.Muon.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Muon


class MuonAdamW(torch.optim.Optimizer):
    """Two optimizers that step together.

    Args:
        matrices: parameters of two dimensions, for Muon.
        others: the rest, for AdamW.
        muon_lr: Muon's learning rate; 0.02 is usual for weights drawn with a deviation of width ** -0.5.
        weight_decay: of the matrices.
        adam: further arguments of AdamW (lr, betas, eps).
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        others: Iterable[nn.Parameter],
        muon_lr: float,
        weight_decay: float = 0.0,
        **adam: Any,
    ) -> None:
        self._muon = Muon(list(matrices), lr=muon_lr, weight_decay=weight_decay, adjust_lr_fn="original")
        self._adam = AdamW(list(others), weight_decay=0.0, **adam)
        super().__init__(self._adam.param_groups + self._muon.param_groups, {})
        self._share_groups()

    def _share_groups(self) -> None:
        """A scheduler writes learning rates into `param_groups`: they are the two optimizers' own groups."""
        self.param_groups = self._adam.param_groups + self._muon.param_groups

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        if closure is not None:
            raise ValueError("MuonAdamW takes no closure; compute the gradients first, then call step()")
        self._adam.step()
        self._muon.step()
        return None

    def state_dict(self) -> dict[str, Any]:
        return {"adam": self._adam.state_dict(), "muon": self._muon.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a saved state.

        Raises: ValueError when it was saved by another optimizer.
        """
        if set(state_dict) != {"adam", "muon"}:
            raise ValueError(
                f"expected the state of MuonAdamW (adam, muon), got {sorted(state_dict)[:4]}; the checkpoint was "
                "written without --muon_learning_rate"
            )
        self._adam.load_state_dict(state_dict["adam"])
        self._muon.load_state_dict(state_dict["muon"])
        self._share_groups()
