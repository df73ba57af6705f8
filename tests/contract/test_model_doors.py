"""Names, signatures and import paths of the model that outside clients use (lmms-eval, ports of other methods)."""

import importlib
import inspect
import subprocess
import sys

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from llava.constants import IMAGE_TOKEN_INDEX
from tests.tiny import FAMILIES, llava_classes, tiny_images, tiny_llava


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_llava(tmp_path_factory.mktemp("model")).requires_grad_(False)


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("llava", ["LlavaLlamaForCausalLM"]),
        (
            "llava.model",
            [
                "LlavaLlamaForCausalLM",
                "LlavaConfig",
                "LlavaMistralForCausalLM",
                "LlavaMistralConfig",
                "LlavaQwenForCausalLM",
                "LlavaQwenConfig",
            ],
        ),
        ("llava.model.language_model.llava_llama", ["LlavaConfig", "LlavaLlamaModel", "LlavaLlamaForCausalLM"]),
        ("llava.model.language_model.llava_mistral", ["LlavaMistralConfig", "LlavaMistralModel"]),
        ("llava.model.language_model.llava_qwen", ["LlavaQwenConfig", "LlavaQwenModel", "LlavaQwenForCausalLM"]),
        ("llava.model.llava_arch", ["LlavaMetaModel", "LlavaMetaForCausalLM", "unpad_image"]),
        ("llava.model.multimodal_encoder.clip_encoder", ["CLIPVisionTower"]),
        ("llava.model.multimodal_encoder.builder", ["build_vision_tower"]),
        ("llava.model.multimodal_projector.builder", ["build_vision_projector"]),
    ],
)
def test_import_paths(module, names):
    for name in names:
        assert hasattr(importlib.import_module(module), name), f"{module}.{name}"


@pytest.mark.parametrize("module", ["llava", "llava.model"])
def test_unknown_names_are_attribute_errors(module):
    with pytest.raises(AttributeError, match="NoSuchThing"):
        _ = importlib.import_module(module).NoSuchThing


def test_import_llava_is_light():
    probe = "import sys, llava; print('torch' in sys.modules, 'transformers' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "False"]


@pytest.mark.parametrize(
    ("family", "model_type"), [("llama", "llava_llama"), ("mistral", "llava_mistral"), ("qwen2", "llava_qwen")]
)
def test_model_types(family, model_type):
    config_class, model_class = llava_classes(family)
    assert config_class.model_type == model_type
    assert model_class.config_class is config_class


@pytest.mark.parametrize("family", FAMILIES)
def test_class_hierarchy(family):
    from llava.model.llava_arch import LlavaMetaForCausalLM, LlavaMetaModel

    _, model_class = llava_classes(family)
    assert issubclass(model_class, LlavaMetaForCausalLM)
    assert issubclass(model_class, PreTrainedModel)
    assert issubclass(model_class.decoder_class, LlavaMetaModel)
    plain = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM"}[family]
    assert plain in [parent.__name__ for parent in model_class.__mro__]


def parameters(function):
    return [name for name in inspect.signature(function).parameters if name not in ("self", "kwargs")]


@pytest.mark.parametrize("family", FAMILIES)
def test_forward_signature(family):
    """Positions of the public v1 forward; additions of NeXT after it."""
    assert parameters(llava_classes(family)[1].forward)[:13] == [
        "input_ids",
        "attention_mask",
        "position_ids",
        "past_key_values",
        "inputs_embeds",
        "labels",
        "use_cache",
        "output_attentions",
        "output_hidden_states",
        "images",
        "image_sizes",
        "return_dict",
        "modalities",
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_generate_signature(family):
    generate = llava_classes(family)[1].generate
    assert parameters(generate) == ["inputs", "images", "image_sizes", "modalities"]
    assert all(
        p.default is None for name, p in inspect.signature(generate).parameters.items() if name in parameters(generate)
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_prepare_signature(family):
    """Seven in (v1 order), modalities by keyword."""
    prepare = llava_classes(family)[1].prepare_inputs_labels_for_multimodal
    assert parameters(prepare) == [
        "input_ids",
        "position_ids",
        "attention_mask",
        "past_key_values",
        "labels",
        "images",
        "image_sizes",
        "modalities",
    ]


def test_prepare_is_seven_in_six_out(model):
    ids = torch.tensor([[1, IMAGE_TOKEN_INDEX, 3]])
    out = model.prepare_inputs_labels_for_multimodal(ids, None, None, None, None, tiny_images(1), [(56, 56)])
    assert isinstance(out, tuple)
    assert len(out) == 6
    assert out[0] is None
    assert out[4].shape == (1, 18, 48)


def test_methods_and_attributes(model):
    decoder = model.get_model()
    assert decoder is model.model
    assert model.get_vision_tower() is decoder.vision_tower is decoder.get_vision_tower()
    assert isinstance(decoder.mm_projector, nn.Module)
    assert isinstance(decoder.embed_tokens, nn.Embedding)
    assert isinstance(model.lm_head, nn.Linear)
    features = model.encode_images(tiny_images(2))
    assert isinstance(features, torch.Tensor)
    assert features.shape == (2, 16, 48)
    assert parameters(decoder.initialize_vision_modules) == ["model_args", "fsdp"]
    assert parameters(model.initialize_vision_tokenizer) == ["model_args", "tokenizer"]


def test_tower_surface(model):
    tower = model.get_vision_tower()
    public = (
        "is_loaded vision_tower_name select_layer select_feature image_processor vision_tower config hidden_size "
        "num_patches num_patches_per_side dtype device dummy_feature load_model feature_select forward "
        "encode compressor"
    )
    missing = [name for name in public.split() if not hasattr(tower, name)]
    assert not missing
    assert parameters(type(tower).load_model)[0] == "device_map"
    assert parameters(type(tower).__init__) == ["vision_tower", "args", "delay_load"]


def test_generate_returns_new_tokens_only(model):
    ids = torch.tensor([[1, 5, IMAGE_TOKEN_INDEX, 7]])
    assert model.generate(ids, images=tiny_images(1), max_new_tokens=2, eos_token_id=None).shape == (1, 2)


def test_logits_have_the_expanded_length(model):
    """As lmms-eval's log-likelihood calls it: outputs answer to keys as well."""
    ids = torch.tensor([[1, 5, IMAGE_TOKEN_INDEX, 7]])
    out = model(input_ids=ids, labels=ids, images=tiny_images(1), use_cache=True, image_sizes=[(56, 56)])
    assert out["logits"].shape[1] == 3 + 16
    assert out["loss"].isfinite()


def test_model_can_be_evaluated_tied_and_moved(model):
    """What lmms-eval does after loading."""
    model.eval()
    model.tie_weights()
    assert model.to("cpu") is model
