"""The training loss at supervised positions only.

B rows, L tokens, D width, V vocabulary, n supervised tokens. An instruction row supervises its answers, a fifth of its
tokens or less; logits [B, L, V] in float32 would be the largest tensor of a training step, for nothing.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from llava.constants import IGNORE_INDEX

# Positions whose logits exist at one time: 2048 x 32,000 float32 are 250 MiB.
CHUNK = 2048


def supervised_loss(
    hidden: Tensor,
    labels: Tensor,
    head: Callable[[Tensor], Tensor],
    num_items: Tensor | int | None = None,
    chunk: int = CHUNK,
) -> Tensor:
    """Cross entropy of the next token, as transformers' causal language model loss has it. -> scalar, float32

    Args:
        hidden: [B, L, D], the decoder's output.
        labels: [B, L], IGNORE_INDEX where there is no loss; shifted here.
        head: [n, D] -> logits [n, V].
        num_items: supervised tokens of the whole optimizer step, over which the sum is divided; None: those here.
        chunk: positions per call of `head`; with more than one, logits are computed again in the backward pass.
    """
    rows, places = (labels[:, 1:] != IGNORE_INDEX).nonzero(as_tuple=True)
    # index_select on flat positions: its backward pass is far faster than that of a boolean mask
    flat = (rows * labels.shape[1] + places).to(hidden.device)
    states = hidden.flatten(0, 1).index_select(0, flat)  # [n, D]
    targets = labels[rows, places + 1].to(states.device)  # [n]

    def part(states: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(head(states).float(), targets, reduction="sum")

    if len(targets) <= chunk:
        total = part(states, targets)
    else:
        pieces = zip(torch.split(states, chunk), torch.split(targets, chunk), strict=True)
        total = torch.stack([checkpoint(part, *piece, use_reentrant=False) for piece in pieces]).sum()
    if num_items is None:
        return total / len(targets)
    return total / (num_items.to(total.device) if isinstance(num_items, Tensor) else num_items)
