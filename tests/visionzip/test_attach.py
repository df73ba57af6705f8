"""attach, detach and the slot adapter on a minimal host."""

from __future__ import annotations

import copy
import json
import pickle
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import CLIPVisionModel

from tests.tiny import tiny_clip
from tests.visionzip.hosts import SlotModel, SlotTower
from visionzip import VisionZip, attach, detach, from_config, visionzip
from visionzip.methods import Uniform


@pytest.fixture
def pixels() -> Tensor:
    return torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))


def test_fills_the_slot_and_the_config_of_this_instance() -> None:
    model = SlotModel()
    assert visionzip(model, dominant=5, contextual=3) is model
    assert model.tower.compressor == VisionZip(5, 3)
    assert model.config.mm_compressor == {"method": "visionzip", "dominant": 5, "contextual": 3, "merge": "official"}
    assert model.config.mm_compressed_order == "official"


def test_merge_and_order_are_passed_on() -> None:
    model = visionzip(SlotModel(), 5, 3, merge="average", order="spatial")
    assert model.tower.compressor == VisionZip(5, 3, "average")
    assert model.config.mm_compressed_order == "spatial"


def test_the_defaults_are_those_of_the_published_package() -> None:
    host = SimpleNamespace(compressor=None)
    visionzip(host)
    assert host.compressor == VisionZip(191, 30)


def test_the_config_reopens_compressed(tmp_path: Any) -> None:
    model = visionzip(SlotModel(), 5, 3)
    model.config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert from_config(saved["mm_compressor"]) == model.tower.compressor


def test_calling_again_changes_the_budget() -> None:
    model = visionzip(visionzip(SlotModel(), 5, 3), 4, 2)
    assert model.tower.compressor == VisionZip(4, 2)
    assert model.config.mm_compressor["dominant"] == 4
    attach(model, Uniform(6))
    assert model.tower.compressor == Uniform(6)
    assert model.config.mm_compressor == {"method": "uniform", "tokens": 6}


def test_two_budgets_a_dense_model_and_a_plain_clip_in_one_process(pixels: Tensor) -> None:
    plain = tiny_clip(seed=0)
    with torch.no_grad():
        before = plain(pixels).last_hidden_state
        dense, small, large = SlotModel(), SlotModel(), SlotModel()
        reference = dense.tower(pixels)
        visionzip(small, 3, 2)
        visionzip(large, 6, 4)
        for _ in range(2):
            assert small.tower(pixels).shape == (2, 5, 32)
            assert dense.tower(pixels).shape == (2, 16, 32)
            assert large.tower(pixels).shape == (2, 10, 32)
        assert torch.equal(dense.tower(pixels), reference)
        assert torch.equal(plain(pixels).last_hidden_state, before)
    assert not hasattr(dense.config, "mm_compressor")
    assert vars(plain).keys() == vars(tiny_clip()).keys()


def test_detach_restores_the_dense_model_bit_for_bit(pixels: Tensor) -> None:
    model = SlotModel()
    keys_before = set(vars(model.config))
    with torch.no_grad():
        before = model.tower(pixels)
        visionzip(model, 5, 3)
        assert model.tower(pixels).shape != before.shape
        assert detach(model) is model
        assert torch.equal(model.tower(pixels), before)
    assert set(vars(model.config)) == keys_before
    assert "mm_compressor" not in model.config.to_dict()


def test_detach_without_attach_is_harmless() -> None:
    model = SlotModel()
    detach(model)
    assert model.tower.compressor is None


def test_detach_with_a_default_on_the_config_class() -> None:
    class Config:
        mm_compressor: dict[str, Any] | None = None

    model = SlotModel()
    model.config = Config()
    detach(model)
    visionzip(model, 5, 3)
    detach(model)
    assert model.config.mm_compressor is None and vars(model.config) == {}


def test_a_bare_tower_keeps_its_config() -> None:
    tower = SlotTower()
    tower.config = tower.vision_tower.config
    before = copy.deepcopy(vars(tower.config))
    visionzip(tower, 5, 3)
    assert tower.compressor == VisionZip(5, 3)
    assert vars(tower.config) == before
    detach(tower)
    assert tower.compressor is None


