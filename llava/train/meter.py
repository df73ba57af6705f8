"""What a training log says beside the loss: how fast, how much of it pictures, how much memory, how long still.

samples_per_second          rows, over all processes, since the last log line
tokens_per_second           what the language model read of them, text and visual tokens, padding left out
visual_tokens_per_sample    tokens of the tower (after compression) per row of this process
peak_memory_gb              most this process took so far (1e9 bytes): on its GPU, else of main memory
minutes_left                to the last step, at the mean pace of this start of the run
"""

import resource
import sys
import time
from typing import Any

import torch
from torch import Tensor

from llava.constants import IMAGE_TOKEN_INDEX


class Meter:
    """Counts the batches of this process between two log lines."""

    def __init__(self) -> None:
        self.first: tuple[float, int] | None = None  # time and step of the first batch of this start
        self.since = 0.0
        self._reset()

    def _reset(self) -> None:
        self.samples = self.tokens = self.visual_tokens = 0

    def add(self, inputs: dict[str, Any], tokens_per_tile: int, step: int = 0) -> None:
        """Count a batch before its step; `step` optimizer steps are done by then."""
        if self.first is None:
            self.since = time.perf_counter()
            self.first = self.since, step
        ids: Tensor = inputs["input_ids"]
        placeholders = int((ids == IMAGE_TOKEN_INDEX).sum())
        visual = tokens_per_tile * _shown_tiles(inputs.get("images"), placeholders)
        mask: Tensor | None = inputs.get("attention_mask")
        self.samples += len(ids)
        self.visual_tokens += visual
        self.tokens += visual + (ids.numel() if mask is None else int(mask.sum())) - placeholders

    def read(self, processes: int, step: int, last_step: int, device: torch.device) -> dict[str, float]:
        """Rates over all processes after `step` of `last_step` steps, and start anew."""
        now = time.perf_counter()
        seconds = max(now - self.since, 1e-9)
        rates = {
            "samples_per_second": round(self.samples * processes / seconds, 3),
            "tokens_per_second": round(self.tokens * processes / seconds, 1),
            "visual_tokens_per_sample": round(self.visual_tokens / max(self.samples, 1), 1),
            "peak_memory_gb": round(peak_memory(device) / 1e9, 3),
        }
        if self.first is not None and step > self.first[1]:
            pace = (now - self.first[0]) / (step - self.first[1])
            rates["minutes_left"] = round(pace * (last_step - step) / 60, 1)
        self.since = now
        self._reset()
        return rates


def _shown_tiles(images: Any, placeholders: int) -> int:
    """Tiles of a batch the language model sees: text-only rows own one zero tile each, which it does not."""
    if images is None:
        return 0
    if isinstance(images, Tensor):
        return placeholders
    if isinstance(images, dict):
        counts = images["tiles"].tolist()
    else:
        counts = [len(image) if image.dim() == 4 else 1 for image in images]
    return int(sum(counts) - (len(counts) - placeholders))


def peak_memory(device: torch.device) -> int:
    """Bytes this process took at most so far: on its GPU as torch allocated them, else resident in main memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes there and KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
