"""How cost grows: seconds against tiles, visual tokens and batch, each with the exponent of the power law that fits."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from llava.bench.clock import Runs, alternate, summarize
from llava.bench.scaling import fit_exponent
from llava.bench.setup import SYSTEM, Subject
from visionzip import VisionZip, attach, budget_for, detach

BUDGET = 64


def measure(
    subject: Subject,
    *,
    tiles: Sequence[int] = (1, 2, 4, 8),
    tokens: Sequence[int] = (64, 128, 256, 512, 1024, 2048),
    batch: Sequence[int] = (1, 2, 4, 8),
    rounds: int = 5,
    report: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Three curves: zipped encode against tiles, prefill against prompt tokens, and zipped encode plus prefill against
    batch (one tile a row)."""
    model = subject.model
    zipper = VisionZip(budget_for(BUDGET).dominant, budget_for(BUDGET).contextual)
    attach(model, zipper)
    side, width = model.get_vision_tower().image_size, subject.shape.width
    made = {"device": subject.device, "dtype": model.dtype}

    def encode(count: int) -> Callable[[], Any]:
        pixels = torch.randn(count, 3, side, side, **made)
        return torch.inference_mode()(lambda: model.encode_images(pixels))

    def prefill(count: int, rows: int = 1) -> Callable[[], Any]:
        embeds = torch.randn(rows, count, width, **made)
        return torch.inference_mode()(lambda: model(inputs_embeds=embeds, use_cache=True, logits_to_keep=1))

    def both(rows: int) -> Callable[[], Any]:
        first, then = encode(rows), prefill(SYSTEM + BUDGET, rows)
        return lambda: (first(), then())

    curves = (
        ("tiles", "encode", tiles, encode),
        ("tokens", "prefill", tokens, prefill),
        ("batch", "both", batch, both),
    )
    found = [_curve(subject, over, what, sizes, make, rounds, report) for over, what, sizes, make in curves]
    detach(model)
    return found


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
