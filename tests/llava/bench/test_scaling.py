"""The exponent of known laws, and of noise around one."""

import numpy as np
import pytest

from llava.bench.scaling import fit_exponent


@pytest.mark.parametrize("power", [-1.0, 0.5, 1.0, 2.0])
def test_a_power_law_is_found_exactly(power: float) -> None:
    sizes = [1, 3, 5, 20]
    assert fit_exponent(sizes, [7 * size**power for size in sizes]) == (power, 1.0)


def test_noise_agrees_with_numpy() -> None:
    draw = np.random.default_rng(0)
    sizes = np.arange(1, 9)
    seconds = 2 * sizes**1.4 * np.exp(draw.normal(0, 0.2, len(sizes)))
    exponent, r2 = fit_exponent(sizes.tolist(), seconds.tolist())
    slope, offset = np.polyfit(np.log(sizes), np.log(seconds), 1)
    left = np.log(seconds) - slope * np.log(sizes) - offset
    assert exponent == pytest.approx(slope, abs=1e-4)
    assert r2 == pytest.approx(1 - left.var() / np.log(seconds).var(), abs=1e-4)
    assert 0.8 < r2 < 1


def test_a_fixed_cost_bends_the_line() -> None:
    exponent, r2 = fit_exponent([1, 10, 100], [101, 110, 200])
    assert 0 < exponent < 0.2 and r2 < 0.9


def test_constant_cost() -> None:
    assert fit_exponent([1, 2, 3], [5.0, 5.0, 5.0]) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("sizes", "seconds", "message"),
    [
        ([1], [1], "two different sizes"),
        ([2, 2], [1, 3], "two different sizes"),
        ([1, 2], [1], "one time per size"),
        ([1, 2], [0, 1], "must be positive"),
        ([-1, 2], [1, 1], "must be positive"),
    ],
)
def test_refusals(sizes: list[float], seconds: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_exponent(sizes, seconds)
