"""The model side of evaluation on a tiny real model: what is answered depends on the row alone."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image

from llava.eval.answerer import (
    Decoding,
    LlavaAnswerer,
    Prompt,
    answer_batch,
    pad_left,
    prepare_pixels,
    render,
    user_turn,
)
from llava.eval.generate import generate
from llava.eval.loading import load_model
from llava.eval.methods import apply_method
from llava.eval.question_set import read_question_set
from llava.eval.records import Question, read_answers
from llava.eval.shards import Shard
from llava.mm_utils import load_image
from llava.model.fast import FastGenerator
from tests.tiny import tiny_anyres_llava
from tests.tiny_checkpoints import TOKENS, tiny_vicuna_llava, write_tower, write_v15, write_v16
from visionzip import Budget, VisionZip, attach, detach

SIZES = ((80, 60), (56, 56), (30, 90), (200, 40))
TEXTS = ("What colour is the square?", "How many?", "Is there a blue circle? Answer the question using a single word.")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("v15")
    return write_v15(tiny_vicuna_llava(folder), folder / "llava-tiny", dtype=torch.float32)


@pytest.fixture
def loaded(checkpoint):
    return load_model(str(checkpoint), device="cpu")


@pytest.fixture
def answerer(loaded):
    decoding = Decoding(max_new_tokens=6)
    return LlavaAnswerer(loaded.model, loaded.tokenizer, loaded.image_processor, loaded.name, decoding)


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """Eleven questions of three lengths over four picture sizes, the last without a picture."""
    folder = tmp_path_factory.mktemp("questions")
    generator = torch.Generator().manual_seed(0)
    for index, (width, height) in enumerate(SIZES):
        pixels = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / f"{index}.png")
    rows = [{"question_id": i, "text": TEXTS[i % 3], "image": f"{i % 4}.png"} for i in range(11)]
    del rows[10]["image"]
    (folder / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def run(answerer, questions, file, limit=None, **options):
    return generate(answerer, read_question_set(questions / "q.jsonl", questions).first(limit), file, **options)


@pytest.mark.parametrize("budget", [None, Budget(5, 2)], ids=["dense", "zipped"])
def test_batch_size_changes_no_answer(answerer, questions, tmp_path, budget):
    apply_method(answerer.model, "dense" if budget is None else "visionzip", budget)
    one = run(answerer, questions, tmp_path / "1.jsonl")
    assert len({answer.text for answer in one.answers}) > 5  # the model does look at its input
    for size in (4, 11):
        run(answerer, questions, tmp_path / f"{size}.jsonl", batch_size=size)
        assert (tmp_path / f"{size}.jsonl").read_bytes() == (tmp_path / "1.jsonl").read_bytes()
    assert one.tokens_per_image == (16 if budget is None else 7)
    assert "visual_tokens" not in one.answers[10].metadata


def test_the_order_of_the_questions_changes_no_answer(answerer, questions, tmp_path):
    """Other neighbours in a batch, other padding, other shards."""
    straight = run(answerer, questions, tmp_path / "a.jsonl", batch_size=4).answers
    lines = (questions / "q.jsonl").read_text().splitlines(keepends=True)
    shuffled = [lines[index] for index in torch.randperm(len(lines), generator=torch.Generator().manual_seed(1))]
    assert shuffled != lines
    (tmp_path / "q.jsonl").write_text("".join(shuffled))
    asked = read_question_set(tmp_path / "q.jsonl", questions)
    for count in (1, 3):
        parts = [
            generate(answerer, asked, tmp_path / f"{count}-{index}.jsonl", batch_size=4, shard=Shard(index, count))
            for index in range(count)
        ]
        given = [answer for part in parts for answer in part.answers]
        assert [answer.question_id for answer in given] == [question.question_id for question in asked.questions]
        assert sorted(given, key=lambda answer: answer.question_id) == straight


def test_a_torn_file_and_shards_give_the_answers_of_one_run(answerer, questions, tmp_path):
    whole = run(answerer, questions, tmp_path / "whole.jsonl", batch_size=4).answers
    torn = tmp_path / "torn.jsonl"
    run(answerer, questions, torn, batch_size=3, limit=6)
    torn.write_bytes(torn.read_bytes()[:-20])
    again = run(answerer, questions, torn, batch_size=4)
    assert again.asked == 6 and torn.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    parts = [
        run(answerer, questions, tmp_path / f"{i}.jsonl", batch_size=2, shard=Shard(i, 3)).answers for i in range(3)
    ]
    assert [answer for part in parts for answer in part] == whole


def sampler(answerer, seed=0):
    drawn = replace(answerer.decoding, temperature=1.0, top_p=0.9, seed=seed)
    return replace(answerer, decoding=drawn)


def test_sampled_answers_are_those_of_seed_and_question(answerer, questions, tmp_path):
    """In any order, in shards, after a stop, and whatever was drawn in the process before."""
    torch.manual_seed(5)
    whole = run(sampler(answerer), questions, tmp_path / "whole.jsonl").answers
    said = {answer.question_id: answer.text for answer in whole}
    torch.manual_seed(6)
    lines = (questions / "q.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "q.jsonl").write_text("".join(lines[::-1]))
    asked = read_question_set(tmp_path / "q.jsonl", questions)
    for index in range(2):
        part = generate(sampler(answerer), asked, tmp_path / f"{index}.jsonl", shard=Shard(index, 2)).answers
        assert part and {answer.question_id: answer.text for answer in part}.items() <= said.items()
    run(sampler(answerer), questions, tmp_path / "stopped.jsonl", limit=4)
    assert run(sampler(answerer), questions, tmp_path / "stopped.jsonl").answers == whole
    other = run(sampler(answerer, seed=1), questions, tmp_path / "other.jsonl").answers
    assert sum(one.text != two.text for one, two in zip(whole, other, strict=True)) > 5


def test_equal_questions_draw_for_themselves_and_leave_the_random_state(answerer):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    batches = [[sampler(answerer).load(Question(name, "How many?"), None)] for name in "abcd"]
    assert len({sampler(answerer).reply(batch)[0].text for batch in batches}) > 1
    assert torch.equal(torch.get_rng_state(), before)


def test_the_seed_is_among_the_settings_of_sampled_answers_alone(answerer, questions, tmp_path):
    assert "seed" not in answerer.settings and sampler(answerer, seed=4).settings["seed"] == 4
    assert sampler(answerer).settings.keys() - {"seed"} == answerer.settings.keys()
    run(sampler(answerer), questions, tmp_path / "a.jsonl", limit=2)
    with pytest.raises(ValueError, match=r"begun with other settings \(seed: 0 then, 1 now\)"):
        run(sampler(answerer, seed=1), questions, tmp_path / "a.jsonl")
    run(answerer, questions, tmp_path / "b.jsonl", limit=2)
    seeded = replace(answerer, decoding=replace(answerer.decoding, seed=9))
    assert run(seeded, questions, tmp_path / "b.jsonl", limit=2).asked == 0, "greedy answers have no seed"


def test_sampling_in_batches_is_refused(answerer, questions, tmp_path):
    with pytest.raises(ValueError, match=r"--temperature 1\.0\) needs --batch-size 1, got 4"):
        run(sampler(answerer), questions, tmp_path / "a.jsonl", batch_size=4)


def test_padding_side_of_the_config_changes_no_answer(answerer, questions, tmp_path):
    run(answerer, questions, tmp_path / "a.jsonl", batch_size=4)
    answerer.model.config.tokenizer_padding_side = "left"
    run(answerer, questions, tmp_path / "b.jsonl", batch_size=4)
    assert read_answers(tmp_path / "a.jsonl") == read_answers(tmp_path / "b.jsonl")


def test_another_compressor_is_another_answer_file(answerer, questions, tmp_path):
    dense = run(answerer, questions, tmp_path / "a.jsonl", batch_size=4)
    attach(answerer.model, VisionZip(3, 1))
    with pytest.raises(ValueError, match=r"begun with other settings .*compressor: None then, .*'dominant': 3"):
        run(answerer, questions, tmp_path / "a.jsonl")
    zipped = run(answerer, questions, tmp_path / "b.jsonl", batch_size=4)
    assert [a.text for a in zipped.answers] != [a.text for a in dense.answers]
    detach(answerer.model)
    back = run(answerer, questions, tmp_path / "c.jsonl", batch_size=4)
    assert back.answers == dense.answers


def test_tiled_pictures_of_mixed_sizes_are_counted_as_they_enter(tmp_path, questions):
    model = tiny_anyres_llava(tmp_path, vocab_size=TOKENS)
    write_tower(model, tmp_path / "tower")
    loaded = load_model(str(write_v16(model, tmp_path / "llava-v1.6-tiny", dtype=torch.float32)), device="cpu")
    decoding = Decoding(max_new_tokens=4)
    answerer = LlavaAnswerer(loaded.model, loaded.tokenizer, loaded.image_processor, "m", decoding)
    for budget in (None, Budget(5, 2)):
        apply_method(loaded.model, "dense" if budget is None else "visionzip", budget)
        name = f"{budget}.jsonl"
        one = run(answerer, questions, tmp_path / f"1-{name}")
        run(answerer, questions, tmp_path / f"4-{name}", batch_size=4)
        assert (tmp_path / f"1-{name}").read_bytes() == (tmp_path / f"4-{name}").read_bytes()
        for answer, index in zip(one.answers, range(4), strict=False):
            prompt = answerer.load(Question(0, "q", "x"), load_image(questions / f"{index}.png"))
            (row,) = loaded.model.image_sequences(list(prompt.pixels), list(prompt.sizes))
            assert answer.metadata["visual_tokens"] == len(row)


def test_rows_may_hold_no_one_or_several_images(loaded):
    config, decoding = loaded.model.config, Decoding(max_new_tokens=5)
    pictures = [Image.new("RGB", (40 + 10 * i, 50), (60 * i, 200 - 50 * i, 90)) for i in range(3)]

    def prompt(text, images):
        turn = user_turn(text, len(images), config, joint=" ")
        pixels = prepare_pixels(images, loaded.image_processor, config)
        return Prompt(render("vicuna_v1", [turn]), pixels, tuple(image.size for image in images))

    prompts = [prompt("How many?", pictures[:2]), prompt("hello", []), prompt("What colour?", pictures[2:])]
    together = answer_batch(loaded.model, loaded.tokenizer, prompts, decoding)
    alone = [answer_batch(loaded.model, loaded.tokenizer, [row], decoding)[0] for row in prompts]
    assert together == alone and [reply.visual_tokens for reply in together] == [32, 0, 16]
    beams = answer_batch(loaded.model, loaded.tokenizer, prompts, replace(decoding, num_beams=2))
    assert [reply.visual_tokens for reply in beams] == [32, 0, 16]
    assert not loaded.model.get_model()._forward_pre_hooks


def test_the_fast_path_gives_the_same_replies(loaded, questions, tmp_path):
    """Texts and measured visual tokens, in a batch of unequal rows whose last has no picture; settings are the same."""
    decoding = Decoding(max_new_tokens=6)
    given = (loaded.model, loaded.tokenizer, loaded.image_processor, loaded.name, decoding)
    with FastGenerator(loaded.model, max_length=1024, batch=4) as fast:
        for budget in (None, Budget(5, 2)):
            apply_method(loaded.model, "dense" if budget is None else "visionzip", budget)
            plain, quick = LlavaAnswerer(*given), LlavaAnswerer(*given, fast=fast)
            wanted = run(plain, questions, tmp_path / f"plain-{budget}.jsonl", batch_size=4)
            fast.row_lengths = ()
            assert run(quick, questions, tmp_path / f"fast-{budget}.jsonl", batch_size=4).answers == wanted.answers
            assert fast.row_lengths, "it was the fast path that answered"
            assert quick.settings == plain.settings
        prompt = plain.load(Question(0, "q", None), None)
        with pytest.raises(ValueError, match=r"num_beams=2.*: use model\.generate"):
            answer_batch(loaded.model, loaded.tokenizer, [prompt], replace(decoding, num_beams=2), fast)


def test_pinning_a_prompt_pins_its_pixels(monkeypatch):
    """Pinned memory needs a GPU: only that torch is asked for it, for every image, and for nothing else."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor + 1)
    prompt = Prompt("words", (torch.zeros(2), torch.ones(2)), ((1, 2), (3, 4)))
    pinned = prompt.pin_memory()
    assert [tile.tolist() for tile in pinned.pixels] == [[1, 1], [2, 2]]
    assert (pinned.text, pinned.sizes) == (prompt.text, prompt.sizes)


