"""The encoder alone: what VisionZip costs beside the blocks that must run, and what it saves beside other ways.

blocks        embeddings and the blocks up to the selected one, nothing else: the floor
hugging face  transformers' own model under sdpa, all blocks, hidden states kept, as LLaVA reads them
dense         this repository's tower without compression
visionzip     the same with VisionZip
official      VisionZip in the official style: eager maps of all layers
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from llava.bench.clock import Runs, alternate, ratios, summarize
from llava.bench.footprint import peak_bytes
from llava.bench.official_style import OfficialStyle, copy_of
from llava.bench.setup import Subject
from visionzip import VisionZip, attach, detach

BASE = "blocks"
NAMES = (BASE, "hugging face", "dense", "visionzip", "official")


def encoders(subject: Subject, pixels: Tensor, zipper: VisionZip) -> dict[str, Callable[[], Any]]:
    """One program for each of NAMES over pixels [T, 3, S, S]."""
    model = subject.model
    tower = model.get_vision_tower()
    body = tower.vision_tower.vision_model
    plain, official = copy_of(body, "sdpa"), OfficialStyle(tower, zipper)

    def blocks() -> Tensor:
        hidden: Tensor = body.pre_layrnorm(body.embeddings(pixels))
        for block in body.encoder.layers[: tower.depth]:
            hidden = block(hidden, None)
        return hidden

    def dense() -> Any:
        detach(model)
        return tower.encode(pixels)

    def zipped() -> Any:
        attach(model, zipper)
        return tower.encode(pixels)

    programs: tuple[Callable[[], Any], ...] = (
        blocks,
        lambda: plain(pixels, output_hidden_states=True).hidden_states[tower.select_layer][:, 1:],
        dense,
        zipped,
        lambda: official(pixels),
    )
    return {name: torch.inference_mode()(program) for name, program in zip(NAMES, programs, strict=True)}


def measure(
    subject: Subject, zipper: VisionZip, tiles: Sequence[int], rounds: int, report: Callable[[str], None]
) -> list[dict[str, Any]]:
    """A row per number of tiles and way to encode: seconds by stage, ratio to the floor, peak bytes of activations.

    Raises: ValueError when there is no number of tiles, or one below 1.
    """
    if not tiles or min(tiles) < 1:
        raise ValueError(f"tiles: expected at least one number, each 1 or more, got {list(tiles)}; give e.g. 1,5")
    rows = []
    tower = subject.model.get_vision_tower()
    for count in tiles:
        noise = torch.Generator().manual_seed(count)
        side = tower.image_size
        pixels = torch.randn(count, 3, side, side, generator=noise).to(tower.device, tower.dtype)
        programs = encoders(subject, pixels, zipper)
        times, peaks = _times_and_peaks(programs, tower.device, rounds)
        report(f"encode: {count} tiles")
        for name in programs:
            rows.append({
                "way": name,
                "tiles": count,
                "seconds": summarize(times[name]),
                "times_the_blocks": ratios(times[name], times[BASE]),
                "times_official": ratios(times[name], times["official"]),
                "peak_bytes": peaks[name],
            })
    detach(subject.model)
    return rows


def _times_and_peaks(
    programs: Runs, device: torch.device, rounds: int
) -> tuple[dict[str, list[dict[str, float]]], dict[str, int]]:
    """On a CPU a run takes seconds, so the one whose bytes are counted is the warm-up too."""

    def peaks() -> dict[str, int]:
        return {name: peak_bytes(program, device) for name, program in programs.items()}

    if device.type == "cpu":
        counted = peaks()
        return alternate(programs, device, rounds=rounds, warmup=0), counted
    return alternate(programs, device, rounds=rounds), peaks()
