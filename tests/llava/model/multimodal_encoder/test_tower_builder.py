import json
from types import SimpleNamespace

import pytest

from llava.model.multimodal_encoder.builder import build_vision_tower, resolve_vision_tower
from llava.model.multimodal_encoder.clip_encoder import CLIPVisionTower
from tests.tiny import tiny_images, tiny_tower_folder
from visionzip import VisionZip


def test_existing_path_is_taken_as_it_is(tmp_path):
    assert resolve_vision_tower(str(tmp_path)) == str(tmp_path)


def test_relative_path_counts_from_here(tmp_path, monkeypatch):
    (tmp_path / "towers" / "clip").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert resolve_vision_tower("towers/clip") == "towers/clip"


def test_folder_beside_the_checkpoint(tmp_path):
    """The config says where the tower lay when it was trained; here it lies beside the checkpoint."""
    (tmp_path / "model").mkdir()
    (tmp_path / "clip").mkdir()
    found = resolve_vision_tower("somewhere/else/clip", str(tmp_path / "model"))
    assert found == str(tmp_path / "clip")


@pytest.mark.parametrize(
    "hub_id",
    [
        "openai/clip-vit-large-patch14-336",
        "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        "Lin-Chen/ShareGPT4V-13B_Pretrained_vit-large336-l12",
        "some-org/some.tower_2",
    ],
)
def test_hub_ids_pass(hub_id):
    assert resolve_vision_tower(hub_id) == hub_id


@pytest.mark.parametrize(
    "missing", ["./towers/clip", "/no/such/clip", "a/b/clip", "clip", "~/clip-not-here", "../clip"]
)
def test_missing_path_names_key_and_path(missing):
    with pytest.raises(ValueError, match="mm_vision_tower") as error:
        resolve_vision_tower(missing)
    assert missing in str(error.value)


def test_missing_path_beside_a_checkpoint_names_both(tmp_path):
    with pytest.raises(ValueError, match=str(tmp_path)):
        resolve_vision_tower("a/b/clip", str(tmp_path))


def test_unreachable_hub_id_names_the_key():
    with pytest.raises(ValueError, match=r"mm_vision_tower: cannot read a CLIP tower from 'nobody/nothing'"):
        build_vision_tower(SimpleNamespace(mm_vision_tower="nobody/nothing"))


def test_training_arguments_name_the_tower_too(tmp_path):
    folder = tiny_tower_folder(tmp_path / "tower")
    tower = build_vision_tower(SimpleNamespace(vision_tower=str(folder), mm_vision_select_layer=-1))
    assert isinstance(tower, CLIPVisionTower)
    assert tower.is_loaded
    assert tower.select_layer == -1


@pytest.mark.parametrize("name", [None, 3])
def test_no_tower_named(name):
    with pytest.raises(ValueError, match="mm_vision_tower must name a tower"):
        build_vision_tower(SimpleNamespace(mm_vision_tower=name))


def test_other_kinds_of_tower(tmp_path):
    folder = tiny_tower_folder(tmp_path / "tower")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "siglip_vision_model"}))
    with pytest.raises(ValueError, match=r"config\.json has model_type 'siglip_vision_model'; known: clip"):
        build_vision_tower(SimpleNamespace(mm_vision_tower=str(folder)))
    (folder / "config.json").write_text('{"model_type":')
    with pytest.raises(ValueError, match="not valid JSON"):
        build_vision_tower(SimpleNamespace(mm_vision_tower=str(folder)))


def test_compressor_of_the_config(tmp_path):
    folder = str(tiny_tower_folder(tmp_path / "tower"))
    budget = VisionZip(5, 2)
    tower = build_vision_tower(SimpleNamespace(mm_vision_tower=folder, mm_compressor=budget.to_config()))
    assert tower.compressor == budget
    assert tower(tiny_images(1)).shape == (1, 7, 32)
    with pytest.raises(ValueError, match=r"17 rows \(CLS \+ 16 patches\)"):
        too_many = VisionZip(54, 10).to_config()
        build_vision_tower(SimpleNamespace(mm_vision_tower=folder, mm_compressor=too_many))
    with pytest.raises(ValueError, match="unknown method"):
        build_vision_tower(SimpleNamespace(mm_vision_tower=folder, mm_compressor={"method": "magic"}))
