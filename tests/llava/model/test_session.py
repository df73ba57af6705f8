"""Session against `model.generate` on the whole conversation, and what it computes again: only what is new."""

import pytest
import torch

from llava.constants import IMAGE_TOKEN_INDEX
from llava.model.session import Session
from tests.tiny import FAMILIES, LARGE, tiny_anyres_llava, tiny_images, tiny_llava
from visionzip import detach, visionzip

IMG = IMAGE_TOKEN_INDEX
NEW = 8
TURNS = [[1, 17, IMG, 33, 8], [44, 7, 3], [60, 9, 12, 5]]


class Talk:
    """A conversation with a session, its answers checked against generate; counts tiles the tower encodes and tokens
    the decoder sees."""

    def __init__(self, model, **generate):
        self.model, self.session, self.generate = model, Session(model), generate
        self.ids: list[int] = []

    def ask(self, turn, images, sizes=None, ids=None, **keys):
        """-> (tiles encoded, tokens through the decoder)"""
        self.ids = (self.ids if ids is None else ids) + turn
        wanted = self.model.generate(
            torch.tensor([self.ids]), images=images, image_sizes=sizes, max_new_tokens=NEW, do_sample=False,
            pad_token_id=0, **self.generate,
        )[0]  # fmt: skip
        tiles, tokens = [], []
        tower = self.model.get_vision_tower().vision_tower.vision_model.embeddings
        hooks = [
            tower.register_forward_pre_hook(lambda _, args: tiles.append(len(args[0]))),
            self.model.get_model().norm.register_forward_pre_hook(lambda _, args: tokens.append(args[0].shape[1])),
        ]
        got = self.session.ask(torch.tensor(self.ids), images, sizes, max_new_tokens=NEW, **keys, **self.generate)
        for hook in hooks:
            hook.remove()
        assert torch.equal(got, wanted), (got, wanted)
        self.ids = self.ids + got.tolist()
        return sum(tiles), tokens[0]


@pytest.fixture(scope="module", params=FAMILIES)
def model(request, tmp_path_factory):
    return tiny_llava(tmp_path_factory.mktemp(request.param), request.param, LARGE).requires_grad_(False)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return tiny_llava(tmp_path_factory.mktemp("llama"), "llama", LARGE).requires_grad_(False)


@pytest.fixture
def zipped(llama):
    yield visionzip(llama, 12, 4)
    detach(llama)


def test_three_turns_encode_the_image_once_and_compute_only_the_new_turn(model):
    talk, images = Talk(model, eos_token_id=[]), tiny_images(1, LARGE)
    seen = [talk.ask(turn, images) for turn in TURNS]
    # The last token of an answer was never fed, so a turn feeds it and its own words.
    assert seen == [(1, 4 + 144), (0, 1 + 3), (0, 1 + 4)]
    assert talk.session.cached_tokens == len(talk.ids) - 1 + 144 - 1


def test_answers_that_end_early(zipped):
    free = zipped.generate(torch.tensor([TURNS[0]]), images=tiny_images(1, LARGE), max_new_tokens=NEW, pad_token_id=0)
    talk, images = Talk(zipped, eos_token_id=int(free[0, 2])), tiny_images(1, LARGE)
    talk.ask(TURNS[0], images)
    assert len(talk.ids) == 5 + 3
    assert talk.ask(TURNS[1], images) == (0, 4)


def test_an_edited_turn_is_computed_again_from_there(zipped):
    talk, images = Talk(zipped, eos_token_id=[]), tiny_images(1, LARGE)
    for turn in TURNS:
        talk.ask(turn, images)
    first = talk.ids[: 5 + NEW]
    assert talk.ask([44, 8, 3, 21], images, ids=first) == (0, 3), "44 and what was before it is held"
    assert talk.ask([5], images, ids=[1, 18, IMG, 33]) == (0, 1 + 16 + 1 + 1), "the image moved not, what is before did"
    assert talk.ask([], images, ids=[1, 18, IMG, 33, 5]) == (0, 1), "asked again: the last word gives the answer"


def test_a_second_image_in_a_later_turn(zipped):
    talk = Talk(zipped, eos_token_id=[])
    one, two = tiny_images(1, LARGE), tiny_images(1, LARGE, seed=1)
    assert talk.ask(TURNS[0], one) == (1, 4 + 16)
    assert talk.ask([4, IMG, 6], torch.cat([one, two])) == (1, 1 + 2 + 16)
    assert talk.ask([5], torch.cat([one, two])) == (0, 1 + 1)
    assert talk.ask([], torch.cat([two, one]))[0] == 0, "known, only in other places"
    other = tiny_images(1, LARGE, seed=2)
    assert talk.ask([9], torch.cat([other, one]))[0] == 1, "another picture in the place of one that was seen"


