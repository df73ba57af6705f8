"""The encoder as the published code computes it, for comparison only: no other part of this repository uses it.

It asks the tower for the attention maps and hidden states of all layers, which forces plain ("eager") attention, reads
one row of one map, and extracts rows by boolean masks. The numbers are those of `visionzip.VisionZip`; what differs is
time and memory. Source: VisionZip's published encoder (2412.04467), described in its behaviour, written anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPVisionModel

from visionzip.core.compressor import VisionZip
from visionzip.core.stages import stage
from visionzip.core.types import VisionTokens


def copy_of(model: CLIPVisionModel, attention: str) -> CLIPVisionModel:
    """The same tower with another attention ("eager", "sdpa"); its weights are shared, not copied."""
    config: Any = type(model.config).from_dict(model.config.to_dict())
    config._attn_implementation = attention
    with torch.device("meta"):
        copy = CLIPVisionModel(config)
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    copy.load_state_dict({name: own[name] for name in copy.state_dict()}, assign=True)
    for name, buffer in model.named_buffers():  # position ids are no part of the state
        holder, _, leaf = name.rpartition(".")
        copy.get_submodule(holder).register_buffer(leaf, buffer, persistent=False)
    copy.requires_grad_(False)
    return copy.train(False)


class OfficialStyle:
    """Tiles [T, 3, S, S] -> VisionTokens, as `CLIPVisionTower.encode` of a zipped tower at layer -2.

    Raises: ValueError when the compressor is not VisionZip, or the tower selects another layer: the published code has
    no other.
    """

    def __init__(self, tower: Any, zipper: VisionZip) -> None:
        if not isinstance(zipper, VisionZip) or tower.depth != tower.config.num_hidden_layers - 1:
            raise ValueError(
                f"the official style is VisionZip at layer -2; expected that, got {zipper!r} at mm_vision_select_layer "
                f"{tower.select_layer} of {tower.config.num_hidden_layers} layers: leave this comparison out"
            )
        self.model, self.zipper = copy_of(tower.vision_tower.vision_model, "eager"), zipper
        self._keys: list[Tensor] = []
        attention: Any = self.model.encoder.layers[-2].self_attn
        attention.k_proj.register_forward_hook(lambda _m, _a, output: self._keys.append(output))

    def maps(self, pixels: Tensor) -> tuple[Any, Tensor]:
        """Everything the tower gives when asked for all maps, and the keys of layer -2 [T, S, C]."""
        self._keys.clear()
        out = self.model(pixels.to(self.model.dtype), output_attentions=True, output_hidden_states=True)
        return out, self._keys.pop()  # kept by nobody after the call

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> VisionTokens:
        with stage("vision"):
            out, keys = self.maps(pixels)
            hidden, attention = out.hidden_states[-2], out.attentions[-2]  # [T, S, C], [T, H, S, S]
        with stage("score"):
            scores = attention[:, :, 0, 1:].sum(dim=1)  # [T, N]
        with stage("merge"):
            heads: Any = self.model.config.num_attention_heads
            metric = keys.unflatten(-1, (int(heads), -1)).mean(dim=2)  # [T, S, d]
            return self._reduce(hidden, scores, metric)

    def _reduce(self, hidden: Tensor, scores: Tensor, metric: Tensor) -> VisionTokens:
        tiles, rows, width = hidden.shape
        dominant, contextual = self.zipper.dominant, self.zipper.contextual
        best = scores.topk(dominant - 1, dim=1).indices + 1
        chosen = torch.cat([best.new_zeros(tiles, 1), best], dim=1)
        kept = torch.zeros(tiles, rows, dtype=torch.bool, device=hidden.device).scatter_(1, chosen, True)
        first = hidden[kept].view(tiles, dominant, width)  # a boolean mask: the host waits for the device
        rest, key = hidden[~kept].view(tiles, -1, width), metric[~kept].view(tiles, rows - dominant, -1)
        key = key / key.norm(dim=-1, keepdim=True)
        stride = max(1, rest.shape[1] // contextual)
        is_target = torch.zeros(rest.shape[1], dtype=torch.bool, device=hidden.device)
        is_target[torch.arange(0, rest.shape[1], stride, device=hidden.device)[:contextual]] = True
        joins = (key[:, ~is_target] @ key[:, is_target].transpose(1, 2)).argmax(dim=2)
        one_hot = torch.nn.functional.one_hot(joins, contextual).to(rest.dtype)  # [T, R, contextual]
        count = one_hot.sum(dim=1).clamp_min(1).unsqueeze(-1)
        merged = rest[:, is_target] + one_hot.transpose(1, 2) @ rest[:, ~is_target] / count
        places = (torch.arange(rows, device=hidden.device) - 1).expand(tiles, -1)[kept].view(tiles, dominant)
        positions = torch.cat([places, places.new_full((tiles, contextual), -1)], dim=1)
        return VisionTokens(torch.cat([first, merged], dim=1), positions, has_cls=True)


@contextmanager
def encoding_by(tower: Any, encoder: OfficialStyle | None) -> Iterator[None]:
    """Inside, this tower instance encodes by that; None: as ever."""
    if encoder is None:
        yield
        return
    tower.encode = encoder
    try:
        yield
    finally:
        del tower.encode  # the class's own again
