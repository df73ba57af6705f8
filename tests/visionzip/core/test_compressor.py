from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.visionzip.hosts import evidence
from tests.visionzip.reference import zip_tiles
from visionzip import VisionEvidence, VisionTokens, VisionZip
from visionzip.core.scores import patch_scores


def doubled(seen: VisionEvidence) -> VisionEvidence:
    return VisionEvidence(seen.hidden.double(), seen.query.double(), seen.keys.double(), seen.has_cls)


@settings(deadline=None, max_examples=120)
@given(data=st.data(), seed=st.integers(0, 2**31), patches=st.integers(1, 30), tiles=st.integers(1, 3))
def test_equal_to_the_loops_on_random_shapes(data: st.DataObject, seed: int, patches: int, tiles: int) -> None:
    heads, head_width, width = (data.draw(st.integers(1, 4)) for _ in range(3))
    average, has_cls = data.draw(st.booleans()), data.draw(st.booleans()) or patches == 1
    contextual = data.draw(st.integers(1, patches - 1 + has_cls))
    dominant = data.draw(st.integers(1, patches + has_cls - contextual))
    seen = evidence(tiles, patches, width, heads, head_width, seed=seed, dtype=torch.float64, has_cls=has_cls)
    got = VisionZip(dominant, contextual, "average" if average else "official")(seen)
    expected = zip_tiles(seen.hidden, seen.query, seen.keys, dominant, contextual, average, has_cls)
    assert got.has_cls == has_cls
    assert got.positions.tolist() == [tile.positions for tile in expected]
    rows = torch.tensor([tile.rows for tile in expected], dtype=torch.float64)
    torch.testing.assert_close(got.features, rows, rtol=1e-9, atol=1e-12)


