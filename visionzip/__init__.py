"""VisionZip: fewer, better visual tokens, chosen in the vision encoder (arXiv 2412.04467).

from visionzip import visionzip, detach
model = visionzip(model, dominant=54, contextual=10)   # this instance only
model = detach(model)
"""

from visionzip.adapters import Order
from visionzip.attach import attach, detach, visionzip
from visionzip.core import (
    BUDGETS,
    Budget,
    Compressor,
    VisionEvidence,
    VisionTokens,
    VisionZip,
    budget_for,
    named_budget,
)
from visionzip.registry import METHODS, from_config
from visionzip.taps import QKTap

__all__ = [
    "BUDGETS",
    "METHODS",
    "Budget",
    "Compressor",
    "Order",
    "QKTap",
    "VisionEvidence",
    "VisionTokens",
    "VisionZip",
    "attach",
    "budget_for",
    "detach",
    "from_config",
    "named_budget",
    "visionzip",
]
