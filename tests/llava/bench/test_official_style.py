"""The official-style encoder computes what VisionZip computes, in the expensive way."""

import pytest
import torch

from llava.bench.official_style import OfficialStyle, encoding_by
from tests.tiny import LARGE, tiny_llava
from visionzip import visionzip
from visionzip.methods.uniform import Uniform


@pytest.fixture
def model(tmp_path):
    return tiny_llava(tmp_path, image_size=LARGE)


def test_it_gives_the_same_tokens_with_every_map_made(model):
    visionzip(model, dominant=20, contextual=5)
    tower = model.get_vision_tower()
    pixels = torch.randn(3, 3, LARGE, LARGE)
    ours = tower.encode(pixels)
    encoder = OfficialStyle(tower, tower.compressor)
    with encoding_by(tower, encoder):
        theirs = tower.encode(pixels)
        out, _ = encoder.maps(pixels)
    assert torch.equal(ours.positions, theirs.positions)
    torch.testing.assert_close(ours.features, theirs.features, atol=1e-4, rtol=1e-4)
    rows = 1 + tower.num_patches
    assert [tuple(a.shape) for a in out.attentions] == [(3, 2, rows, rows)] * tower.config.num_hidden_layers


def test_the_tower_is_its_own_again_afterwards(model):
    visionzip(model, dominant=20, contextual=5)
    tower = model.get_vision_tower()
    attention = tower.vision_tower.vision_model.config._attn_implementation
    before = dict(tower.vision_tower.named_parameters())
    encoder = OfficialStyle(tower, tower.compressor)
    with pytest.raises(RuntimeError, match="inside"), encoding_by(tower, encoder):
        raise RuntimeError("inside")
    assert "encode" not in vars(tower)
    assert tower.vision_tower.vision_model.config._attn_implementation == attention != "eager"
    assert all(p is before[name] for name, p in tower.vision_tower.named_parameters())


def test_weights_are_shared_with_the_tower(model):
    visionzip(model, dominant=20, contextual=5)
    tower = model.get_vision_tower()
    encoder = OfficialStyle(tower, tower.compressor)
    own = {p.data_ptr() for p in tower.vision_tower.parameters()}
    assert {p.data_ptr() for p in encoder.model.parameters()} == own


@pytest.mark.parametrize("compressor", [None, Uniform(8)])
def test_only_visionzip_has_an_official_style(model, compressor):
    with pytest.raises(ValueError, match="official style is VisionZip at layer -2"):
        OfficialStyle(model.get_vision_tower(), compressor)


def test_the_selected_layer_is_the_last_but_one_however_it_is_counted(model):
    """Another layer would be compared with one it is not."""
    tower = model.get_vision_tower()
    layers = tower.config.num_hidden_layers
    zipper = visionzip(model, dominant=20, contextual=5).get_vision_tower().compressor
    pixels = torch.randn(1, 3, LARGE, LARGE)
    for layer in (-2, layers - 1):
        tower.select_layer = layer
        theirs = OfficialStyle(tower, zipper)(pixels)
        torch.testing.assert_close(tower.encode(pixels).features, theirs.features, atol=1e-4, rtol=1e-4)
    for layer in (-1, layers):
        tower.select_layer = layer
        with pytest.raises(ValueError, match=f"at mm_vision_select_layer {layer} of {layers} layers"):
            OfficialStyle(tower, zipper)
