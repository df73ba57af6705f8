"""How cost grows: seconds against tiles, patches of a tile, prompt tokens and batch, each with the exponent of the
power law that fits."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from llava.bench.clock import Runs, alternate, summarize
from llava.bench.scaling import fit_exponent
from llava.bench.setup import SYSTEM, Subject
from visionzip import VisionZip, attach, budget_for, detach

BUDGET = 64


class AnySide(VisionZip):
    """VisionZip over tiles of a size other than the tower's own, which then interpolates its position embeddings. What
    the tokens mean is of no matter here."""

    def resize(self, pixels: Tensor, patch_size: int) -> Tensor:
        """As they are (see `visionzip.core.types.Resizer`)."""
        return pixels


def measure(
    subject: Subject,
    *,
    tiles: Sequence[int] = (1, 2, 4, 8),
    patches: Sequence[int] = (144, 256, 576, 1024, 2304),
    tokens: Sequence[int] = (64, 128, 256, 512, 1024, 2048),
    batch: Sequence[int] = (1, 2, 4, 8),
    rounds: int = 5,
    report: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Four curves: zipped encode against tiles and against the patches of one tile, prefill against prompt tokens, and
    zipped encode plus prefill against batch (one tile a row).

    Raises: ValueError for patches that make no square, or are too few for the budget.
    """
    _check_patches(patches)
    model, split = subject.model, (budget_for(BUDGET).dominant, budget_for(BUDGET).contextual)
    tower, width = model.get_vision_tower(), subject.shape.width
    side, patch = tower.image_size, tower.image_size // tower.num_patches_per_side
    made = {"device": subject.device, "dtype": model.dtype}

    def encode_by(zipper: VisionZip, pixels: Tensor) -> Callable[[], Any]:
        @torch.inference_mode()
        def run() -> Any:
            attach(model, zipper)
            return model.encode_images(pixels)

        return run

    def encode(count: int) -> Callable[[], Any]:
        return encode_by(VisionZip(*split), torch.randn(count, 3, side, side, **made))

    def encode_patches(count: int) -> Callable[[], Any]:
        edge = math.isqrt(count) * patch
        return encode_by(AnySide(*split), torch.randn(1, 3, edge, edge, **made))

    def prefill(count: int, rows: int = 1) -> Callable[[], Any]:
        embeds = torch.randn(rows, count, width, **made)
        return torch.inference_mode()(lambda: model(inputs_embeds=embeds, use_cache=True, logits_to_keep=1))

    def both(rows: int) -> Callable[[], Any]:
        first, then = encode(rows), prefill(SYSTEM + BUDGET, rows)
        return lambda: (first(), then())

    curves = (
        ("tiles", "encode", tiles, encode),
        ("patches", "encode", patches, encode_patches),
        ("tokens", "prefill", tokens, prefill),
        ("batch", "both", batch, both),
    )
    found = [_curve(subject, over, what, sizes, make, rounds, report) for over, what, sizes, make in curves]
    detach(model)
    return found


def _check_patches(patches: Sequence[int]) -> None:
    for count in patches:
        if math.isqrt(count) ** 2 != count or count < BUDGET:
            raise ValueError(f"patches: {count} make no square grid of at least {BUDGET}; expected e.g. 144, 576, 2304")


def _curve(
    subject: Subject,
    over: str,
    what: str,
    sizes: Sequence[int],
    make: Callable[[int], Callable[[], Any]],
    rounds: int,
    report: Callable[[str], None],
) -> dict[str, Any]:
    runs: Runs = {str(size): make(size) for size in sizes}
    times = alternate(runs, subject.device, rounds=rounds)
    seconds = [summarize(times[str(size)])["total"] for size in sizes]
    exponent, fit = fit_exponent(list(sizes), [value["median"] for value in seconds])
    report(f"{what} against {over}: exponent {exponent:.2f}")
    return {
        "over": over,
        "of": what,
        "sizes": list(sizes),
        "seconds": seconds,
        "exponent": round(exponent, 3),
        "r2": round(fit, 4),
    }