def test_a_missing_or_corrupt_image_is_named(answerer, questions, tmp_path):
    (tmp_path / "q.jsonl").write_text('{"question_id": "q7", "text": "x", "image": "bad.jpg"}\n')
    for content in (None, b"\xff\xd8 nothing"):
        if content is not None:
            (tmp_path / "bad.jpg").write_bytes(content)
        with pytest.raises(ValueError, match=r"question_id 'q7', image .*bad\.jpg"):
            generate(answerer, read_question_set(tmp_path / "q.jsonl", tmp_path), tmp_path / "a.jsonl")


def test_the_users_turn():
    class Config:
        mm_use_im_start_end = False

    assert user_turn("Q", 1, Config()) == "<image>\nQ"
    assert user_turn("Q", 2, Config(), joint=" ") == "<image> <image>\nQ"
    assert user_turn("Q", 0, Config()) == "Q"
    assert user_turn("look: <image> Q", 1, Config()) == "look: <image> Q"
    with pytest.raises(ValueError, match="holds 2 <image> but there are 1 images"):
        user_turn("<image><image>", 1, Config())
    Config.mm_use_im_start_end = True
    assert user_turn("Q", 1, Config()) == "<im_start><image><im_end>\nQ"


def test_rendering_leaves_the_assistants_turn_open_and_the_template_untouched():
    prompt = render("vicuna_v1", ["<image>\nQ"])
    assert prompt.startswith("A chat between a curious user") and prompt.endswith(" USER: <image>\nQ ASSISTANT:")
    assert render("vicuna_v1", ["Q", "A"]).endswith("USER: Q ASSISTANT: A</s>")
    assert render("vicuna_v1", ["<image>\nQ"]) == prompt


def test_rows_are_padded_on_the_left():
    ids, mask = pad_left([torch.tensor([5, 6]), torch.tensor([7])], 0)
    assert ids.tolist() == [[5, 6], [0, 7]] and mask.tolist() == [[True, True], [False, True]]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"conv_mode": "vicuna"}, "unknown conv_mode 'vicuna'; known: .*vicuna_v1"),
        ({"temperature": -1.0}, "temperature >= 0"),
        ({"max_new_tokens": 0}, "max_new_tokens >= 1"),
    ],
)
def test_bad_decoding_is_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        Decoding(**keys)


def test_greedy_passes_no_sampling_options():
    assert Decoding().generate_arguments() == {"do_sample": False, "num_beams": 1, "max_new_tokens": 128}
    assert Decoding(temperature=0.5, top_p=0.9).generate_arguments()["top_p"] == 0.9
