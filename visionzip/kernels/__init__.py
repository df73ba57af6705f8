"""Computations that need care to stay small: attention received, in O(N) memory (torch, and Triton on a GPU)."""

from visionzip.kernels.received import received_attention

__all__ = ["received_attention"]
