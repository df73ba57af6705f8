"""The inputs of methods inside the language model: our own splice, told where the images are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from llava.bench.in_llm import spliced_inputs
from llava.constants import IMAGE_TOKEN_INDEX
from tests.tiny import FAMILIES, tiny_anyres_llava, tiny_images, tiny_llava
from visionzip import visionzip
from visionzip.in_llm import FastV, SparseVLM, generate, prefill

ROWS = torch.tensor([
    [1, 7, IMAGE_TOKEN_INDEX, 30, 31, 32, 0, 0],
    [1, IMAGE_TOKEN_INDEX, 12, 13, IMAGE_TOKEN_INDEX, 40, 41, 42],
])
REAL = torch.tensor([[1, 1, 1, 1, 1, 1, 0, 0], [1] * 8])


@pytest.mark.parametrize("side", ["left", "right"])
def test_visual_tokens_are_where_the_images_went(tmp_path: Path, side: str) -> None:
    """16 tokens per image; a row of one image and five words beside a row of two images and six words."""
    model = tiny_llava(tmp_path, tokenizer_padding_side=side)
    images = tiny_images(3)
    embeds, mask, visual = spliced_inputs(model, ROWS, images, attention_mask=REAL)
    assert mask.sum(1).tolist() == [5 + 16, 6 + 32]
    assert visual.int().tolist() == [
        [0] * 17 + [0] * 2 + [1] * 16 + [0] * 3,
        [0] + [1] * 16 + [0] * 2 + [1] * 16 + [0] * 3,
    ]
    features = model.encode_images(images)
    assert_close(embeds[0][visual[0]], features[0])
    assert_close(embeds[1][visual[1]], features[1:].flatten(0, 1))
    assert_close(embeds[1, 17:19], model.get_model().embed_tokens(ROWS[1, 2:4]))


def test_tiles_newlines_and_compression(tmp_path: Path) -> None:
    """Whatever makes the image's tokens, they are all found: as many as image_sequences gives."""
    model = tiny_anyres_llava(tmp_path)
    tiles, size = [tiny_images(5)], [(100, 90)]
    for dominant in (None, 4):
        if dominant:
            visionzip(model, dominant=dominant, contextual=2)
        (expected,) = model.image_sequences(tiles, size)
        embeds, _, visual = spliced_inputs(model, ROWS[:1, :6], tiles, size)
        assert int(visual.sum()) == len(expected)
        assert_close(embeds[visual], expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_dense_answers_are_the_models_own(tmp_path: Path, family: str) -> None:
    model = tiny_llava(tmp_path, family, **({"sliding_window": None} if family == "mistral" else {}))
    images = tiny_images(3)
    given = spliced_inputs(model, ROWS, images, attention_mask=REAL)
    ids = generate(model, *given, max_new_tokens=8, eos_token_id=2)
    own = model.generate(ROWS, images=images, attention_mask=REAL, max_new_tokens=8, do_sample=False, eos_token_id=2)
    assert ids.tolist() == own.tolist()


@pytest.mark.parametrize(("pruner", "left"), [(FastV(1, keep=5), 5), (SparseVLM((5,), (0,), recycle=False), 5)])
def test_pruning_starts_from_what_visionzip_left(tmp_path: Path, pruner: FastV | SparseVLM, left: int) -> None:
    model = visionzip(tiny_llava(tmp_path), dominant=6, contextual=3)
    state = prefill(model.get_decoder(), *spliced_inputs(model, ROWS[:1, :6], tiny_images(1)), pruner)
    assert state.visual_per_layer == ((9,), (left,))


def test_a_model_without_a_tower_is_refused(tmp_path: Path) -> None:
    model = tiny_llava(tmp_path)
    model.get_model().vision_tower = None
    with pytest.raises(ValueError, match="no mm_vision_tower"):
        spliced_inputs(model, ROWS[:1, :6], tiny_images(1))
