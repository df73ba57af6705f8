"""Proof against an independent reference: the same random weights in our classes and in plain transformers.

transformers' LLaVA models split, name and tile things their own way: equal logits say that tower, projector, packing
and splice together do what LLaVA does. Sizes avoid the known differences of its tiling (ties when both sides fit one
tile, rounding in unpad).
"""

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    MistralConfig,
    Qwen2Config,
)

from llava.constants import IMAGE_TOKEN_INDEX
from tests.tiny import SMALL, VOCAB, tiny_anyres_llava, tiny_clip_config, tiny_images, tiny_llava, tiny_llm_config

PLACEHOLDER = VOCAB - 1
TEXT_CONFIGS = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config}


def reference_of(ours, family, config_class, model_class, **extra):
    """A transformers model with our weights under its names."""
    config = config_class(
        text_config=TEXT_CONFIGS[family](**tiny_llm_config()),
        vision_config=tiny_clip_config(),
        image_token_index=PLACEHOLDER,
        projector_hidden_act="gelu",
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
        **extra,
    )
    model = model_class(config).eval()
    state = {}
    for key, value in ours.state_dict().items():
        for old, new in (
            ("model.vision_tower.vision_tower.vision_model.", "model.vision_tower."),
            ("model.mm_projector.0.", "model.multi_modal_projector.linear_1."),
            ("model.mm_projector.2.", "model.multi_modal_projector.linear_2."),
            ("model.image_newline", "model.image_newline"),
            ("lm_head.", "lm_head."),
            ("model.", "model.language_model."),
        ):
            if key.startswith(old):
                state[new + key.removeprefix(old)] = value
                break
    model.load_state_dict(state, strict=True)
    return model


@torch.no_grad()
def compare(ours, reference, ids, images, tokens, sizes=None):
    """Logits for a row whose one IMAGE_TOKEN_INDEX stands for `tokens` placeholders of the reference."""
    images = images if sizes is None else images[None]  # [1, T, 3, S, S]
    got = ours(torch.tensor([ids]), images=images, image_sizes=sizes).logits
    at = ids.index(IMAGE_TOKEN_INDEX)
    expanded = torch.tensor([ids[:at] + [PLACEHOLDER] * tokens + ids[at + 1 :]])
    extra = {} if sizes is None else {"image_sizes": torch.tensor([[h, w] for w, h in sizes])}
    want = reference(input_ids=expanded, pixel_values=images, **extra).logits
    assert got.shape == want.shape
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


IDS = [1, 17, 5, IMAGE_TOKEN_INDEX, 33, 8, 250]


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2"])
def test_llava(tmp_path, family):
    ours = tiny_llava(tmp_path, family)
    reference = reference_of(ours, family, LlavaConfig, LlavaForConditionalGeneration)
    compare(ours, reference, IDS, tiny_images(1), tokens=16)


# Original size (W, H) in tiles of 56 px; both sides exceed one tile, so no two canvases tie.
SIZES = {
    (112, 112): (2, 2),
    (100, 75): (2, 2),
    (70, 100): (2, 2),
    (160, 57): (3, 1),
    (60, 168): (1, 3),
    (320, 180): (2, 2),
}


@pytest.mark.parametrize("family", ["llama", "mistral"])
@pytest.mark.parametrize("size", SIZES)
def test_llava_next(tmp_path, family, size):
    ours = tiny_anyres_llava(tmp_path, family)
    pinpoints = [[height, width] for width, height in ours.config.image_grid_pinpoints]  # theirs are (H, W)
    reference = reference_of(
        ours, family, LlavaNextConfig, LlavaNextForConditionalGeneration, image_grid_pinpoints=pinpoints
    )
    cols, rows = SIZES[size]
    images = tiny_images(1 + cols * rows)
    with torch.no_grad():
        tokens = len(ours.image_sequences([images], [size])[0])
    compare(ours, reference, IDS, images, tokens, sizes=[size])


def test_next_counts_are_not_trivial(tmp_path):
    """The sizes above cover cut rows, cut columns and a full canvas."""
    ours = tiny_anyres_llava(tmp_path)
    counts = {}
    for size, (cols, rows) in SIZES.items():
        with torch.no_grad():
            counts[size] = len(ours.image_sequences([tiny_images(1 + cols * rows, SMALL)], [size])[0]) - 16
    assert counts[112, 112] == 8 * 9
    assert counts[100, 75] == 6 * 9
    assert counts[70, 100] < 8 * 9
    assert counts[160, 57] == 4 * 13
    assert counts[60, 168] == 12 * 5
