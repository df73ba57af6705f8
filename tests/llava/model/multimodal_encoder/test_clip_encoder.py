import copy
import pickle
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig, CLIPVisionModel

from llava.model.multimodal_encoder.clip_encoder import CLIPVisionTower
from tests.tiny import LARGE, SMALL, randomize, tiny_clip_config, tiny_image_processor, tiny_images, tiny_tower_folder
from visionzip import VisionZip, detach, visionzip
from visionzip.core.types import VisionTokens


def args(**keys):
    return SimpleNamespace(**{"mm_vision_select_layer": -2, "mm_vision_select_feature": "patch"} | keys)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_tower_folder(tmp_path_factory.mktemp("clip") / "tower")


@pytest.fixture
def tower(folder):
    return CLIPVisionTower(str(folder), args()).eval()


@pytest.fixture(scope="module")
def reference(folder):
    return CLIPVisionModel.from_pretrained(folder, dtype=torch.float32).eval()


def hidden_states(reference, images):
    with torch.no_grad():
        return reference(images, output_hidden_states=True).hidden_states


@pytest.mark.parametrize("layer", [-2, -1, -7, 0, 1, 5, 6])
def test_features_equal_transformers_hidden_states(folder, reference, layer):
    tower = CLIPVisionTower(str(folder), args(mm_vision_select_layer=layer)).eval()
    images = tiny_images(3)
    want = hidden_states(reference, images)[layer]
    torch.testing.assert_close(tower(images), want[:, 1:], rtol=0, atol=0)
    outputs = SimpleNamespace(hidden_states=hidden_states(reference, images))
    torch.testing.assert_close(tower.feature_select(outputs), want[:, 1:], rtol=0, atol=0)


def test_cls_patch_keeps_cls_first(folder, reference):
    tower = CLIPVisionTower(str(folder), args(mm_vision_select_feature="cls_patch"))
    tokens = tower.encode(tiny_images(2))
    torch.testing.assert_close(tokens.features, hidden_states(reference, tiny_images(2))[-2], rtol=0, atol=0)
    assert tokens.has_cls
    assert tokens.positions.tolist() == [list(range(-1, 16))] * 2


def test_dense_positions(tower):
    tokens = tower.encode(tiny_images(2))
    assert not tokens.has_cls
    assert tokens.positions.tolist() == [list(range(16))] * 2


@pytest.mark.parametrize("compressor", [None, VisionZip(5, 2)])
def test_blocks_after_the_selected_one_do_not_run(tower, compressor):
    tower.compressor = compressor
    last = tower.vision_tower.vision_model.encoder.layers[-1]
    last.forward = lambda *a, **k: pytest.fail("the last block ran")
    tower(tiny_images(1))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("compressor", [None, VisionZip(5, 2)])
def test_attention_implementation_does_not_matter(tower, attention, compressor):
    want = tower(tiny_images(2))
    tower.compressor = compressor
    want = tower(tiny_images(2))
    tower.vision_tower.vision_model.set_attn_implementation(attention)
    torch.testing.assert_close(tower(tiny_images(2)), want, rtol=1e-4, atol=1e-5)


def test_no_hook_is_left_behind(tower):
    tower.compressor = VisionZip(5, 2)
    tower(tiny_images(1))
    assert not [m for m in tower.modules() if m._forward_hooks or m._forward_pre_hooks]


def test_evidence_is_of_the_selected_block(tower, reference):
    """hidden = output of block 4 of 6 (0-based), q and k = that block's own projections of its normed input."""
    seen = []

    class Spy:
        def __call__(self, evidence):
            seen.append(evidence)
            return VisionTokens(evidence.hidden, torch.zeros(evidence.hidden.shape[:2], dtype=torch.int64))

    tower.compressor = Spy()
    tower(tiny_images(2))
    (evidence,) = seen
    states = hidden_states(reference, tiny_images(2))
    torch.testing.assert_close(evidence.hidden, states[-2], rtol=0, atol=0)
    block = reference.encoder.layers[4]
    normed = block.layer_norm1(states[4])
    for got, projection in ((evidence.query, block.self_attn.q_proj), (evidence.keys, block.self_attn.k_proj)):
        torch.testing.assert_close(got, projection(normed).view(2, 17, 2, 16).transpose(1, 2))
    assert evidence.has_cls


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_features_come_back_in_the_images_dtype(tower, dtype):
    images = tiny_images(1).to(dtype)
    for compressor in (None, VisionZip(5, 2)):
        tower.compressor = compressor
        features = tower(images)
        assert features.dtype == dtype
        assert torch.equal(features, tower(images.float()).to(dtype))


def test_half_tower_takes_float_images(folder):
    tower = CLIPVisionTower(str(folder), args()).to(torch.bfloat16)
    assert tower.dtype == torch.bfloat16
    assert tower(tiny_images(1)).dtype == torch.float32


def test_list_in_list_out(tower):
    images = tiny_images(3)
    for compressor in (None, VisionZip(5, 2)):
        tower.compressor = compressor
        features = tower(list(images))
        assert [f.shape[0] for f in features] == [1, 1, 1]
        torch.testing.assert_close(torch.cat(features), tower(images), rtol=1e-5, atol=1e-6)


def test_public_attributes(tower, folder):
    assert tower.is_loaded
    assert tower.vision_tower_name == str(folder)
    assert (tower.select_layer, tower.select_feature) == (-2, "patch")
    assert (tower.hidden_size, tower.num_patches, tower.num_patches_per_side) == (32, 16, 4)
    assert tower.config.image_size == SMALL
    assert tower.dtype == torch.float32
    assert tower.device.type == "cpu"
    assert tower.dummy_feature.shape == (1, 32)
    assert tower.image_processor.crop_size == {"height": SMALL, "width": SMALL}
    assert type(tower.image_processor).__name__ == "CLIPImageProcessorPil"
    assert type(tower.vision_tower.vision_model) is CLIPVisionModel
    assert tower.vision_tower.config is tower.config


def test_keys_in_memory_are_the_keys_on_disk(tower, folder):
    with safe_open(folder / "model.safetensors", "pt") as stored:
        assert {f"vision_tower.{key}" for key in stored.keys()} == set(tower.state_dict())


def test_weights_are_float32_whatever_the_file_holds(tmp_path):
    folder = tiny_tower_folder(tmp_path / "half")
    CLIPVisionModel.from_pretrained(folder).half().save_pretrained(folder)
    tower = CLIPVisionTower(str(folder), args())
    assert tower.dtype == torch.float32
    delayed = CLIPVisionTower(str(folder), args(), delay_load=True)
    delayed.load_model(dtype=torch.bfloat16)
    assert delayed.dtype == torch.bfloat16


def test_loads_from_a_whole_clip(tmp_path, reference):
    """openai/clip-* folders hold both towers and a nested config."""
    vision = tiny_clip_config()
    text = CLIPTextConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, vocab_size=99
    )
    clip = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict()))
    randomize(clip)
    clip.save_pretrained(tmp_path)
    tiny_image_processor().save_pretrained(tmp_path)
    loaded = CLIPVisionTower(str(tmp_path), args())
    want = clip.vision_model(tiny_images(1), output_hidden_states=True).hidden_states[-2][:, 1:]
    torch.testing.assert_close(loaded(tiny_images(1)), want, rtol=0, atol=0)


def test_delay_load_waits(folder, tower):
    delayed = CLIPVisionTower(str(folder), args(), delay_load=True)
    assert not delayed.is_loaded
    assert delayed.hidden_size == 32  # from config.json
    assert not list(delayed.parameters())
    with pytest.raises(ValueError, match="not loaded"):
        delayed(tiny_images(1))
    delayed.load_model()
    torch.testing.assert_close(delayed(tiny_images(1)), tower(tiny_images(1)), rtol=0, atol=0)
    assert not any(p.requires_grad for p in delayed.parameters())


def test_tower_of_the_checkpoint_is_built_without_its_weights(folder):
    """v1.6: only config.json and the image processor are read."""
    built = CLIPVisionTower(str(folder), args(unfreeze_mm_vision_tower=True), delay_load=True)
    assert built.is_loaded
    assert built.image_processor is not None
    with torch.device("meta"):
        CLIPVisionTower(str(folder), args(unfreeze_mm_vision_tower=True), delay_load=True)


def test_loading_twice_keeps_the_weights(tower):
    randomize(tower, seed=5)
    before = tower(tiny_images(1))
    tower.load_model()
    assert torch.equal(tower(tiny_images(1)), before)


def test_missing_weights_are_named(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tiny_tower_folder(tmp_path / "tower")
    state = load_file(folder / "model.safetensors")
    del state["vision_model.encoder.layers.3.mlp.fc1.bias"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights.*layers\.3\.mlp\.fc1\.bias"):
        CLIPVisionTower(str(folder), args())


def test_missing_files_are_named(tmp_path):
    folder = tiny_tower_folder(tmp_path / "tower")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"mm_vision_tower.*tower"):
        CLIPVisionTower(str(folder), args())


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_half_a_weight_file_is_damage(tmp_path, name):
    folder = tiny_tower_folder(tmp_path / "tower")
    whole = folder / "model.safetensors"
    half = whole.read_bytes()[: whole.stat().st_size // 2]
    whole.unlink()
    (folder / name).write_bytes(half)
    with pytest.raises(ValueError, match=r"mm_vision_tower.*damaged.*again"):
        CLIPVisionTower(str(folder), args())


@pytest.mark.parametrize("layer", [7, -8])
def test_layer_that_does_not_exist(folder, layer):
    with pytest.raises(ValueError, match=f"mm_vision_select_layer {layer} .* 7 hidden states"):
        CLIPVisionTower(str(folder), args(mm_vision_select_layer=layer))(tiny_images(1))


def test_compressor_needs_a_block(folder):
    tower = visionzip(CLIPVisionTower(str(folder), args(mm_vision_select_layer=0)), 5, 2)
    with pytest.raises(ValueError, match="before any layer"):
        tower(tiny_images(1))


def test_unknown_feature(folder):
    with pytest.raises(ValueError, match="known: patch, cls_patch"):
        CLIPVisionTower(str(folder), args(mm_vision_select_feature="cls"))


# --- training


@pytest.mark.parametrize("compressor", [None, VisionZip(5, 2)])
def test_frozen_tower_keeps_no_graph(tower, compressor):
    """Also under gradient checkpointing, for which transformers makes every embedding's output require grad."""
    tower.compressor = compressor
    assert not tower(tiny_images(1)).requires_grad
    tower.vision_tower.vision_model.enable_input_require_grads()
    assert not tower(tiny_images(1)).requires_grad


@pytest.mark.parametrize("compressor", [None, VisionZip(5, 2)])
def test_unfrozen_tower_trains_but_for_the_blocks_it_does_not_use(tower, compressor):
    tower.compressor = compressor
    tower.requires_grad_(True)
    tower(tiny_images(2)).square().sum().backward()
    body = tower.vision_tower.vision_model
    assert body.embeddings.patch_embedding.weight.grad.abs().sum() > 0
    assert body.encoder.layers[4].mlp.fc2.weight.grad.abs().sum() > 0
    assert body.encoder.layers[5].mlp.fc2.weight.grad is None


def test_gradient_reaches_the_images_through_a_frozen_tower(tower):
    images = tiny_images(1).requires_grad_()
    tower(images).sum().backward()
    assert images.grad.abs().sum() > 0


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("compressor", [None, VisionZip(5, 2)])
def test_gradient_checkpointing_gives_the_same_gradients(tower, compressor, reentrant):
    tower.compressor = compressor
    tower.requires_grad_(True).train()
    images = tiny_images(2).requires_grad_()  # reentrant checkpointing needs an input that requires grad

    def gradients():
        tower.zero_grad()
        tower(images).square().sum().backward()
        return {name: p.grad.clone() for name, p in tower.named_parameters() if p.grad is not None}

    want = gradients()
    tower.vision_tower.vision_model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    assert tower.vision_tower.vision_model.encoder.layers[0].gradient_checkpointing
    got = gradients()
    assert got.keys() == want.keys()
    for name, gradient in want.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


# --- the slot


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda tower: pickle.loads(pickle.dumps(tower))])
def test_a_zipped_tower_copies_with_its_own_slot(tower, clone):
    dense = tower(tiny_images(1))
    visionzip(tower, 5, 2)
    zipped = tower(tiny_images(1))
    twin = clone(tower)
    assert torch.equal(twin(tiny_images(1)), zipped)
    detach(twin)
    assert torch.equal(twin(tiny_images(1)), dense)
    assert torch.equal(tower(tiny_images(1)), zipped)