def test_the_order_of_tokens() -> None:
    seen = evidence(tiles=3)
    tokens = VisionZip(5, 3)(seen)
    assert tokens.has_cls
    assert torch.equal(tokens.features[:, 0], seen.hidden[:, 0])
    patches = tokens.positions[:, 1:5]
    assert (tokens.positions[:, 0] == -1).all() and (tokens.positions[:, 5:] == -1).all()
    assert (patches.diff(dim=-1) > 0).all()
    for tile in range(3):
        assert torch.equal(tokens.features[tile, 1:5], seen.hidden[tile, 1 + patches[tile]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_features_keep_the_models_dtype_and_selection_is_made_in_float32(dtype: torch.dtype) -> None:
    seen = evidence(tiles=4, patches=144, width=16, dtype=dtype)
    tokens = VisionZip(14, 4)(seen)
    precise = VisionZip(14, 4)(doubled(seen))
    assert tokens.features.dtype == dtype
    assert torch.equal(tokens.positions, precise.positions)
    tolerance = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}[dtype]
    torch.testing.assert_close(tokens.features.double(), precise.features, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_nothing(dtype: torch.dtype) -> None:
    seen = evidence(tiles=4, patches=144, width=16, dtype=dtype)
    plain = VisionZip(14, 4)(seen)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = VisionZip(14, 4)(seen)
    assert cast.features.dtype == dtype
    assert torch.equal(cast.features, plain.features)
    assert torch.equal(cast.positions, plain.positions)


def test_a_tile_does_not_depend_on_its_batch() -> None:
    seen = evidence(tiles=4, patches=36)
    together = VisionZip(9, 3)(seen)
    for tile in range(4):
        one = slice(tile, tile + 1)
        alone = VisionZip(9, 3)(VisionEvidence(seen.hidden[one], seen.query[one], seen.keys[one]))
        assert torch.equal(alone.positions, together.positions[one])
        torch.testing.assert_close(alone.features, together.features[one], rtol=1e-6, atol=1e-6)


def test_no_tiles_give_no_tiles() -> None:
    tokens = VisionZip(5, 3)(evidence(tiles=0))
    assert tokens.features.shape == (0, 8, 8)


def test_dominant_one_keeps_cls_alone_and_a_full_budget_merges_nothing() -> None:
    seen = evidence()
    assert (VisionZip(1, 3)(seen).positions == -1).all()
    tokens = VisionZip(14, 3)(seen)
    rows = tokens.features[0].tolist()
    assert sorted(rows) == sorted(seen.hidden[0].tolist())


def test_gradient_reaches_every_row_of_hidden_and_nothing_else() -> None:
    seen = evidence(dtype=torch.float64)
    hidden, query = seen.hidden.requires_grad_(), seen.query.requires_grad_()
    tokens = VisionZip(5, 3)(VisionEvidence(hidden, query, seen.keys))
    tokens.features.sum().backward()
    assert (hidden.grad != 0).all()
    assert query.grad is None
    compress = VisionZip(5, 3)
    assert torch.autograd.gradcheck(lambda h: compress(VisionEvidence(h, query, seen.keys)).features, (hidden,))


def test_no_step_reads_a_value_on_the_host() -> None:
    """Fake tensors have no values: .item(), boolean indexing and nonzero raise on them, as they would stall a GPU."""
    with FakeTensorMode(allow_non_fake_inputs=False):
        hidden, qk = torch.zeros(2, 577, 32), torch.zeros(2, 2, 577, 16)
        tokens = VisionZip(54, 10)(VisionEvidence(hidden, qk, qk))
    assert tokens.features.shape == (2, 64, 32)


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiles_without_a_graph_break(backend: str) -> None:
    def compress(seen: VisionEvidence) -> VisionTokens:
        return VisionZip(14, 4)(seen)

    compiled = torch.compile(compress, backend=backend, fullgraph=True)
    for tiles, has_cls in ((1, True), (3, True), (5, True), (1, False), (3, False)):
        seen = evidence(tiles, patches=144, seed=tiles, has_cls=has_cls)
        got, expected = compiled(seen), compress(seen)
        assert got.has_cls == has_cls
        assert torch.equal(got.positions, expected.positions)
        torch.testing.assert_close(got.features, expected.features)


@pytest.mark.parametrize(
    ("dominant", "contextual", "patches", "message"),
    [
        (10, 8, 16, r"17 rows \(CLS \+ 16 patches\).*leave 7 rows for 8"),
        (18, 1, 16, "leave 0 rows"),
        (540, 100, 576, "leave 37 rows for 100.*per tile.*dominant=108, contextual=20"),
    ],
)
def test_a_budget_that_does_not_fit(dominant: int, contextual: int, patches: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VisionZip(dominant, contextual).tokens_per_tile(patches)
    with pytest.raises(ValueError, match=message):
        VisionZip(dominant, contextual)(evidence(tiles=1, patches=patches))


@pytest.mark.parametrize(("dominant", "contextual"), [(0, 10), (54, 0), (-1, 10), (True, 10), (54, 10.0), ("54", 10)])
def test_numbers_that_are_no_counts(dominant: Any, contextual: Any) -> None:
    with pytest.raises(ValueError, match="must be a whole number >= 1, got"):
        VisionZip(dominant, contextual)


def test_an_unknown_merge() -> None:
    with pytest.raises(ValueError, match="official, average, got 'mean'"):
        VisionZip(54, 10, merge="mean")  # type: ignore[arg-type]


def test_a_tower_without_cls_by_hand() -> None:
    """Keys are long in the directions the queries ask for. Exponentials of the scores, a row for each query:

    e = (1, 1, 1, 4), then (3, 1, 1, 1) three times, so the columns are 1/7 + 3/2, 1/7 + 1/2, 1/7 + 1/2, 4/7 + 1/2.
    """
    three, four = math.log(3), math.log(4)
    query = torch.tensor([[[[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]]]) * 2**0.5  # takes back d ** -0.5
    keys = torch.tensor([[[[three, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, four]]]])
    hidden = torch.tensor([[[1.0], [2.0], [5.0], [8.0]]])
    seen = VisionEvidence(hidden, query, keys, has_cls=False)
    columns = torch.tensor([[1 / 7 + 3 / 2, 1 / 7 + 1 / 2, 1 / 7 + 1 / 2, 4 / 7 + 1 / 2]])
    torch.testing.assert_close(patch_scores(seen), columns / 4)
    tokens = VisionZip(2, 1)(seen)
    assert not tokens.has_cls
    assert tokens.positions.tolist() == [[0, 3, -1]]
    assert tokens.features.flatten().tolist() == [1.0, 8.0, 2.0 + 5.0]  # the rest: the second row joins the first
    assert VisionZip(1, 1, "average")(seen).positions.tolist() == [[0, -1]]


def test_a_tower_without_cls_has_a_row_less() -> None:
    assert VisionZip(12, 4).tokens_per_tile(16, has_cls=False) == 16
    VisionZip(12, 4)(evidence(has_cls=False))
    message = r"13 \+ contextual=4 = 17 tokens.*16 rows \(16 patches, no CLS\).*leave 3 rows for 4"
    with pytest.raises(ValueError, match=message):
        VisionZip(13, 4).tokens_per_tile(16, has_cls=False)
    with pytest.raises(ValueError, match=message):
        VisionZip(13, 4)(evidence(has_cls=False))
    VisionZip(13, 4)(evidence())


@pytest.mark.gpu
@pytest.mark.parametrize("has_cls", [True, False])
def test_a_gpu_keeps_what_a_cpu_keeps(has_cls: bool) -> None:
    """bfloat16 rows; scores are float32 on both, so only near-ties may be told apart differently."""
    seen = evidence(5, patches=576, width=64, heads=16, head_width=64, dtype=torch.bfloat16, has_cls=has_cls)
    there = VisionEvidence(*(x.to("cuda") for x in (seen.hidden, seen.query, seen.keys)), has_cls=has_cls)
    ours, theirs = VisionZip(54, 10)(seen), VisionZip(54, 10)(there)
    assert theirs.features.is_cuda and theirs.features.dtype == torch.bfloat16
    for mine, yours in zip(ours.positions.tolist(), theirs.positions.tolist(), strict=True):
        kept = {place for place in mine if place >= 0}
        assert len(kept & set(yours)) >= len(kept) - 1
    if torch.equal(ours.positions, theirs.positions.cpu()):
        torch.testing.assert_close(theirs.features.cpu(), ours.features, rtol=2e-2, atol=2e-2)
    compress = VisionZip(54, 10)  # made outside: torch 2.11 cannot trace the making of a frozen dataclass
    compiled = torch.compile(lambda x: compress(x).positions, fullgraph=True)
    assert torch.equal(compiled(there), theirs.positions)


def test_tokens_per_tile() -> None:
    assert VisionZip(54, 10).tokens_per_tile(576) == 64
    assert VisionZip(191, 30).tokens_per_tile(576) == 221
    assert VisionZip(547, 30).tokens_per_tile(576) == 577


def test_is_a_value() -> None:
    compress = VisionZip(54, 10)
    assert copy.deepcopy(compress) == compress == pickle.loads(pickle.dumps(compress))
    assert len({compress, VisionZip(54, 10), VisionZip(54, 10, "average")}) == 2
