"""Our lmms-eval model on a tiny checkpoint: order, batches, stop strings, likelihood, rounds; and lmms-eval's own
llava beside it.

Only lmms-eval's light modules are imported here; what changes the process (its evaluator) runs in tests/smoke in a
process of its own.
"""

import copy
import itertools

import pytest
import torch
from PIL import Image

pytest.importorskip("lmms_eval")

from lmms_eval.api.instance import Instance

from llava.eval.lmms_plugin import MODEL_ID, LlavaVisionZip, _judge, cut_at, manifest, picture_hash
from llava.mm_utils import tokenizer_image_token
from tests.tiny import tiny_anyres_llava
from tests.tiny_checkpoints import TOKENS, tiny_vicuna_llava, write_tower, write_v15, write_v16
from visionzip import visionzip

GREEDY = {"max_new_tokens": 5, "temperature": 0, "do_sample": False, "until": ["\n\n"]}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plugin")
    return write_v15(tiny_vicuna_llava(folder), folder / "llava-tiny", dtype=torch.float32)


def picture(index):
    return Image.new("RGB", (40 + 13 * index, 90 - 11 * index), (40 * index % 256, 250 - 30 * index, 70 * index % 256))


DOCS = [{"text": f"What is picture {i}?" * (1 + i % 3), "images": [picture(i)] * (i % 3)} for i in range(7)]


def visuals(doc):
    return doc["images"] or None


def make(checkpoint, **options):
    model = LlavaVisionZip(str(checkpoint), device="cpu", **options)
    model.task_dict = {"toy": {"test": DOCS}}
    return model


def requests(kind="generate_until", arguments=GREEDY, docs=range(7)):
    def instance(index):
        args = (DOCS[index]["text"], copy.deepcopy(arguments), visuals, index, "toy", "test")
        return Instance(kind, args, 0, {"task": "toy", "doc_id": index, "repeats": 1})

    return [instance(index) for index in docs]


def answers(model, asked):
    return [answer.text for answer in model.generate_until(asked)]


def test_answers_keep_their_order_whatever_the_batch_size(checkpoint):
    """Rows of none, one and two pictures of other sizes in one batch; the same answers from any batch and order."""
    one = answers(make(checkpoint), requests())
    assert len(set(one)) > 3
    for size in (3, "7"):
        assert answers(make(checkpoint, batch_size=size), requests()) == one
    assert answers(make(checkpoint, batch_size=2), requests(docs=range(6, -1, -1))) == one[::-1]


def test_every_answer_says_how_many_visual_tokens_it_took(checkpoint):
    """4 x 4 patches a picture, or the budget; in a batch as alone."""
    for size, (options, each) in itertools.product((1, 7), [({}, 16), ({"dominant": 3, "contextual": 1}, 4)]):
        counts = [
            a.token_counts.to_dict() for a in make(checkpoint, batch_size=size, **options).generate_until(requests())
        ]
        assert [(one["visual_tokens"], one["images"]) for one in counts] == [(each * (i % 3), i % 3) for i in range(7)]


def test_answers_about_the_same_pictures_say_so():
    red, blue = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    assert picture_hash([red, blue]) == picture_hash([red.copy(), blue.copy()]) != picture_hash([blue, red])
    assert picture_hash([red.resize((2, 8))]) != picture_hash([red]) and picture_hash([]) == ""


def test_every_answer_names_its_pictures(checkpoint):
    named = [a.token_counts.to_dict()["pictures"] for a in make(checkpoint, batch_size=3).generate_until(requests())]
    assert named == [picture_hash([picture(i)] * (i % 3)) for i in range(7)] and named[0] == "" and len(set(named)) > 3


def test_a_tuned_checkpoint_has_to_say_which_method_runs(tmp_path, caplog):
    """Its results would pass for those of the training-free method, or for nobody knows what."""
    tuned = tiny_vicuna_llava(tmp_path)
    visionzip(tuned, 3, 1)
    folder = write_v15(tuned, tmp_path / "llava-tuned", dtype=torch.float32)
    with pytest.raises(ValueError, match=r"was saved with .*: say method=visionzip-tuned for its own budget"):
        make(folder, dominant=3, contextual=1)
    assert "no table takes the results" not in caplog.text
    assert make(folder).model.get_vision_tower().compressor is not None and "no table takes" in caplog.text
    for method in ("visionzip", "visionzip-tuned"):
        assert make(folder, method=method, dominant=3, contextual=1)


def test_requests_that_decode_differently_do_not_share_a_batch(checkpoint):
    model = make(checkpoint, batch_size=4)
    long = {**GREEDY, "max_new_tokens": 9}
    mixed = [request for pair in zip(requests(), requests(arguments=long), strict=True) for request in pair]
    said = answers(model, mixed)
    assert said[::2] == answers(model, requests())
    assert said[1::2] == answers(model, requests(arguments=long))


def test_a_budget_zips_and_the_request_is_left_alone(checkpoint):
    dense, zipped = make(checkpoint), make(checkpoint, dominant=3, contextual=1, batch_size=7)
    assert zipped.model.config.mm_compressor["method"] == "visionzip"
    asked = requests(arguments={**GREEDY, "image_aspect_ratio": "original"})
    before = copy.deepcopy([request.args[1] for request in asked])
    assert answers(zipped, asked) != answers(dense, asked)
    assert [request.args[1] for request in asked] == before
    assert zipped.model.config.image_aspect_ratio == "pad"


def test_a_wish_for_an_aspect_ratio_counts_where_the_config_has_none_and_stays_out_of_it(checkpoint):
    model = make(checkpoint)
    padded = answers(model, requests())
    model.model.config.image_aspect_ratio = None
    square = answers(model, requests())
    assert square != padded
    assert answers(model, requests(arguments={**GREEDY, "image_aspect_ratio": "pad"})) == padded
    assert model.model.config.image_aspect_ratio is None
    assert answers(model, requests()) == square


def test_stop_strings_cut_the_answer(checkpoint):
    model = make(checkpoint, batch_size=3)
    whole = answers(model, requests())
    stop = max(whole, key=len)[1:3]
    cut = answers(model, requests(arguments={**GREEDY, "until": stop}))
    assert cut == [text.split(stop)[0] for text in whole] and cut != whole
    with pytest.raises(ValueError, match="until: expected a string or a list"):
        answers(model, requests(arguments={**GREEDY, "until": 3}))


@pytest.mark.parametrize(("stops", "text"), [([], "a b c"), (["c", "b"], "a "), (["", "x"], "a b c"), (["a"], "")])
def test_cutting(stops, text):
    assert cut_at("a b c", stops) == text


def judge(model, *targets):
    """(target, document) pairs as one call -> [(loss, greedy)]."""
    asked = [
        Instance(
            "loglikelihood",
            (DOCS[i]["text"], said, visuals, i, "toy", "test"),
            0,
            {"task": "toy", "doc_id": i, "repeats": 1},
        )
        for said, i in targets
    ]
    return [answer.text for answer in model.loglikelihood(asked)]


def by_hand(model, target, index):
    """One plain forward over the row as it is: the mean loss of the last ids, no padding, no batch."""
    prompt = model._prompt(model._unpack(requests()[index].args), target)
    ids = tokenizer_image_token(prompt.text, model.tokenizer, return_tensors="pt")
    wanted = ids[-len(model.tokenizer(f"{target}</s>", add_special_tokens=False).input_ids) :]
    pixels = {"images": torch.stack(prompt.pixels), "image_sizes": list(prompt.sizes)} if prompt.pixels else {}
    with torch.no_grad():
        logits = model.model(input_ids=ids[None], **pixels).logits[0, -len(wanted) - 1 : -1]
    steps = logits.log_softmax(-1)
    return -float(sum(step[i] for step, i in zip(steps, wanted, strict=True))) / len(wanted)


TARGETS = [(" red", 2), ("a blue square on the left", 1), ("no", 0), ("red", 4), ("2", 2), ("yes", 3)]


@pytest.mark.parametrize("size", [1, 4, 6])
def test_likelihood_is_the_mean_over_target_and_end_mark(checkpoint, size):
    """None, one and two pictures, long and short targets, in one batch: what a plain forward of each row gives."""
    model = make(checkpoint, batch_size=size)
    found = judge(model, *TARGETS)
    expected = [by_hand(model, target.strip(), index) for target, index in TARGETS]
    assert [loss for loss, _ in found] == pytest.approx(expected, abs=1e-5)
    assert len({round(loss, 4) for loss in expected}) == len(TARGETS)
    assert not any(greedy for _, greedy in found)
    assert judge(model, (lambda doc: "red", 2))[0][0] == pytest.approx(found[0][0], abs=1e-5)


def test_tiled_pictures_of_mixed_sizes(tmp_path):
    """NeXT: rows of none, one and two pictures with other numbers of tiles; answers, tokens, likelihood."""
    folder = tmp_path / "llava-v1.6-tiny"
    tiled = tiny_anyres_llava(tmp_path, vocab_size=TOKENS)
    write_tower(tiled, tmp_path / "tower")
    write_v16(tiled, folder, dtype=torch.float32)
    alone, together = make(folder, dominant=5, contextual=2), make(folder, dominant=5, contextual=2, batch_size=7)
    one = alone.generate_until(requests())
    assert together.generate_until(requests()) == one
    assert len({answer.token_counts.visual_tokens for answer in one}) > 3
    losses = [loss for loss, _ in judge(alone, *TARGETS)]
    assert [loss for loss, _ in judge(together, *TARGETS)] == pytest.approx(losses, abs=1e-5)


def test_likelihood_without_any_picture(checkpoint):
    model = make(checkpoint, batch_size=3)
    found = judge(model, ("red", 0), ("a blue square", 3), ("2", 6))
    assert [loss for loss, _ in found] == pytest.approx(
        [by_hand(model, target, index) for target, index in (("red", 0), ("a blue square", 3), ("2", 6))], abs=1e-5
    )


def test_a_target_is_greedy_only_if_every_id_of_it_is(checkpoint):
    """Every id of the target and the end mark must be the likeliest; one that is not is enough to say no."""
    model = make(checkpoint, batch_size=2)
    _, ids, labels = model._target_row((DOCS[1]["text"], "red", visuals, 1, "toy", "test"))
    places = (labels != -100).nonzero()[:, 0]
    vocabulary, length = len(model.tokenizer), len(ids)
    logits = torch.zeros(length, vocabulary)
    logits[places - 1, ids[places]] = 9.0
    assert _judge(logits, labels)[1] is True
    logits[places[-1] - 1] = 0.0
    logits[places[-1] - 1, 5] = 9.0
    assert _judge(logits, labels)[1] is False


def test_rounds_go_on_until_the_task_says_so(checkpoint):
    model = make(checkpoint)
    seen = []

    def doc_to_text(doc, previous_output, round_idx, previous_round_info):
        seen.append((round_idx, list(previous_output), previous_round_info))
        return (
            [picture(5)],
            f"{doc['text']} You said {previous_output[-1]}.",
            round_idx == 3,
            previous_output,
            round_idx * 10,
        )

    args = (DOCS[1]["text"], GREEDY, visuals, doc_to_text, 1, "toy", "test")
    said = model.generate_until_multi_round([
        Instance("generate_until_multi_round", args, 0, {"task": "toy", "doc_id": 1, "repeats": 1})
    ])
    assert len(said) == 1 and len(said[0]) == 3
    assert said[0][0] == answers(model, requests(docs=[1]))[0]
    assert seen == [(1, said[0][:1], None), (2, said[0][:2], 10), (3, said[0], 20)]


def test_rounds_do_not_depend_on_the_batch(checkpoint):
    """Requests of one to four rounds, with other pictures each round, share batches as long as they go on."""

    def doc_to_text(doc, previous_output, round_idx, previous_round_info):
        number = DOCS.index(doc)
        shown = [picture((number + round_idx) % 7)] * (round_idx % 2)
        return shown, f"Round {round_idx}: {previous_output[-1]}?", round_idx == 1 + number % 4, previous_output, None

    asked = [
        Instance(
            "generate_until_multi_round",
            (DOCS[i]["text"], GREEDY, visuals, doc_to_text, i, "toy", "test"),
            0,
            {"task": "toy", "doc_id": i, "repeats": 1},
        )
        for i in range(7)
    ]
    one = make(checkpoint).generate_until_multi_round(asked)
    assert [len(said) for said in one] == [1 + i % 4 for i in range(7)]
    assert make(checkpoint, batch_size=5).generate_until_multi_round(asked) == one
    assert make(checkpoint, batch_size=7).generate_until_multi_round(asked[::-1]) == one[::-1]


def test_what_is_no_picture_is_refused(checkpoint):
    model = make(checkpoint)
    DOCS[0]["images"], kept = ["clip.mp4"], DOCS[0]["images"]
    try:
        with pytest.raises(ValueError, match=r"takes pictures, got str: 'clip\.mp4'"):
            answers(model, requests(docs=[0]))
    finally:
        DOCS[0]["images"] = kept


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": "auto"}, "batch_size: expected a whole number >= 1, got 'auto'"),
        ({"dominant": 5}, "go together"),
        ({"method": "fastv", "dominant": 5, "contextual": 1}, "unknown method 'fastv'"),
        ({"conv_template": "vicuna"}, "unknown conv_mode 'vicuna'"),
        ({"attn": "eager", "attn_implementation": "sdpa"}, "attn=eager and attn_implementation=sdpa are one option"),
    ],
)
def test_bad_options_are_refused(checkpoint, options, message):
    with pytest.raises(ValueError, match=message):
        make(checkpoint, **options)


@pytest.mark.parametrize("name", ["attn", "attn_implementation"])
def test_attention_and_dtype_reach_the_model(checkpoint, name):
    model = make(checkpoint, dtype="bfloat16", **{name: "eager"}).model
    assert model.dtype == torch.bfloat16 and model.config._attn_implementation == "eager"


def test_unknown_options_are_refused(checkpoint):
    with pytest.raises(TypeError, match="colour"):
        make(checkpoint, colour="red")


def test_unused_generation_arguments_are_said(checkpoint, caplog):
    answers(make(checkpoint), requests(arguments={**GREEDY, "top_k": 3}, docs=[0]))
    assert "generation argument top_k=3 is not used" in caplog.text


def test_the_manifest_names_the_class():
    payload = manifest()
    assert payload.model_id == MODEL_ID and payload.simple_class_path.endswith("LlavaVisionZip")
