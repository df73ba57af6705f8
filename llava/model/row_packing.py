"""Several training rows in one sequence, so that no step is spent on padding.

R rows, P packs (R or fewer), L tokens of the longest pack, D LLM width.

Positions start anew with every row. transformers reads from that where rows begin and lets none see another, under
eager, sdpa and flex attention for every pack of the batch, under flash attention for a batch of one pack.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from llava.constants import IGNORE_INDEX
from llava.model.splice import Batch, TextRow


def plan_packs(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Share rows among packs of at most `capacity` tokens: the longest first, each into the first pack with room.

    Args:
        lengths: tokens of each row.
        capacity: of a pack; a longer row has a pack of its own.

    Returns:
        the row numbers of every pack, ascending.

    >>> plan_packs([5, 3, 2, 4], 6)
    [[0], [2, 3], [1]]
    """
    packs: list[list[int]] = []
    room: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        place = next((pack for pack, free in enumerate(room) if free >= lengths[row]), None)
        if place is None:
            packs.append([row])
            room.append(capacity - lengths[row])
        else:
            packs[place].append(row)
            room[place] -= lengths[row]
    return [sorted(pack) for pack in packs]


def pack_rows(rows: Sequence[TextRow], capacity: int) -> Batch:
    """Rows as packs. -> Batch of [P, L, ...]; its mask is true at real tokens, for reading only.

    The label of every row's first token becomes IGNORE_INDEX: nothing in its own row comes before it. Padding at the
    end of a pack counts its positions from 0 as well, so that no row sees it.
    """
    packs = plan_packs([len(row.labels) for row in rows], capacity)
    longest = max(sum(len(rows[row].labels) for row in pack) for pack in packs)
    device = rows[0].embeds.device
    embeds, labels, masks, positions = [], [], [], []
    for pack in packs:
        members = [rows[row] for row in pack]
        sizes = [len(member.labels) for member in members]
        rest = longest - sum(sizes)
        blank = members[0].embeds.new_zeros(rest, members[0].embeds.shape[-1])
        embeds.append(torch.cat([*(member.embeds for member in members), blank]))
        labels.append(torch.cat([*(_headless(member.labels) for member in members), _ignored(members[0].labels, rest)]))
        masks.append(torch.arange(longest, device=device) < sum(sizes))
        positions.append(torch.cat([torch.arange(size, device=device) for size in (*sizes, rest)]))
    return Batch(torch.stack(embeds), torch.stack(labels), torch.stack(masks), torch.stack(positions))


def _headless(labels: Tensor) -> Tensor:
    return torch.cat([_ignored(labels, min(1, len(labels))), labels[1:]])


def _ignored(like: Tensor, count: int) -> Tensor:
    return like.new_full((count,), IGNORE_INDEX)
