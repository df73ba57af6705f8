"""From the host to a device without waiting for the work queued there."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`. From the CPU to a CUDA device it goes through pinned memory and the call returns at once;
    a plain copy would wait until the device has done all it was told before. Elsewhere the tensor stays where it is:
    modules spread or offloaded by accelerate fetch their own inputs.
    """
    if tensor.device.type == "cpu" and device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor
