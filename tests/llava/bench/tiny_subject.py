"""A model of a public shape at a size that takes no time, as configs/bench/tiny.yaml builds it."""

from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml

from llava.bench.setup import Subject, from_shape

SUITE = Path(__file__).resolve().parents[3] / "configs" / "bench" / "tiny.yaml"


@cache
def entry(name: str = "tiny-next") -> dict[str, Any]:
    """An entry of the tiny suite."""
    found: dict[str, Any] = next(
        each for each in yaml.safe_load(SUITE.read_text("utf-8"))["subjects"] if each["name"] == name
    )
    return found


def tiny_subject(shape: str = "liuhaotian/llava-v1.6-vicuna-7b", **options: Any) -> Subject:
    """Random weights, five tiles of 64 patches, 18 decoder layers."""
    given = entry()
    return from_shape(shape, "cpu", torch.float32, sizes=given["sizes"], tower=given["tower"], **options)
