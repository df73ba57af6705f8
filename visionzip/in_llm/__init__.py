"""Methods that drop visual tokens inside the language model, one file each. They need transformers and Llama's kin."""

from visionzip.in_llm.fastv import FastV, keep_for_mean
from visionzip.in_llm.generate import generate
from visionzip.in_llm.sparsevlm import SCHEDULES, SparseVLM, schedule
from visionzip.in_llm.tokens import Pruner
from visionzip.in_llm.walk import Prefilled, cache_bytes, fits, prefill, step

__all__ = [
    "SCHEDULES",
    "FastV",
    "Prefilled",
    "Pruner",
    "SparseVLM",
    "cache_bytes",
    "fits",
    "generate",
    "keep_for_mean",
    "prefill",
    "schedule",
    "step",
]