def test_a_bare_tower_lays_out_no_tiles() -> None:
    tower = SlotTower()
    with pytest.raises(ValueError, match="order 'spatial' is a matter of the model"):
        visionzip(tower, 5, 3, order="spatial")
    assert tower.compressor is None


def test_a_model_without_a_tower_is_told_so() -> None:
    with pytest.raises(ValueError, match="has no vision tower"):
        visionzip(SimpleNamespace(get_vision_tower=lambda: None), 5, 3)


def test_a_budget_that_does_not_fit_is_refused_and_nothing_changes() -> None:
    model = visionzip(SlotModel(), 5, 3)
    with pytest.raises(ValueError, match=r"17 rows \(CLS \+ 16 patches\)"):
        visionzip(model, 54, 10)
    with pytest.raises(ValueError, match="uniform keeps 17"):
        attach(model, Uniform(17))
    assert model.tower.compressor == VisionZip(5, 3)
    assert model.config.mm_compressor["dominant"] == 5


def test_a_foreign_host() -> None:
    model = nn.Linear(2, 2)
    for call in (lambda: visionzip(model, 5, 3), lambda: detach(model)):
        with pytest.raises(ValueError, match=r"cannot attach to .*; supported hosts: LLaVA models .*get_vision_tower"):
            call()


def test_a_plain_clip_is_a_foreign_host() -> None:
    with pytest.raises(ValueError, match="CLIPVisionModel; supported hosts"):
        visionzip(tiny_clip(), 5, 3)


@pytest.mark.parametrize("compressor", [None, VisionZip, {"method": "visionzip"}])
def test_something_that_is_no_compressor(compressor: Any) -> None:
    with pytest.raises(ValueError, match=r"must be an instance such as VisionZip\(54, 10\)"):
        attach(SlotModel(), compressor)


def test_an_unknown_order() -> None:
    with pytest.raises(ValueError, match="official, spatial, got 'raster'"):
        visionzip(SlotModel(), 5, 3, order="raster")  # type: ignore[arg-type]


def test_a_zipped_model_copies_and_pickles_also_after_a_forward(pixels: Tensor) -> None:
    model = visionzip(SlotModel(), 5, 3)
    with torch.no_grad():
        expected = model.tower(pixels)
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert twin.tower.compressor == VisionZip(5, 3)
            assert torch.equal(twin.tower(pixels), expected)
            detach(twin)
    assert model.tower.compressor == VisionZip(5, 3)
    assert "compressor" not in " ".join(model.state_dict())


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_zipped_tower_trains_under_gradient_checkpointing(pixels: Tensor, reentrant: bool) -> None:
    def gradients(tower: SlotTower) -> list[Tensor]:
        tower(pixels.requires_grad_()).square().sum().backward()
        return [p.grad for p in tower.parameters() if p.grad is not None]

    plain, saving = visionzip(SlotTower(), 5, 3).train(), visionzip(SlotTower(), 5, 3).train()
    clip: CLIPVisionModel = saving.vision_tower
    clip.gradient_checkpointing_enable({"use_reentrant": reentrant})
    assert clip.encoder.layers[-2].gradient_checkpointing
    expected, got = gradients(plain), gradients(saving)
    assert len(expected) == len(got) > 0
    for a, b in zip(expected, got, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_zipped_tower_compiles_and_can_change_its_budget(pixels: Tensor, backend: str) -> None:
    torch.compiler.reset()
    tower = SlotTower()
    compiled = torch.compile(tower, backend=backend)
    near = {"rtol": 1e-3, "atol": 1e-3}  # inductor rounds differently; a different selection is off by about 1
    with torch.no_grad():
        torch.testing.assert_close(compiled(pixels), tower(pixels), **near)
        for dominant in (5, 4):
            visionzip(tower, dominant, 3)
            for _ in range(2):
                fresh = torch.randn_like(pixels)
                torch.testing.assert_close(compiled(fresh), tower(fresh), **near)
        detach(tower)
        torch.testing.assert_close(compiled(pixels), tower(pixels), **near)
