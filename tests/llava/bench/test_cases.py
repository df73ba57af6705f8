"""Cases: what may be compared, and that every path computes what the plain one does."""

import pytest
import torch

from llava.bench.cases import Case, parse_case, programs, pruner_of
from llava.bench.names import METHODS
from llava.bench.setup import question_for
from tests.llava.bench.tiny_subject import tiny_subject
from visionzip import Budget

CASES = ("dense", "visionzip:16", "random:16", "fastv:16", "sparsevlm:16")


@pytest.fixture(scope="module")
def subject():
    return tiny_subject()


@pytest.fixture(scope="module")
def question(subject):
    return question_for(subject, text=50)


@pytest.mark.parametrize(
    ("text", "case", "label"),
    [
        ("dense", Case("dense"), "dense"),
        ("dense:fast", Case("dense", path="fast"), "dense fast"),
        ("visionzip:32", Case("visionzip", Budget(27, 5)), "visionzip-32"),
        ("visionzip:32:official", Case("visionzip", Budget(27, 5), "official"), "visionzip-32 official"),
        ("fastv:64", Case("fastv", Budget(54, 10)), "fastv-64"),
    ],
)
def test_a_case_is_written_in_one_word(text, case, label):
    assert parse_case(text) == case
    assert case.label == label


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("zip:32", "unknown method 'zip'"),
        ("visionzip:32:quick", "unknown path 'quick'"),
        ("visionzip", "every other needs one"),
        ("dense:32", "dense has none"),
        ("random:32:official", "not for 'random'"),
        ("fastv:32:fast", "prunes inside the language model"),
        ("visionzip:32:fast:fast", "METHOD"),
    ],
)
def test_a_case_that_means_nothing_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_case(text)


def test_every_case_makes_as_many_tokens_as_asked(subject, question):
    with programs(subject, question, [parse_case(case) for case in CASES], longest=3) as ready:
        assert {name: tuple(program.run(3).shape) for name, program in ready.items()} == {
            parse_case(case).label: (1, 3) for case in CASES
        }


def test_fast_and_official_paths_give_the_tokens_of_the_plain_one(subject, question):
    names = (
        "dense",
        "dense:lean",
        "dense:fast",
        "visionzip:16:lean",
        "visionzip:16",
        "visionzip:16:fast",
        "visionzip:16:official",
        "random:16",
        "random:16:fast",
    )
    with programs(subject, question, [parse_case(name) for name in names], longest=4) as ready:
        for _ in range(2):  # in turn: no case leaves anything behind for the next
            answers = {name: program.run(4).tolist() for name, program in ready.items()}
    assert answers["dense"] == answers["dense fast"] == answers["dense lean"] != answers["visionzip-16"]
    assert answers["visionzip-16"] == answers["visionzip-16 fast"] == answers["visionzip-16 official"]
    assert answers["visionzip-16 lean"] == answers["visionzip-16"]
    assert answers["random-16"] == answers["random-16 fast"]


def test_tokens_are_counted_where_they_are(subject, question):
    with programs(subject, question, [parse_case(case) for case in CASES], longest=2) as ready:
        visual = {name: program.visual for name, program in ready.items()}
        assert visual == {"dense": 336, "visionzip-16": 80, "random-16": 80, "fastv-16": 336, "sparsevlm-16": 336}
        assert ready["visionzip-16"].kept == (80,) * 18
        assert ready["fastv-16"].kept == (336, 336, *(80,) * 16)
        assert ready["sparsevlm-16"].kept[:3] == (336,) * 3 and ready["sparsevlm-16"].kept[-1] < 80


def test_the_model_is_dense_again_afterwards(subject, question):
    tower = subject.model.get_vision_tower()
    with pytest.raises(RuntimeError, match="stop"):
        with programs(subject, question, [parse_case("visionzip:16"), parse_case("visionzip:16:official")], 1) as ready:
            for program in ready.values():
                program.run(1)
            raise RuntimeError("stop")
    assert tower.compressor is None
    assert "encode" not in vars(tower)


def test_sparsevlm_takes_the_published_schedule_where_there_is_one():
    assert pruner_of(parse_case("sparsevlm:128"), visual=576, tiles=1).counts == (303, 110, 36)
    scaled = pruner_of(parse_case("sparsevlm:32"), visual=2880, tiles=5)  # 160 of 2880, half of the smallest share
    assert (scaled.counts, scaled.of) == ((33, 15, 8), 576)
    assert pruner_of(parse_case("fastv:32"), visual=2928, tiles=5).keep == 160


def test_every_method_is_offered():
    assert {case.method for case in (parse_case(f"{name}:16") for name in METHODS if name != "dense")} == {*METHODS} - {
        "dense"
    }


@pytest.mark.gpu
def test_paths_agree_on_a_gpu():
    """bfloat16 sums differ between kernels, so the first logits are compared in the generator's own tests; here the
    programs must run with graphs and make tokens of the vocabulary."""
    from llava.bench.setup import from_shape
    from tests.llava.bench.tiny_subject import entry

    given = entry()
    shape = "liuhaotian/llava-v1.6-vicuna-7b"
    subject = from_shape(shape, "cuda", torch.bfloat16, sizes=given["sizes"], tower=given["tower"])
    names = (*CASES, "visionzip:16:official", "dense:fast", "visionzip:16:fast", "visionzip:16:compiled")
    with programs(subject, question_for(subject, 50), [parse_case(name) for name in names], longest=4) as ready:
        for program in ready.values():
            ids = program.run(4)
            assert ids.shape == (1, 4) and 0 <= int(ids.min()) and int(ids.max()) < 320
