"""Sampling order that keeps one optimizer step's rows alike: one modality, processes evenly loaded.

`group_by_modality_length` of LLaVA: a text-only row needs no image tokens and an image row needs hundreds, so mixing
them in one step wastes padding and leaves processes waiting. A mega-batch is what one optimizer step eats: all
processes, all accumulation steps. Each is drawn from one modality, then dealt to its chunks (one per process and
accumulation step) so that the summed lengths are near equal. What does not fill a mega-batch comes last, mixed.

Every draw comes from a generator seeded by (seed, epoch): a resumed run sees the same order.
"""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler


def balanced_chunks(indices: Sequence[int], lengths: Sequence[int], num_chunks: int) -> list[list[int]]:
    """Deal `indices` to `num_chunks` chunks of equal size with near-equal summed length.

    Longest first, each to the lightest chunk with room. If the sizes cannot be equal, the first chunks hold one more.
    """
    base, extra = divmod(len(indices), num_chunks)
    room = [base + (number < extra) for number in range(num_chunks)]
    chunks: list[list[int]] = [[] for _ in range(num_chunks)]
    loads = [0] * num_chunks
    for index in sorted(indices, key=lambda index: -lengths[index]):
        open_chunks = (number for number in range(num_chunks) if len(chunks[number]) < room[number])
        lightest = min(open_chunks, key=lambda number: loads[number])
        chunks[lightest].append(index)
        loads[lightest] += lengths[index]
    return chunks


def modality_grouped_order(
    lengths: Sequence[int], has_image: Sequence[bool], batch_size: int, num_chunks: int, generator: torch.Generator
) -> list[int]:
    """A permutation of all rows, mega-batch by mega-batch, each of one modality except the mixed rest at the end.

    Args:
        lengths: length of each row, any unit.
        has_image: modality of each row.
        batch_size: rows per process and accumulation step.
        num_chunks: processes times accumulation steps.
        generator: the only source of randomness.
    """
    size = batch_size * num_chunks
    megabatches: list[list[int]] = []
    rest: list[int] = []
    for modality in (True, False):
        members = [index for index, flag in enumerate(has_image) if flag is modality]
        shuffled = [members[position] for position in torch.randperm(len(members), generator=generator).tolist()]
        whole = len(shuffled) - len(shuffled) % size
        megabatches += [shuffled[start : start + size] for start in range(0, whole, size)]
        rest += shuffled[whole:]
    order = [megabatches[position] for position in torch.randperm(len(megabatches), generator=generator).tolist()]
    order += [rest[start : start + size] for start in range(0, len(rest), size)]
    return [index for batch in order for chunk in balanced_chunks(batch, lengths, num_chunks) for index in chunk]


class ModalityLengthSampler(Sampler[int]):
    """Yields `modality_grouped_order`, a new one for every epoch (`set_epoch` is called by the training loop)."""

    def __init__(
        self, lengths: Sequence[int], has_image: Sequence[bool], batch_size: int, num_chunks: int, seed: int
    ) -> None:
        if len(lengths) != len(has_image):
            raise ValueError(f"got {len(lengths)} lengths but {len(has_image)} modality flags; one of each per row")
        if batch_size < 1 or num_chunks < 1:
            raise ValueError(f"batch_size and num_chunks must be at least 1, got {batch_size} and {num_chunks}")
        self.lengths = lengths
        self.has_image = has_image
        self.batch_size = batch_size
        self.num_chunks = num_chunks
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        # The multiplier keeps (seed, epoch) pairs apart: seed 1 epoch 0 is not seed 0 epoch 1.
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        return iter(modality_grouped_order(self.lengths, self.has_image, self.batch_size, self.num_chunks, generator))
