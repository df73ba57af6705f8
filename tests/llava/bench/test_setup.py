"""Models from shapes alone, and the request they are asked."""

import pytest
import torch

from llava.bench.setup import from_checkpoint, from_shape, picture_of, question_for
from llava.constants import IMAGE_TOKEN_INDEX
from tests.llava.bench.tiny_subject import tiny_subject


@pytest.fixture(scope="module")
def subject():
    return tiny_subject()


def test_a_shape_needs_no_files_and_names_none(subject):
    described = subject.describe()
    assert described["name"] == "llava-v1.6-vicuna-7b (reduced)"
    assert described["weights"] == "random"
    assert (described["layers"], described["width"], described["tower_layers"], described["patches"]) == (18, 64, 4, 64)
    assert subject.model.config.mm_vision_tower == "openai/clip-vit-large-patch14-336"
    assert not any(parameter.requires_grad for parameter in subject.model.parameters())


def test_weights_are_random_but_the_same_for_one_seed(subject):
    again, other = tiny_subject(), tiny_subject(seed=1)
    weight = subject.model.lm_head.weight
    assert torch.equal(weight, again.model.lm_head.weight)
    assert not torch.equal(weight, other.model.lm_head.weight)
    assert weight.std() > 0


def test_building_leaves_the_global_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    tiny_subject()
    assert torch.equal(torch.rand(1), expected)


def test_the_question_is_llavas_prompt_around_a_picture_of_five_tiles(subject):
    question = question_for(subject, text=60)
    assert question.tiles == 5
    assert question.text == 60
    assert (question.ids[0] == IMAGE_TOKEN_INDEX).nonzero().item() == 35
    sequence = subject.model.image_sequences(question.pixels, question.sizes)[0]
    assert len(sequence) == 64 + 16 * 17  # overview, and 16 x 16 patches with an end for every line


def test_a_single_tile_where_the_model_does_not_tile():
    question = question_for(tiny_subject("liuhaotian/llava-v1.5-7b"), text=40)
    assert question.tiles == 1
    assert tuple(question.pixels.shape) == (1, 3, 112, 112)


def test_a_prompt_shorter_than_its_own_words_is_refused(subject):
    with pytest.raises(ValueError, match="--text 35: LLaVA's prompt alone has 35 tokens"):
        question_for(subject, text=35)


def test_an_unknown_shape_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"no public shape is called 'llava-9b'; known: .*llava-v1.5-7b"):
        from_shape("llava-9b", "cpu", torch.float32)


def test_a_checkpoint_is_loaded_dense_and_answers_at_any_length():
    subject = from_checkpoint("playground/miniature/llava-mini-v1.5", "cpu", torch.float32)
    question = question_for(subject, text=40)
    ids = subject.model.generate(question.ids, images=question.pixels, image_sizes=question.sizes, max_new_tokens=40)
    assert subject.describe()["weights"] == "checkpoint"
    assert ids.shape == (1, 40)  # a trained model would have ended long before


def test_four_bits_shrink_the_language_model_only():
    subject = tiny_subject("liuhaotian/llava-v1.5-7b", bits=4)
    kinds = {name: type(module).__name__ for name, module in subject.model.named_modules()}
    assert kinds["model.layers.0.mlp.up_proj"] == "Linear4bit"
    assert kinds["lm_head"] == "Linear"
    assert "4bit" not in str({kind for name, kind in kinds.items() if "vision" in name or "mm_projector" in name})


def test_pictures_have_content_at_every_scale_and_differ_by_seed():
    first, second = picture_of(64, seed=0), picture_of(64, seed=1)
    assert first.size == (64, 64)
    assert first.tobytes() == picture_of(64, seed=0).tobytes() != second.tobytes()
