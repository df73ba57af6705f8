"""The published code's numbers, see tests/golden/README.md."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPVisionModel

from tests.visionzip.hosts import walk
from visionzip import VisionEvidence, VisionZip
from visionzip.core.scores import patch_scores

GOLDEN = Path(__file__).parents[1] / "golden"
NUMBERS = load_file(GOLDEN / "zip_core.safetensors")
BUDGETS = sorted(tuple(map(int, key.split("_")[1:])) for key in NUMBERS if key.startswith("features_"))
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


@pytest.fixture(scope="module", params=["eager", "sdpa"])
def seen(request: pytest.FixtureRequest) -> VisionEvidence:
    tower = CLIPVisionModel.from_pretrained(
        GOLDEN / "tower", attn_implementation=request.param, dtype=torch.float32
    ).eval()
    scaled = NUMBERS["pixels_u8"].double() / 255
    pixels = (scaled - torch.tensor(MEAN, dtype=torch.float64)) / torch.tensor(STD, dtype=torch.float64)
    with torch.no_grad():
        return walk(tower, pixels.float().permute(2, 0, 1).unsqueeze(0))


def close(got: Tensor, expected: Tensor) -> None:
    error = (got - expected).norm(dim=-1) / expected.norm(dim=-1)
    assert error.max() < 1e-5


def test_the_file_holds_the_papers_budgets() -> None:
    assert BUDGETS == [(27, 5), (54, 10), (108, 20)]


def test_dense_features(seen: VisionEvidence) -> None:
    close(seen.hidden[:, 1:], NUMBERS["dense"])


@pytest.mark.parametrize(("dominant", "contextual"), BUDGETS)
def test_kept_indices_and_features(seen: VisionEvidence, dominant: int, contextual: int) -> None:
    indices = NUMBERS[f"indices_{dominant}_{contextual}"]
    assert indices[0, 0] == 0
    by_score = patch_scores(seen).argsort(dim=-1, descending=True)[:, : dominant - 1] + 1
    assert torch.equal(by_score, indices[:, 1:])

    tokens = VisionZip(dominant, contextual)(seen)
    assert torch.equal(tokens.positions[:, :dominant] + 1, indices.sort(dim=-1).values)
    assert (tokens.positions[:, dominant:] == -1).all()
    close(tokens.features, NUMBERS[f"features_{dominant}_{contextual}"])


def test_the_average_variant_is_not_what_the_published_code_does(seen: VisionEvidence) -> None:
    tokens = VisionZip(54, 10, merge="average")(seen)
    expected = NUMBERS["features_54_10"]
    close(tokens.features[:, :54], expected[:, :54])
    with pytest.raises(AssertionError):
        close(tokens.features[:, 54:], expected[:, 54:])