def test_tiled_images_and_their_sizes(tmp_path):
    model = visionzip(tiny_anyres_llava(tmp_path, "llama", LARGE).requires_grad_(False), 12, 4)
    talk, image = Talk(model, eos_token_id=[]), tiny_images(3, LARGE)
    assert talk.ask(TURNS[0], [image], [(336, 168)]) == (3, 4 + 48)
    assert talk.ask(TURNS[1], [image], [(336, 168)]) == (0, 4)
    detach(model)
    assert talk.ask(TURNS[1], [image], [(336, 168)])[0] == 3
    assert talk.ask(TURNS[2], [image], [(336, 100)])[0] == 3, "dense tokens depend on the size of the picture"


def test_another_compressor_begins_anew(llama):
    talk, images = Talk(llama, eos_token_id=[]), tiny_images(1, LARGE)
    visionzip(llama, 12, 4)
    assert talk.ask(TURNS[0], images) == (1, 4 + 16)
    visionzip(llama, 12, 4)
    assert talk.ask(TURNS[1], images) == (0, 4), "an equal one is the same"
    for change in (lambda: visionzip(llama, 20, 4), lambda: detach(llama)):
        change()
        tiles, tokens = talk.ask(TURNS[1], images)
        assert tiles == 1
        assert tokens > len(talk.ids) - NEW
    visionzip(llama, 20, 4)
    talk.ask(TURNS[1], images)
    visionzip(llama, 20, 4, order="spatial")
    assert talk.ask(TURNS[1], images)[0] == 1
    detach(llama)


def test_keys_of_the_caller_stand_for_pixels(zipped):
    talk, image = Talk(zipped, eos_token_id=[]), tiny_images(1, LARGE)
    assert talk.ask(TURNS[0], image, image_keys=["a"])[0] == 1
    assert talk.ask(TURNS[1], image, image_keys=["a"]) == (0, 4)
    assert talk.ask(TURNS[1], image, image_keys=["b"])[0] == 1


def test_only_images_of_the_conversation_are_kept(zipped):
    session = Session(zipped)
    for seed in range(4):
        session.ask(torch.tensor([1, IMG, 5]), tiny_images(1, LARGE, seed), max_new_tokens=2)
    assert len(session._images) == 1
    session.clear()
    assert (session.cached_tokens, session._images) == (0, {})


def test_a_conversation_without_images(llama):
    talk = Talk(llama, eos_token_id=[])
    assert talk.ask([1, 5, 6], ()) == (0, 3)
    assert talk.ask([9], ()) == (0, 2)


def test_a_failure_leaves_no_wrong_cache(zipped):
    """The decoder has filled the cache when the head fails."""

    def fail(*_):
        raise MemoryError

    talk, images = Talk(zipped, eos_token_id=[]), tiny_images(1, LARGE)
    talk.ask(TURNS[0], images)
    hook = zipped.lm_head.register_forward_pre_hook(fail)
    with pytest.raises(MemoryError):
        talk.session.ask(torch.tensor([*talk.ids, 4, 4]), images, max_new_tokens=2)
    hook.remove()
    assert talk.session.cached_tokens == 0
    talk.ask(TURNS[1], images)


@pytest.mark.parametrize(
    ("ids", "images", "arguments", "named"),
    [
        ([1, IMG, IMG], 1, {}, "holds 2 image tokens; got images, sizes, keys: .1."),
        ([1, IMG], 1, {"image_keys": []}, "holds 1 image tokens; got images, sizes, keys: .1, 0."),
        ([], 0, {}, "expected ids"),
        ([1], 0, {"max_new_tokens": 0}, "max_new_tokens >= 1; got .1., 0"),
        ([1, *range(3, 40), IMG], 1, {}, "53|54 tokens with its images, the model takes 50"),
    ],
)
def test_says_what_does_not_fit(zipped, monkeypatch, ids, images, arguments, named):
    monkeypatch.setattr(zipped.config, "tokenizer_model_max_length", 50, raising=False)
    with pytest.raises(ValueError, match=named):
        Session(zipped).ask(
            torch.tensor(ids, dtype=torch.long), tiny_images(images, LARGE), **({"max_new_tokens": 3} | arguments)
        )


def test_refuses_models_that_do_not_decode_plainly(llama, monkeypatch):
    monkeypatch.setattr(llama.generation_config, "repetition_penalty", 1.1)
    with pytest.raises(ValueError, match=r"repetition_penalty is 1\.1"):
        Session(llama)
