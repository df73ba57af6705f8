from types import SimpleNamespace

import pytest
import torch
from torch import nn

from llava.model.multimodal_projector.builder import build_vision_projector, project


def config(kind, hidden=6):
    return SimpleNamespace(mm_projector_type=kind, mm_hidden_size=4, hidden_size=hidden)


def test_linear_is_the_default():
    assert set(build_vision_projector(config("linear")).state_dict()) == {"weight", "bias"}
    assert isinstance(build_vision_projector(SimpleNamespace(mm_hidden_size=4, hidden_size=6)), nn.Linear)


@pytest.mark.parametrize(("depth", "keys"), [(1, "0"), (2, "02"), (3, "024")])
def test_mlp_keys_and_function(depth, keys):
    projector = build_vision_projector(config(f"mlp{depth}x_gelu"))
    assert set(projector.state_dict()) == {f"{i}.{part}" for i in keys for part in ("weight", "bias")}
    x = torch.randn(2, 5, 4)
    want = x
    for step, i in enumerate(keys):
        want = nn.functional.gelu(want) if step else want  # exact (erf) variant
        layer = projector.get_submodule(i)
        want = want @ layer.weight.T + layer.bias
    torch.testing.assert_close(projector(x), want)


def test_identity():
    x = torch.randn(2, 4)
    projector = build_vision_projector(config("identity", hidden=4))
    assert projector(x) is x
    assert project(projector, x) is x
    with pytest.raises(ValueError, match="equal widths"):
        build_vision_projector(config("identity"))


@pytest.mark.parametrize("kind", ["mlp0x_gelu", "mlp2x_relu", "resampler", "xmlp2x_gelu", "mlp2x_gelu_"])
def test_unknown_type_lists_the_known(kind):
    with pytest.raises(ValueError, match=r"known: linear, identity, mlp\{N\}x_gelu"):
        build_vision_projector(config(kind))


def test_projector_works_in_its_own_dtype():
    projector = build_vision_projector(config("mlp2x_gelu"))
    x = torch.randn(2, 4)
    assert project(projector, x.half()).dtype == torch.float32
    assert project(projector.bfloat16(), x).dtype == torch.bfloat16


def test_autocast_decides_when_it_is_on():
    projector = build_vision_projector(config("mlp2x_gelu"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert project(projector, torch.randn(2, 4)).dtype == torch.bfloat16


def test_width_of_the_tower_must_be_known():
    with pytest.raises(ValueError, match="mm_hidden_size"):
        build_vision_projector(SimpleNamespace(mm_projector_type="linear", hidden_size=6))
