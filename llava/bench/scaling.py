"""How cost grows with size: the exponent of a power law through measured points."""

import math
from collections.abc import Sequence
from statistics import correlation, linear_regression


def fit_exponent(sizes: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """(p, r2) of seconds = c * sizes^p, by least squares on the logarithms. 1 is linear, 2 quadratic.

    r2 is the share of the logarithms' variance the line explains: a low one says that no single power fits. Where all
    seconds are equal, p is 0 and r2 is 1.

    Raises: ValueError for fewer than two different sizes, lengths that differ, or values that are not positive.

    >>> fit_exponent([1, 2, 4], [3.0, 12.0, 48.0])
    (2.0, 1.0)
    """
    if len(sizes) != len(seconds) or len(set(sizes)) < 2:
        raise ValueError(
            f"an exponent needs one time per size and two different sizes, got {list(sizes)} and {list(seconds)}"
        )
    if min(*sizes, *seconds) <= 0:
        raise ValueError(f"sizes and seconds must be positive, got {list(sizes)} and {list(seconds)}")
    across, up = [math.log(size) for size in sizes], [math.log(value) for value in seconds]
    if len(set(seconds)) == 1:
        return 0.0, 1.0
    return round(linear_regression(across, up).slope, 4), round(correlation(across, up) ** 2, 4)
