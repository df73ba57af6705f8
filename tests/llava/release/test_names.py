"""Names of weights in the two layouts."""

import pytest
import torch

from llava.release.names import FROM_HF, TO_HF, TOWER, renamed

PAIRS = {
    "model.embed_tokens.weight": "language_model.model.embed_tokens.weight",
    "model.layers.0.self_attn.q_proj.bias": "language_model.model.layers.0.self_attn.q_proj.bias",
    "lm_head.weight": "language_model.lm_head.weight",
    "model.mm_projector.2.bias": "multi_modal_projector.linear_2.bias",
    f"{TOWER}pre_layrnorm.weight": "vision_tower.vision_model.pre_layrnorm.weight",
    "model.image_newline": "image_newline",
}
IN_MEMORY = {
    "model.embed_tokens.weight": "model.language_model.embed_tokens.weight",
    "lm_head.weight": "lm_head.weight",
    "model.mm_projector.0.weight": "model.multi_modal_projector.linear_1.weight",
    f"{TOWER}pre_layrnorm.weight": "model.vision_tower.pre_layrnorm.weight",
    "model.image_newline": "model.image_newline",
}
ONE = torch.zeros(1)


@pytest.mark.parametrize(("ours", "theirs"), PAIRS.items())
def test_there_and_back(ours: str, theirs: str) -> None:
    assert list(renamed({ours: ONE}, TO_HF, "x")) == [theirs]
    assert list(renamed({theirs: ONE}, FROM_HF, "x")) == [ours]


@pytest.mark.parametrize(("ours", "theirs"), IN_MEMORY.items())
def test_the_names_transformers_5_has_in_memory(ours: str, theirs: str) -> None:
    assert list(renamed({theirs: ONE}, FROM_HF, "x")) == [ours]


def test_strangers_and_doubles_are_named() -> None:
    with pytest.raises(ValueError, match=r"does not know: audio\.0"):
        renamed({"audio.0": ONE}, TO_HF, "x")
    with pytest.raises(ValueError, match=r"two weights stand for lm_head\.weight"):
        renamed({"lm_head.weight": ONE, "language_model.lm_head.weight": ONE}, FROM_HF, "x")
