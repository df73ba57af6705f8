"""Our lmms-eval model on a tiny checkpoint: order, batches, stop strings, likelihood, rounds; and lmms-eval's own
llava beside it.

Only lmms-eval's light modules are imported here; what changes the process (its evaluator) runs in tests/smoke in a
process of its own.
"""

import copy

import pytest
import torch
from PIL import Image

pytest.importorskip("lmms_eval")

from lmms_eval.api.instance import Instance

from llava.constants import IMAGE_TOKEN_INDEX
from llava.eval.lmms_plugin import MODEL_ID, LlavaVisionZip, cut_at, manifest
from llava.mm_utils import tokenizer_image_token
from tests.tiny_checkpoints import tiny_vicuna_llava, write_v15

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


def test_answers_keep_their_order_whatever_the_batch_size(checkpoint):
    one = make(checkpoint).generate_until(requests())
    assert len(set(one)) > 3
    for size in (3, "7"):
        assert make(checkpoint, batch_size=size).generate_until(requests()) == one
    backwards = make(checkpoint, batch_size=2).generate_until(requests(docs=range(6, -1, -1)))
    assert backwards == one[::-1]


def test_requests_that_decode_differently_do_not_share_a_batch(checkpoint):
    model = make(checkpoint, batch_size=4)
    long = {**GREEDY, "max_new_tokens": 9}
    mixed = [request for pair in zip(requests(), requests(arguments=long), strict=True) for request in pair]
    answers = model.generate_until(mixed)
    assert answers[::2] == model.generate_until(requests())
    assert answers[1::2] == model.generate_until(requests(arguments=long))


def test_a_budget_zips_and_the_request_is_left_alone(checkpoint):
    dense, zipped = make(checkpoint), make(checkpoint, dominant=3, contextual=1, batch_size=7)
    assert zipped.model.config.mm_compressor["method"] == "visionzip"
    asked = requests(arguments={**GREEDY, "image_aspect_ratio": "original"})
    before = copy.deepcopy([request.args[1] for request in asked])
    assert zipped.generate_until(asked) != dense.generate_until(asked)
    assert [request.args[1] for request in asked] == before
    assert zipped.model.config.image_aspect_ratio == "pad"


def test_a_wish_for_an_aspect_ratio_counts_where_the_config_has_none_and_stays_out_of_it(checkpoint):
    model = make(checkpoint)
    padded = model.generate_until(requests())
    model.model.config.image_aspect_ratio = None
    square = model.generate_until(requests())
    assert square != padded
    assert model.generate_until(requests(arguments={**GREEDY, "image_aspect_ratio": "pad"})) == padded
    assert model.model.config.image_aspect_ratio is None
    assert model.generate_until(requests()) == square


def test_stop_strings_cut_the_answer(checkpoint):
    model = make(checkpoint, batch_size=3)
    whole = model.generate_until(requests())
    stop = max(whole, key=len)[1:3]
    cut = model.generate_until(requests(arguments={**GREEDY, "until": stop}))
    assert cut == [text.split(stop)[0] for text in whole] and cut != whole
    with pytest.raises(ValueError, match="until: expected a string or a list"):
        model.generate_until(requests(arguments={**GREEDY, "until": 3}))


@pytest.mark.parametrize(("stops", "text"), [([], "a b c"), (["c", "b"], "a "), (["", "x"], "a b c"), (["a"], "")])
def test_cutting(stops, text):
    assert cut_at("a b c", stops) == text


def judge(model, target, index=2):
    args = (DOCS[index]["text"], target, visuals, index, "toy", "test")
    return model.loglikelihood([Instance("loglikelihood", args, 0, {"task": "toy", "doc_id": index, "repeats": 1})])[0]


def test_likelihood_is_the_mean_over_target_and_end_mark(checkpoint):
    model = make(checkpoint)
    loss, greedy = judge(model, " red")
    assert loss > 0 and not greedy
    assert judge(model, lambda doc: "red")[0] == loss
    # By hand: the model's own loss with only the last ids of the row as labels.
    prompt = model._prompt(model._unpack(requests()[2].args), "red")
    ids = tokenizer_image_token(prompt.text, model.tokenizer, return_tensors="pt")
    target = len(model.tokenizer("red</s>", add_special_tokens=False).input_ids)
    labels = torch.full_like(ids, -100)
    labels[-target:] = ids[-target:]
    images = {"images": torch.stack(prompt.pixels), "image_sizes": list(prompt.sizes)}
    with torch.no_grad():
        output = model.model(input_ids=ids[None], labels=labels[None], **images)
    assert loss == pytest.approx(float(output.loss), abs=1e-4)


class Oracle:
    """A model that foresees the text after the last image, all of it or all but the last id."""

    def __init__(self, inner, blind):
        self.inner, self.blind = inner, blind

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def __call__(self, input_ids, **arguments):
        output = self.inner(input_ids=input_ids, **arguments)
        start = int((input_ids[0] == IMAGE_TOKEN_INDEX).nonzero().max()) + 1
        tail = input_ids[0, start : input_ids.shape[1] - self.blind]
        output.logits[0, -len(tail) - 1 - self.blind : -1 - self.blind].scatter_(1, tail[:, None], 99.0)
        return output


@pytest.mark.parametrize(("blind", "greedy"), [(0, True), (1, False)])
def test_a_target_is_greedy_only_if_every_id_of_it_is(checkpoint, blind, greedy):
    model = make(checkpoint)
    model._model = Oracle(model._model, blind)
    loss, said = judge(model, "a red square")
    assert said is greedy and (loss < 1e-3) is greedy


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
    assert said[0][0] == model.generate_until(requests(docs=[1]))[0]
    assert seen == [(1, said[0][:1], None), (2, said[0][:2], 10), (3, said[0], 20)]


def test_what_is_no_picture_is_refused(checkpoint):
    model = make(checkpoint)
    DOCS[0]["images"], kept = ["clip.mp4"], DOCS[0]["images"]
    try:
        with pytest.raises(ValueError, match=r"takes pictures, got str: 'clip\.mp4'"):
            model.generate_until(requests(docs=[0]))
    finally:
        DOCS[0]["images"] = kept


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": "auto"}, "batch_size: expected a whole number >= 1, got 'auto'"),
        ({"dominant": 5}, "go together"),
        ({"method": "fastv", "dominant": 5, "contextual": 1}, "unknown method 'fastv'"),
        ({"conv_template": "vicuna"}, "unknown conv_mode 'vicuna'"),
    ],
)
def test_bad_options_are_refused(checkpoint, options, message):
    with pytest.raises(ValueError, match=message):
        make(checkpoint, **options)


def test_unknown_options_are_refused(checkpoint):
    with pytest.raises(TypeError, match="colour"):
        make(checkpoint, colour="red")


def test_unused_generation_arguments_are_said(checkpoint, caplog):
    make(checkpoint).generate_until(requests(arguments={**GREEDY, "top_k": 3}, docs=[0]))
    assert "generation argument top_k=3 is not used" in caplog.text


def test_the_manifest_names_the_class():
    payload = manifest()
    assert payload.model_id == MODEL_ID and payload.simple_class_path.endswith("LlavaVisionZip")
