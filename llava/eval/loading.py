"""A checkpoint, loaded for evaluation."""

import os
from dataclasses import dataclass
from typing import Any

import torch

from llava.mm_utils import get_model_name_from_path
from llava.model.builder import load_pretrained_model


@dataclass(frozen=True)
class Loaded:
    """A checkpoint ready to answer."""

    model: Any
    tokenizer: Any
    image_processor: Any
    name: str


def load_model(model_path: str, model_base: str | None = None, device: str | None = None, **options: Any) -> Loaded:
    """Load a checkpoint for evaluation: on the given device, else on this rank's GPU, else on the CPU.

    Raises:
        ValueError: as `load_pretrained_model`; or a checkpoint without images.
    """
    name = get_model_name_from_path(model_path)
    if device is None:
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    tokenizer, model, image_processor, _ = load_pretrained_model(
        model_path, model_base, name, device_map={"": device}, device=device, **options
    )
    if image_processor is None:
        raise ValueError(f"{model_path} is no LLaVA checkpoint: its config names no vision tower")
    return Loaded(model.eval(), tokenizer, image_processor, name)
