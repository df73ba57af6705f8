"""Random, uniform and pool: what they have in common, then each by itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.visionzip.hosts import evidence
from visionzip import Compressor, VisionEvidence
from visionzip.methods import Pool, Random, Uniform
from visionzip.methods.pool import cells

CONTROLS = [Random(6), Uniform(6), Pool(6)]
PICKERS = [Random(6), Uniform(6)]


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("has_cls", [True, False])
def test_budget_shape_and_dtype(control: Compressor, has_cls: bool) -> None:
    seen = evidence(tiles=3, dtype=torch.bfloat16, has_cls=has_cls)
    tokens = control(seen)
    assert isinstance(control, Compressor)
    assert control.tokens_per_tile(16) == 6
    assert tokens.features.shape == (3, 6, 8) and tokens.features.dtype == torch.bfloat16
    assert not tokens.has_cls


@pytest.mark.parametrize("control", CONTROLS)
def test_repeatable_and_independent_of_the_batch(control: Compressor) -> None:
    seen = evidence(tiles=3)
    together = control(seen)
    torch.manual_seed(1)
    assert torch.equal(control(seen).features, together.features)
    alone = control(VisionEvidence(seen.hidden[1:2], seen.query[1:2], seen.keys[1:2]))
    assert torch.equal(alone.features, together.features[1:2])
    assert torch.equal(alone.positions, together.positions[1:2])


@pytest.mark.parametrize("control", PICKERS)
@pytest.mark.parametrize("has_cls", [True, False])
def test_picked_patches_are_rows_of_hidden_at_ascending_positions(control: Compressor, has_cls: bool) -> None:
    seen = evidence(has_cls=has_cls)
    tokens = control(seen)
    assert (tokens.positions.diff(dim=-1) > 0).all()
    assert tokens.positions.min() >= 0 and tokens.positions.max() < 16
    for tile in range(2):
        assert torch.equal(tokens.features[tile], seen.hidden[tile, tokens.positions[tile] + int(has_cls)])


@pytest.mark.parametrize("control", CONTROLS)
def test_gradient_flows(control: Compressor) -> None:
    seen = evidence()
    seen.hidden.requires_grad_()
    control(seen).features.sum().backward()
    assert seen.hidden.grad is not None and seen.hidden.grad.abs().sum() > 0
    assert (seen.hidden.grad[:, 0] == 0).all()  # CLS is not used


@pytest.mark.parametrize("control", [Random(64), Uniform(64), Pool(64)])
def test_all_patches_can_be_kept_and_no_more(control: Any) -> None:
    seen = evidence(patches=64)
    torch.testing.assert_close(control(seen).features, seen.hidden[:, 1:])
    with pytest.raises(ValueError, match=r"64"):
        control.tokens_per_tile(49)
    with pytest.raises(ValueError, match=r"64"):
        control(evidence(patches=49))


@pytest.mark.parametrize("cls", [Random, Uniform, Pool])
@pytest.mark.parametrize("tokens", [0, -1, True, 6.0])
def test_numbers_that_are_no_counts(cls: Any, tokens: Any) -> None:
    with pytest.raises(ValueError, match="tokens must be a whole number >= 1, got"):
        cls(tokens)


@pytest.mark.parametrize("control", CONTROLS)
def test_compiles(control: Compressor) -> None:
    seen = evidence(tiles=2)
    got = torch.compile(lambda x: control(x).features, backend="eager")(seen)
    assert torch.equal(got, control(seen).features)


def test_random_seeds_differ_and_tiles_share_the_draw() -> None:
    seen = evidence(tiles=3, patches=144)
    draws = {tuple(Random(16, seed)(seen).positions[0].tolist()) for seed in range(10)}
    assert len(draws) == 10
    positions = Random(16)(seen).positions
    assert (positions == positions[0]).all()


def test_random_leaves_the_global_streams_alone() -> None:
    before = torch.get_rng_state()
    Random(16)(evidence(patches=144))
    assert torch.equal(torch.get_rng_state(), before)


def test_random_is_the_same_everywhere() -> None:
    assert Random(4, seed=0)(evidence()).positions[0].tolist() == [0, 6, 12, 15]


def test_random_refuses_a_negative_seed() -> None:
    with pytest.raises(ValueError, match="seed must be a whole number >= 0, got -1"):
        Random(4, seed=-1)


def test_uniform_is_even() -> None:
    assert Uniform(4)(evidence()).positions[0].tolist() == [2, 6, 10, 14]
    gaps = Uniform(64)(evidence(tiles=1, patches=576)).positions.diff(dim=-1)
    assert (gaps == 9).all()
    gaps = Uniform(100)(evidence(tiles=1, patches=576)).positions.diff(dim=-1)
    assert gaps.min() == 5 and gaps.max() == 6


def test_pool_averages_the_cells_of_the_grid() -> None:
    seen = evidence()
    tokens = Pool(8)(seen)  # 2 x 4 cells of 2 x 1 patches on the 4 x 4 grid
    patches = seen.hidden[:, 1:]
    torch.testing.assert_close(tokens.features[:, 0], (patches[:, 0] + patches[:, 4]) / 2)
    torch.testing.assert_close(tokens.features[:, 7], (patches[:, 11] + patches[:, 15]) / 2)
    assert (tokens.positions == -1).all()


def test_pool_takes_the_factors_closest_to_a_square() -> None:
    assert [cells(n) for n in (16, 32, 48, 64, 128, 192, 221, 7)] == [
        (4, 4), (4, 8), (6, 8), (8, 8), (8, 16), (12, 16), (13, 17), (1, 7),
    ]  # fmt: skip


def test_pool_refuses_a_number_finer_than_the_grid() -> None:
    with pytest.raises(ValueError, match="tokens=61 makes 1 x 61 cells, finer than the 24 x 24 patch grid"):
        Pool(61).tokens_per_tile(576)
