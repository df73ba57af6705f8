"""How often a case runs: no more than it must on a CPU, where a run takes seconds."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from llava.bench import answer
from llava.bench.cases import parse_case, programs
from llava.bench.roofline import Ceilings, Request, work
from llava.bench.setup import question_for
from tests.llava.bench.tiny_subject import tiny_subject

CEILINGS = Ceilings(flops_per_s=1e12, bytes_per_s=1e11, how="by hand")


@pytest.mark.parametrize(("rounds", "answers"), [(2, 2), (4, 3), (12, 4)])
def test_one_answer_warms_up_and_answers_take_few_rounds(rounds: int, answers: int) -> None:
    """Never more rounds of answers than of first tokens."""
    subject, ran = tiny_subject(), []
    question = question_for(subject, 60)
    subject.model.get_vision_tower().vision_tower.vision_model.pre_layrnorm.register_forward_hook(
        lambda *_: ran.append(1)
    )
    found = answer.measure(
        subject,
        question,
        [parse_case("dense"), parse_case("visionzip:16")],
        new_tokens=2,
        rounds=rounds,
        ceilings=CEILINGS,
        report=lambda _: None,
    )
    for row in found["cases"]:
        assert (row["first"]["total"]["n"], row["answer"]["total"]["n"]) == (rounds, answers)
    preparing = 1  # counts the visual tokens
    assert len(ran) == 2 * (preparing + 1 + rounds + answers)


def test_speed_ups_are_also_paired_with_dense_on_the_same_path() -> None:
    def runs(*seconds: float) -> list[dict[str, float]]:
        return [{"total": one} for one in seconds]

    times = {"dense": runs(4, 8), "dense fast": runs(3, 6), "visionzip-16 fast": runs(1, 3), "fastv-16": runs(2, 2)}
    fast = answer._same_path(parse_case("visionzip:16:fast"), times, times)
    assert fast is not None and fast["compared_with"] == "dense fast"
    assert (fast["first"]["median"], fast["answer"]["median"]) == (2.5, 2.5)  # of 3 and 2, round by round
    assert answer._same_path(parse_case("fastv:16"), times, times) is None, "dense was not measured on FastV's loop"
    times["dense lean"] = runs(4, 6)
    fastv = answer._same_path(parse_case("fastv:16"), times, times)
    assert fastv is not None and (fastv["compared_with"], fastv["first"]["median"]) == ("dense lean", 2.5)
    assert parse_case("visionzip:16:official").dense_alike == "dense", "only its encoder is another one"


def test_a_step_is_its_stage_else_a_difference_that_can_be_told() -> None:
    first = [{"total": 1.0}, {"total": 1.2}, {"total": 1.1}]
    marked = [{"total": 1.0, "decode": seconds} for seconds in (0.3, 0.33, 0.6)]
    assert (answer._decode_step(first, marked, 3) or {})["median"] == pytest.approx(0.11)
    assert (answer._decode_step(first, [{"total": 1.4}], 3) or {})["median"] == pytest.approx(0.1)
    assert answer._decode_step(first, [{"total": 1.05}, {"total": 1.4}, {"total": 1.0}], 3) is None
    assert answer._decode_step(first, [{"total": 1.4}], 0) is None


@pytest.mark.parametrize(("device", "warmup"), [("cpu", 0), ("cuda", 2)])
def test_a_gpu_warms_up_twice(device: str, warmup: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(answer, "alternate", lambda *_, **options: asked.append(options["warmup"]))
    answer._alternate("answer", {}, 2, SimpleNamespace(device=torch.device(device)), 3, print)
    assert asked == [warmup]


@pytest.mark.parametrize(("layer", "blocks"), [(-2, 3), (-1, 4), (2, 2)])
def test_the_floor_is_that_of_the_blocks_and_the_picture_that_are_encoded(layer: int, blocks: int) -> None:
    subject = tiny_subject()
    subject.model.get_vision_tower().select_layer = layer
    question, flops = question_for(subject, 60), {}
    with programs(subject, question, cases := [parse_case("dense"), parse_case("downsample:16")], 2) as ready:
        for case in cases:
            row = {"first": {"total": {"median": 1.0}}, "decode_step": {"median": 1.0}}
            found = answer._floor(subject, question, case, ready[case.label], 2, CEILINGS, row)
            flops[case.method] = found["work"]["vision"]["flops"]
    request = Request(question.tiles, 1, 1, 2, tower_blocks=blocks)
    assert flops["dense"] == work(subject.shape, request)["vision"].flops
    assert flops["downsample"] == work(replace(subject.shape, patches=16), request)["vision"].flops
