"""Names, signatures and return types of the text and image front end that outside clients rely on."""

from __future__ import annotations

import copy
import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList

from llava.conversation import Conversation, SeparatorStyle, conv_templates
from llava.mm_utils import KeywordsStoppingCriteria, process_images, tokenizer_image_token
from llava.model.tokenizer import load_tokenizer
from tests.tiny import SMALL, tiny_image_processor
from tests.tiny_text import build_sentencepiece

DOORS = {
    "llava.constants": [
        "CONTROLLER_HEART_BEAT_EXPIRATION",
        "DEFAULT_IMAGE_PATCH_TOKEN",
        "DEFAULT_IMAGE_TOKEN",
        "DEFAULT_IM_END_TOKEN",
        "DEFAULT_IM_START_TOKEN",
        "IGNORE_INDEX",
        "IMAGE_PLACEHOLDER",
        "IMAGE_TOKEN_INDEX",
        "LOGDIR",
        "WORKER_HEART_BEAT_INTERVAL",
    ],
    "llava.conversation": ["Conversation", "SeparatorStyle", "conv_templates", "default_conversation"],
    "llava.mm_utils": [
        "KeywordsStoppingCriteria",
        "divide_to_patches",
        "expand2square",
        "get_anyres_image_grid_shape",
        "get_model_name_from_path",
        "load_image_from_base64",
        "process_anyres_image",
        "process_images",
        "resize_and_pad_image",
        "select_best_resolution",
        "tokenizer_image_token",
    ],
    "llava.utils": ["disable_torch_init", "rank0_print"],
    "llava.data.preprocess": ["MaskingError", "preprocess", "preprocess_multimodal"],
    "llava.model.tokenizer": ["load_tokenizer"],
}


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in DOORS.items() for name in names])
def test_door(module: str, name: str) -> None:
    assert hasattr(importlib.import_module(module), name)


SIGNATURES = {
    # Positional parameters as the public package has them; ours may add more behind.
    ("llava.mm_utils", "tokenizer_image_token"): ["prompt", "tokenizer", "image_token_index", "return_tensors"],
    ("llava.mm_utils", "process_images"): ["images", "image_processor", "model_cfg"],
    ("llava.mm_utils", "process_anyres_image"): ["image", "processor", "grid_pinpoints"],
    ("llava.mm_utils", "get_model_name_from_path"): ["model_path"],
    ("llava.mm_utils", "KeywordsStoppingCriteria"): ["keywords", "tokenizer", "input_ids"],
    ("llava.mm_utils", "select_best_resolution"): ["original_size", "possible_resolutions"],
    ("llava.mm_utils", "get_anyres_image_grid_shape"): ["image_size", "grid_pinpoints", "patch_size"],
    ("llava.mm_utils", "resize_and_pad_image"): ["image", "target_resolution"],
    ("llava.mm_utils", "divide_to_patches"): ["image", "patch_size"],
    ("llava.mm_utils", "load_image_from_base64"): ["image"],
    ("llava.utils", "disable_torch_init"): [],
    ("llava.conversation", "Conversation"): ["system", "roles", "messages", "offset"],
    ("llava.data.preprocess", "preprocess"): ["conversation", "tokenizer", "version", "has_image"],
}


@pytest.mark.parametrize(("module", "name"), sorted(SIGNATURES))
def test_signature(module: str, name: str) -> None:
    door = getattr(importlib.import_module(module), name)
    expected = SIGNATURES[module, name]
    assert list(inspect.signature(door).parameters)[: len(expected)] == expected


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_tokenizer(build_sentencepiece(tmp_path_factory.mktemp("tokenizer")))


def test_tokenizer_image_token_returns(tokenizer: Any) -> None:
    assert inspect.signature(tokenizer_image_token).parameters["image_token_index"].default == -200
    ids = tokenizer_image_token("<image>\nQ", tokenizer)
    assert type(ids) is list and ids[:2] == [1, -200]
    # The call of most clients: one row with a batch axis.
    row = tokenizer_image_token("<image>\nQ", tokenizer, -200, return_tensors="pt").unsqueeze(0)
    assert (row.dtype, row.tolist()) == (torch.int64, [ids])


