"""The algorithm itself: torch and the standard library, no model, no host."""

from visionzip.core.budget import BUDGETS, Budget, budget_for, named_budget
from visionzip.core.compressor import VisionZip
from visionzip.core.types import Compressor, VisionEvidence, VisionTokens

__all__ = [
    "BUDGETS",
    "Budget",
    "Compressor",
    "VisionEvidence",
    "VisionTokens",
    "VisionZip",
    "budget_for",
    "named_budget",
]