@pytest.fixture
def shallow(tmp_path):
    """Three blocks, of which two run: compiling takes time."""
    torch._dynamo.reset()
    folder = tiny_tower_folder(tmp_path / "shallow", layers=3)
    return CLIPVisionTower(str(folder), args()).eval()


def test_compiled_tower_follows_the_slot(shallow):
    """A graph traced dense must not serve a zipped tower, nor the other way round, nor another budget."""
    tower, images = shallow, tiny_images(2)
    compiled = torch.compile(tower, backend="aot_eager")
    with torch.no_grad():
        for compressor in (None, VisionZip(5, 2), VisionZip(9, 3), None, VisionZip(5, 2)):
            tower.compressor = compressor
            want = tower(images)
            got = compiled(images)
            assert got.shape == want.shape == (2, 16 if compressor is None else sum(_budget(compressor)), 32)
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def _budget(compressor):
    return compressor.dominant, compressor.contextual


def test_compiled_trainable_tower_gets_the_same_gradients(shallow):
    tower = visionzip(shallow, 5, 2).requires_grad_(True)
    compiled = torch.compile(tower, backend="aot_eager")
    weight = tower.vision_tower.vision_model.encoder.layers[0].mlp.fc1.weight
    gradients = []
    for run in (tower, compiled):
        weight.grad = None
        run(tiny_images(2)).square().sum().backward()
        gradients.append(weight.grad.clone())
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-4)


def test_other_clip_models_are_untouched(tower, reference, folder):
    before = hidden_states(reference, tiny_images(1))[-2].clone()
    other = CLIPVisionTower(str(folder), args())
    visionzip(tower, 5, 2)
    tower(tiny_images(1))
    assert torch.equal(hidden_states(reference, tiny_images(1))[-2], before)
    assert torch.equal(other(tiny_images(1)), before[:, 1:])


def test_large_grid(tmp_path):
    tower = CLIPVisionTower(str(tiny_tower_folder(tmp_path / "t", LARGE)), args())
    assert tower(tiny_images(1, LARGE)).shape == (1, 144, 32)
    assert visionzip(tower, 40, 8)(tiny_images(1, LARGE)).shape == (1, 48, 32)


def test_config_type_of_a_delayed_tower(folder):
    assert isinstance(CLIPVisionTower(str(folder), args(), delay_load=True).config, CLIPVisionConfig)


def test_pixels_must_be_preprocessed(tower):
    with pytest.raises(ValueError, match=r"float \[T, 3, S, S\], got torch\.uint8"):
        tower(torch.zeros(1, 3, 56, 56, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"got torch\.float32 \[3, 56, 56\]"):
        tower(torch.zeros(3, 56, 56))


def test_dtype_and_device_before_loading_say_what_to_do(folder):
    waiting = CLIPVisionTower(str(folder), args(), delay_load=True)
    for name in ("dtype", "device"):
        with pytest.raises(ValueError, match=r"not loaded: call load_model\(\) first"):
            getattr(waiting, name)


def test_a_missing_config_is_not_taken_for_damaged_weights(tmp_path):
    folder = tiny_tower_folder(tmp_path / "tower")
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"cannot read a CLIP tower from .*tower"):
        CLIPVisionTower(str(folder), args())


def test_a_full_gpu_is_not_taken_for_damaged_weights(folder, monkeypatch):
    def out_of_memory(*_args, **_kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("llava.model.multimodal_encoder.clip_encoder.CLIPVisionModel.from_pretrained", out_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        CLIPVisionTower(str(folder), args())
