"""The downsampling control: exact budget, pixels averaged, and the tower that resizes for it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import CLIPVisionModel

from llava.model.multimodal_encoder.clip_encoder import CLIPVisionTower
from tests.tiny import tiny_tower_folder
from tests.visionzip.hosts import evidence
from visionzip import VisionZip, from_config
from visionzip.core.types import Compressor, Resizer
from visionzip.methods import Downsample


def test_it_is_a_compressor_that_resizes_and_its_config_reads_back() -> None:
    control = Downsample(8)
    assert isinstance(control, Compressor) and isinstance(control, Resizer)
    assert not isinstance(VisionZip(5, 2), Resizer)
    assert from_config(control.to_config()) == control


@pytest.mark.parametrize(("tokens", "size"), [(8, (28, 56)), (4, (28, 28)), (16, (56, 56))])
def test_tiles_shrink_to_whole_patches_in_their_own_dtype(tokens: int, size: tuple[int, int]) -> None:
    pixels = torch.rand(2, 3, 56, 56, dtype=torch.bfloat16)
    small = Downsample(tokens).resize(pixels, 14)
    assert small.shape == (2, 3, *size) and small.dtype == torch.bfloat16
    flat = Downsample(tokens).resize(torch.full((1, 3, 56, 56), 0.5), 14)
    torch.testing.assert_close(flat, torch.full_like(flat, 0.5))


def test_every_patch_of_the_small_tile_is_kept_without_a_place() -> None:
    seen = evidence(tiles=3, patches=16, dtype=torch.bfloat16)
    tokens = Downsample(16)(seen)
    assert torch.equal(tokens.features, seen.hidden[:, 1:]) and (tokens.positions == -1).all() and not tokens.has_cls
    with pytest.raises(ValueError, match="expects the 8 patches of a resized tile, got 16"):
        Downsample(8)(seen)


def test_budgets_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="finer than the 4 x 4 patch grid"):
        Downsample(20).tokens_per_tile(16)
    with pytest.raises(ValueError, match="tokens must be a whole number"):
        Downsample(0)


def test_the_tower_encodes_the_small_tile_as_transformers_would(tmp_path: Path) -> None:
    """Independent reference: transformers' own CLIP with interpolated positions on tiles resized here."""
    folder = tiny_tower_folder(tmp_path)
    tower = CLIPVisionTower(str(folder), SimpleNamespace(mm_vision_select_layer=-2))
    side, patch = tower.image_size, tower.image_size // tower.num_patches_per_side
    tower.compressor = Downsample(8)
    pixels = torch.rand(2, 3, side, side)
    got = tower.encode(pixels)
    small = torch.nn.functional.interpolate(pixels, (2 * patch, 4 * patch), mode="bicubic", antialias=True)
    clip = CLIPVisionModel.from_pretrained(folder).eval()
    with torch.no_grad():
        wanted = clip(small, output_hidden_states=True, interpolate_pos_encoding=True).hidden_states[-2][:, 1:]
    torch.testing.assert_close(got.features, wanted, rtol=0, atol=1e-5)
    assert got.features.shape[1] == 8
    tower.compressor = None
    with pytest.raises(ValueError, match="size"):  # a tile of another size is still no input without it
        tower.encode(small)
