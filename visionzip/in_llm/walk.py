"""Run a decoder layer by layer, so that tokens can be dropped between two layers; then decode on what is left.

Works on transformers' Llama, Mistral (without sliding window) and Qwen2 decoders and their subclasses. Their own layers
run, under sdpa; nothing is patched. Rows without padding pass no mask, so that the flash kernel serves them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache, LlamaModel, MistralModel, Qwen2Model

from visionzip.in_llm.attention import judged_attention
from visionzip.in_llm.tokens import Pruner, Tokens, counted

DECODERS = (LlamaModel, MistralModel, Qwen2Model)


@dataclass(frozen=True, eq=False)
class Stretch:
    """Layers `start` to `stop` - 1, which see the same tokens.

    next_position: [B, 1] int64, where these layers place the first new token.
    real: [B, L] bool of the tokens in their cache, None without padding.
    num_visual: visual tokens of each row.
    """

    start: int
    stop: int
    next_position: Tensor
    real: Tensor | None
    num_visual: tuple[int, ...]


@dataclass(eq=False)
class Prefilled:
    """A prompt that has been read.

    hidden: [B, D] of the last position, after the final norm: the language model head gives the first new token.
    cache: keys and values per layer; layers behind a pruned one hold fewer tokens.
    stretches: the layers by what they see, in order.
    steps: tokens decoded since.
    """

    hidden: Tensor
    cache: DynamicCache
    stretches: tuple[Stretch, ...]
    steps: int = 0

    @property
    def visual_per_layer(self) -> tuple[tuple[int, ...], ...]:
        """Visual tokens each layer ran on: [layer][row]. A layer whose output is pruned still runs on all."""
        return tuple(s.num_visual for s in self.stretches for _ in range(s.start, s.stop))

    @property
    def mean_visual(self) -> float:
        """Visual tokens per layer, mean over layers and rows: the figure to compare with methods before the LLM."""
        counts = [count for layer in self.visual_per_layer for count in layer]
        return sum(counts) / len(counts)


@torch.no_grad()
def prefill(
    decoder: Any, embeds: Tensor, mask: Tensor | None, visual: Tensor, pruner: Pruner | None = None
) -> Prefilled:
    """Read a prompt and drop visual tokens on the way.

    The host waits for the device only at the start, for the rows' numbers of tokens.

    Args:
        decoder: a Llama, Mistral or Qwen2 model of transformers (not the causal LM around it), in eval mode.
        embeds: [B, L, D] input embeddings, images in their places.
        mask: [B, L], nonzero at real tokens, padding on the left; None: all real.
        visual: [B, L] bool, True at visual tokens.
        pruner: the method; None: dense.

    Raises:
        ValueError: a decoder that is not supported, shapes or padding that do not fit, a pruner that names layers the
            decoder does not have or finds no judges.
    """
    _check_decoder(decoder)
    layers = decoder.layers[: decoder.config.num_hidden_layers]
    cuts = () if pruner is None else pruner.layers
    if pruner is not None and not fits(pruner, len(layers)):
        raise ValueError(
            f"{pruner} prunes after layers {list(cuts)}, but this decoder has {len(layers)} layers (0 to "
            f"{len(layers) - 1}); after the last one nothing is left to save"
        )
    tokens = _tokens(embeds, mask, visual, pruner)
    came = tokens.num_visual
    cache: Any = DynamicCache()  # without the config: every layer holds what it is given
    stretches = []
    start = 0
    for stop in [*(cut + 1 for cut in cuts), len(layers)]:
        rope = decoder.rotary_emb(tokens.hidden, tokens.positions)
        causal = None if tokens.real is None else _causal(tokens.real)
        before = tokens
        for layer in layers[start:stop]:
            before = tokens
            tokens = replace(tokens, hidden=_run(layer, tokens.hidden, causal, tokens.positions, rope, cache))
        stretches.append(Stretch(start, stop, tokens.next_position, tokens.real, tokens.num_visual))
        if pruner is not None and stop < len(layers):
            kept = [min(pruner.kept(stop - 1, n), now) for n, now in zip(came, tokens.num_visual, strict=True)]
            if kept != list(tokens.num_visual):
                scores = judged_attention(layers[stop - 1], before, rope, cache.layers[stop - 1].keys)
                tokens = pruner.prune(tokens, scores, kept)
        start = stop
    return Prefilled(decoder.norm(tokens.hidden[:, -1]), cache, tuple(stretches))


@torch.no_grad()
def step(decoder: Any, embeds: Tensor, state: Prefilled) -> Tensor:
    """Read one more token per row: embeds [B, 1, D] -> hidden [B, D] after the final norm. `state` moves on by one.

    Every layer places the token right behind what its own cache holds: where position ids were renumbered these places
    differ between layers.
    """
    hidden = embeds
    start: Tensor | None = None
    for stretch in state.stretches:
        if stretch.next_position is not start:
            start = stretch.next_position
            positions = start + state.steps
            rope = decoder.rotary_emb(hidden, positions)
        mask = None if stretch.real is None else pad(stretch.real, (0, state.steps + 1), value=True)[:, None, None]
        for layer in decoder.layers[stretch.start : stretch.stop]:
            hidden = _run(layer, hidden, mask, positions, rope, state.cache)
    state.steps += 1
    normed: Tensor = decoder.norm(hidden[:, -1])
    return normed


def fits(pruner: Pruner, layers: int) -> bool:
    """Whether a decoder of so many layers has every one that a method prunes after, and one behind it."""
    return all(layer < layers - 1 for layer in pruner.layers)


def cache_bytes(state: Prefilled) -> int:
    """Bytes of all keys and values in the cache now, padding included."""
    layers: Any = state.cache.layers
    return sum(int(layer.keys.nbytes) + int(layer.values.nbytes) for layer in layers)


def _run(
    layer: Any, hidden: Tensor, mask: Tensor | None, positions: Tensor, rope: tuple[Tensor, Tensor], cache: DynamicCache
) -> Tensor:
    out: Tensor = layer(
        hidden,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        position_embeddings=rope,
    )
    return out


def _tokens(embeds: Tensor, mask: Tensor | None, visual: Tensor, pruner: Pruner | None) -> Tokens:
    """The batch as it enters layer 0. Raises: ValueError, see `prefill`."""
    shape = embeds.shape[:2]
    if embeds.ndim != 3 or visual.shape != shape or (mask is not None and mask.shape != shape):
        given = [list(embeds.shape), None if mask is None else list(mask.shape), list(visual.shape)]
        raise ValueError(f"embeds must be [B, L, D], mask and visual [B, L]; got {given[0]}, {given[1]}, {given[2]}")
    if visual.dtype != torch.bool:
        raise ValueError(f"visual must be bool, True at visual tokens; got {visual.dtype}")
    real = torch.ones_like(visual) if mask is None else mask.bool()
    judges = torch.zeros_like(visual) if pruner is None else pruner.judges(embeds, visual)
    misplaced = (real[:, :-1] & ~real[:, 1:]).any(dim=1) | ~real[:, -1] | (visual & ~real).any(dim=1)
    # Here the host waits for the device, and not again before the end.
    counts = torch.stack([real.sum(1), visual.sum(1), judges.sum(1), misplaced.long()]).tolist()
    lengths, num_visual, num_judges, wrong = counts
    if any(wrong):
        raise ValueError(
            f"row {wrong.index(1)}: padding must be on the left and visual tokens must be real; move padding first"
        )
    for row, (seen, judging) in enumerate(zip(num_visual, num_judges, strict=True)):
        if pruner is not None and seen and not judging:
            raise ValueError(f"row {row} has no text behind its {seen} visual tokens to judge them by; ask a question")
    padded = None if min(lengths) == shape[1] else real
    positions = counted(padded, visual)
    return Tokens(
        hidden=embeds,
        positions=positions,
        next_position=positions[:, -1:] + 1,
        visual=visual,
        judges=judges,
        real=padded,
        lengths=tuple(lengths),
        num_visual=tuple(num_visual),
        num_judges=max(num_judges),
    )


def _causal(real: Tensor) -> Tensor:
    """[B, L] bool -> [B, 1, L, L] bool: real tokens up to oneself. Padding sees itself, so that no row is empty."""
    length = real.shape[1]
    lower = torch.ones(length, length, dtype=torch.bool, device=real.device).tril()
    return (lower & real[:, None] | torch.eye(length, dtype=torch.bool, device=real.device))[:, None]


def _check_decoder(decoder: Any) -> None:
    if not isinstance(decoder, DECODERS):
        known = ", ".join(kind.__name__ for kind in DECODERS)
        raise ValueError(f"pruning inside the LLM knows {known} and their subclasses; got {type(decoder).__name__}")
    config: Any = decoder.config
    if getattr(config, "sliding_window", None) is not None:
        raise ValueError(f"sliding_window={config.sliding_window} is not supported; full attention only")
    if config._attn_implementation != "sdpa":
        raise ValueError(
            f"attention must be sdpa, got {config._attn_implementation!r}; load the model with "
            "attn_implementation='sdpa'"
        )
    if decoder.training:
        raise ValueError("the model is in training mode; call model.eval() first")
