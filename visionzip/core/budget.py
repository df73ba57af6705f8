"""Token budgets of the paper. A CLS token counts as one of the dominant tokens; every budget is per tile."""

from __future__ import annotations

from dataclasses import dataclass


def check_count(name: str, value: object, minimum: int = 1) -> None:
    """Raises: ValueError unless `value` is a plain int (no bool, no float) of at least `minimum`."""
    if type(value) is not int or value < minimum:
        raise ValueError(
            f"{name} must be a whole number >= {minimum}, got {value!r}; pass an int such as {name}={max(minimum, 10)}"
        )


@dataclass(frozen=True)
class Budget:
    """`dominant` tokens kept as they are (CLS is one of them, if there is one) and `contextual` merged ones, per tile.

    >>> Budget(54, 10).total
    64

    Raises: ValueError when a number is not an int >= 1.
    """

    dominant: int
    contextual: int

    def __post_init__(self) -> None:
        check_count("dominant", self.dominant)
        check_count("contextual", self.contextual)

    @property
    def total(self) -> int:
        """K: rows a compressed tile has."""
        return self.dominant + self.contextual

    def check_fits(self, num_patches: int, has_cls: bool = True) -> None:
        """Raises: ValueError when a tile of `num_patches` patches, and CLS, has fewer rows than this budget needs."""
        rows = num_patches + int(has_cls)
        if self.total <= rows:
            return
        advice = f"lower them to {rows} together or less"
        if self.dominant % 5 == 0 and self.contextual % 5 == 0 and self.total // 5 <= rows:
            each = f"dominant={self.dominant // 5}, contextual={self.contextual // 5}"
            advice = f"pass {each} if these are the numbers of 5 tiles"
        left = max(0, rows - self.dominant)
        held = f"CLS + {num_patches} patches" if has_cls else f"{num_patches} patches, no CLS"
        raise ValueError(
            f"dominant={self.dominant} + contextual={self.contextual} = {self.total} tokens do not fit: a tile of this "
            f"tower has {rows} rows ({held}), so {self.dominant} dominant leave {left} rows for "
            f"{self.contextual} contextual. Budgets are per tile (LLaVA-NeXT's 640 tokens are 5 tiles of 108 + 20): "
            f"{advice}"
        )


# Source: VisionZip (2412.04467), the settings of its LLaVA-1.5 and LLaVA-NeXT tables; "next-*" is one of five tiles.
BUDGETS: dict[str, Budget] = {
    "64": Budget(54, 10),
    "128": Budget(108, 20),
    "192": Budget(162, 30),
    "next-160": Budget(27, 5),
    "next-320": Budget(54, 10),
    "next-640": Budget(108, 20),
}


def named_budget(name: str) -> Budget:
    """One of the paper's budgets by name. Raises: ValueError listing the names.

    >>> named_budget("next-160")
    Budget(dominant=27, contextual=5)
    """
    if name not in BUDGETS:
        raise ValueError(
            f"unknown budget {name!r}; known: {', '.join(BUDGETS)} (next-* are per tile), or use budget_for(total)"
        )
    return BUDGETS[name]


def budget_for(total: int) -> Budget:
    """Split `total` tokens per tile by the paper's 54 : 10; at least one is contextual. Raises: ValueError below 2.

    >>> [budget_for(n) for n in (64, 48, 16)]
    [Budget(dominant=54, contextual=10), Budget(dominant=40, contextual=8), Budget(dominant=14, contextual=2)]
    """
    check_count("total", total, minimum=2)
    contextual = max(1, round(total * 10 / 64))
    return Budget(total - contextual, contextual)
