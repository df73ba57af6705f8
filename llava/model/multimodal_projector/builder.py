"""The projector: vision features [.., C] -> language model embeddings [.., D]."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

_MLP = re.compile(r"mlp([1-9]\d*)x_gelu")


class IdentityMap(nn.Module):
    """Hand features through unchanged; for towers that already have the language model's width."""

    def forward(self, features: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """features [.., C] -> the same tensor."""
        return features


def _linear(in_features: int, out_features: int) -> nn.Module:
    return nn.Linear(in_features, out_features)


def _identity(in_features: int, out_features: int) -> nn.Module:
    if in_features != out_features:
        raise ValueError(
            f"mm_projector_type 'identity' needs equal widths; got mm_hidden_size {in_features}, "
            f"hidden_size {out_features}"
        )
    return IdentityMap()


def _mlp(depth: int, in_features: int, out_features: int) -> nn.Module:
    """`depth` linear layers with exact GELU between them; they sit at indices 0, 2, 4.. of the Sequential."""
    layers: list[nn.Module] = [nn.Linear(in_features, out_features)]
    for _ in range(1, depth):
        layers += [nn.GELU(), nn.Linear(out_features, out_features)]
    return nn.Sequential(*layers)


PROJECTORS: dict[str, Callable[[int, int], nn.Module]] = {"linear": _linear, "identity": _identity}


def build_vision_projector(config: Any, delay_load: bool = False, **kwargs: Any) -> nn.Module:
    """Build the projector a config names.

    Args:
        config: mm_projector_type (default `linear`), mm_hidden_size, hidden_size.
        delay_load, kwargs: accepted for callers of the public tree; nothing is loaded here.

    Raises:
        ValueError: the type is none of linear, identity, mlp{N}x_gelu, or mm_hidden_size is missing.
    """
    if getattr(config, "mm_hidden_size", None) is None:
        raise ValueError("The config names a vision tower but has no mm_hidden_size, the width of its features")
    kind = getattr(config, "mm_projector_type", None) or "linear"
    if match := _MLP.fullmatch(kind):
        return _mlp(int(match.group(1)), config.mm_hidden_size, config.hidden_size)
    if kind not in PROJECTORS:
        raise ValueError(f"Unknown mm_projector_type {kind!r}; known: {', '.join(PROJECTORS)}, mlp{{N}}x_gelu")
    return PROJECTORS[kind](config.mm_hidden_size, config.hidden_size)


def project(projector: nn.Module, features: Tensor) -> Tensor:
    """Run the projector on its own device and, outside autocast, in its own dtype. [.., C] -> [.., D]

    Image tensors may come in another precision than the model (lmms-eval sends float16 to a float32 model).
    """
    parameter = next(projector.parameters(), None)
    if parameter is None:
        return features
    features = features.to(parameter.device)
    if parameter.is_floating_point() and not torch.is_autocast_enabled(features.device.type):
        features = features.to(parameter.dtype)
    projected: Tensor = projector(features)
    return projected