@pytest.mark.parametrize("ratio", ["pad", "anyres", None])
def test_process_images_returns(ratio: str | None) -> None:
    class Config:
        image_aspect_ratio = ratio
        image_grid_pinpoints = ((SMALL, 2 * SMALL), (2 * SMALL, 2 * SMALL))

    pictures = [Image.new("RGB", (80, 80)), Image.new("RGB", (80, 80))]
    result = process_images(pictures, tiny_image_processor(), Config())
    assert isinstance(result, Tensor)
    assert result.shape == ((2, 5, 3, SMALL, SMALL) if ratio == "anyres" else (2, 3, SMALL, SMALL))
    mixed = process_images([Image.new("RGB", (80, 80)), Image.new("RGB", (9, 99))], tiny_image_processor(), Config())
    assert isinstance(mixed, list if ratio == "anyres" else Tensor)
    assert all(isinstance(tiles, Tensor) for tiles in mixed)


def test_stopping_criterion_fits_transformers(tokenizer: Any) -> None:
    prompt = torch.tensor([[1, 5, 6]])
    criterion = KeywordsStoppingCriteria(["</s>"], tokenizer, prompt)
    assert isinstance(criterion, StoppingCriteria)
    assert StoppingCriteriaList([criterion])(torch.tensor([[9, 2]]), torch.zeros(1, 400)).tolist() == [True]
    assert not criterion(torch.tensor([[9, 9]]), None)  # clients of the public class read it as one bool


def test_conversation_as_clients_use_it() -> None:
    conv = conv_templates["vicuna_v1"].copy()
    assert isinstance(conv, Conversation) and isinstance(conv.messages, list)
    conv.append_message(conv.roles[0], "<image>\nQ")
    conv.append_message(conv.roles[1], None)
    assert conv.get_prompt().endswith("USER: <image>\nQ ASSISTANT:")
    stop = conv.sep if conv.sep_style != SeparatorStyle.TWO else conv.sep2
    assert stop == "</s>" == conv.stop_string()
    for name in ("system", "roles", "messages", "offset", "sep_style", "sep", "sep2", "version", "skip_next"):
        assert hasattr(conv, name)
    for name in ("get_images", "to_gradio_chatbot", "dict", "process_image"):
        assert callable(getattr(conv, name))
    # Positional construction as in the public dataclass.
    made = Conversation("system", ("a", "b"), [], 0, SeparatorStyle.SINGLE, "###", None, "v", skip_next=True)
    assert (made.version, made.skip_next, made.get_prompt()) == ("v", True, "system###")


def test_templates_are_deepcopied_by_llama_3_clients() -> None:
    """lmms-eval does so for llava_llama_3, whose `copy()` upstream loses the tokenizer."""
    for name, template in conv_templates.items():
        conversation = copy.deepcopy(template)
        conversation.append_message(conversation.roles[0], "hello")
        assert len(template.messages) == len(conv_templates[name].messages) == len(conversation.messages) - 1


def test_separator_styles() -> None:
    names = ["SINGLE", "TWO", "MPT", "PLAIN", "LLAMA_2", "CHATML", "LLAMA_3", "QWEN", "GEMMA"]
    assert [style.name for style in SeparatorStyle] == names


TEMPLATES = """default v0 v1 vicuna_v1 llama_2 mistral_instruct chatml_direct mistral_direct plain v0_plain llava_v0
v0_mmtag llava_v1 v1_mmtag llava_llama_2 mpt llava_v0_mmtag llava_v1_mmtag llava_mistral_instruct llava_llama_3
qwen_1_5 qwen_2 qwen_2_5 gemma_instruct mistral_orca mistral_zephyr llava_llama_2_simple llava_llama_2_mmtag""".split()


@pytest.mark.parametrize("name", TEMPLATES)
def test_template_exists(name: str) -> None:
    assert isinstance(conv_templates[name], Conversation)


def test_tokenizer_door(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(build_sentencepiece(tmp_path)), use_fast=False, padding_side="left")
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    assert (tokenizer.padding_side, len(tokenizer)) == ("left", 400)
