"""The regression guard: what the fast path costs in counts, held to a file, and the counters themselves."""

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from typer.testing import CliRunner

from llava.bench import counts
from llava.bench.counts import (
    EXPECTED,
    SCORED,
    TEXT,
    ZIPPER,
    Operations,
    Stage,
    check,
    compare,
    count,
    count_all,
    reduced_model,
    stages,
    versions,
)
from llava.bench.official_style import OfficialStyle
from llava.bench.roofline import Request, attention_flops, causal_flops, work
from visionzip import attach
from visionzip.kernels.received import BLOCK_NUMBERS

ROOT = Path(__file__).resolve().parents[3]
Counts = dict[str, dict[str, int]]


@pytest.fixture(scope="module")
def found() -> Counts:
    torch.manual_seed(0)
    return count_all()


def test_nothing_grew(found: Counts) -> None:
    """If this fails and the change is meant: python -m llava.bench.counts --update"""
    lines = check(ROOT / EXPECTED, found)
    assert not lines, "\n".join(["", *lines])


def test_zipped_encoding_makes_no_map_waits_for_nothing_and_runs_23_of_24_blocks(found: Counts) -> None:
    for stage in ("encode dense", "encode visionzip"):
        seen = found[stage]
        assert (seen["attention_maps"], seen["square_tensors"], seen["host_syncs"], seen["sdpa_calls"]) == (0, 0, 0, 23)
    official = found["encode official style"]
    assert (official["attention_maps"], official["sdpa_calls"]) == (24, 0)
    assert official["host_syncs"] > 0
    assert found["encode visionzip"]["peak_bytes"] <= 0.2 * official["peak_bytes"]
    for stage in ("prefill dense", "prefill visionzip", "decode step", "fast prefill visionzip", "fast decode step"):
        assert (found[stage]["attention_maps"], found[stage]["sdpa_calls"]) == (0, 4)


def test_the_fast_path_waits_for_nothing_and_keeps_nothing(found: Counts) -> None:
    """Its programs are captured on a GPU: one that waited could not be. Keys and values lie in buffers made before."""
    step, spliced = found["fast decode step"], found["project, pack, splice"]
    assert (step["host_syncs"], step["square_tensors"]) == (0, 0)
    assert step["peak_bytes"] < 0.02 * found["decode step"]["peak_bytes"], "the plain path copies its cache"
    prefill = found["fast prefill visionzip"]
    assert prefill["host_syncs"] == spliced["host_syncs"], "the program itself has none"
    assert prefill["square_tensors"] == 0, "not even a mask"


def test_attention_received_makes_no_map_and_no_more_than_two_blocks(found: Counts) -> None:
    seen, (tiles, heads, patches, width) = found["attention received"], SCORED
    assert (seen["attention_maps"], seen["square_tensors"], seen["host_syncs"]) == (0, 0, 0)
    assert seen["flops"] == 2 * tiles * heads * patches**2 * width, "every score once"
    assert heads * patches**2 > 2 * BLOCK_NUMBERS, "more than one block"
    assert seen["peak_bytes"] < 2.1 * BLOCK_NUMBERS * 4


def test_counted_flops_are_those_of_the_roofline(found: Counts) -> None:
    subject, question = reduced_model()
    shape = subject.shape
    visual = question.tiles * (ZIPPER.dominant + ZIPPER.contextual)
    budget = (ZIPPER.dominant, ZIPPER.contextual)
    asked = work(shape, Request(question.tiles, visual, TEXT, 2, budget=budget, element_bytes=4))
    assert found["encode dense"]["flops"] == asked["vision"].flops
    assert found["encode visionzip"]["flops"] == (asked["vision"] + asked["merge"]).flops
    assert found["project, pack, splice"]["flops"] == asked["project"].flops
    tokens = visual + TEXT
    whole = shape.layers * (attention_flops(tokens, tokens, shape.width) - causal_flops(tokens, shape.width))
    assert found["prefill visionzip"]["flops"] == asked["prefill"].flops + whole
    assert found["decode step"]["flops"] == asked["decode"].flops
    columns = 192  # the rows' 170 tokens in buckets of 64, which the fast path computes and looks at
    padded = Request(question.tiles, visual, TEXT + columns - tokens, 2, budget=budget, element_bytes=4)
    padding = shape.layers * (attention_flops(columns, columns, shape.width) - causal_flops(columns, shape.width))
    assert found["fast prefill visionzip"]["flops"] == (
        asked["project"].flops + work(shape, padded)["prefill"].flops + padding
    )
    beyond = columns - tokens - 1  # a step of the plain path sees its own token and those before
    assert found["fast decode step"]["flops"] == asked["decode"].flops + shape.layers * attention_flops(
        1, beyond, shape.width
    )


def test_encoding_reads_no_value_on_the_host() -> None:
    """Tensors without values raise where a value is read, also by `tolist`, which no operation shows."""
    subject, question = reduced_model()
    tower = subject.model.get_vision_tower()
    official = OfficialStyle(tower, ZIPPER)
    attach(subject.model, ZIPPER)
    [real] = question.pixels
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        pixels = fake.from_tensor(real)
        assert tower.encode(pixels).features.shape == (5, 22, 64)
        with pytest.raises(DynamicOutputShapeException):
            official(pixels)
        with pytest.raises(DataDependentOutputException):
            pixels.sum().tolist()


def test_counting_again_gives_the_same(found: Counts) -> None:
    with torch.no_grad():
        again = stages(*reduced_model())["encode visionzip"]
    for _ in range(2):
        assert count(again) == found["encode visionzip"]


SQUARE, OTHER = torch.rand(2, 5, 5), torch.rand(2, 5, 4)
PICK = torch.tensor([True, False, True, True, False])


@pytest.mark.parametrize(
    ("run", "maps", "squares"),
    [
        (lambda: SQUARE.softmax(-1), 1, 1),
        (lambda: (OTHER @ OTHER.transpose(1, 2)).softmax(-1) @ OTHER, 1, 2),
        (lambda: OTHER @ OTHER.transpose(1, 2), 0, 1),
        (lambda: OTHER.softmax(-1), 0, 0),
        (lambda: SQUARE.transpose(1, 2), 0, 0),
        (lambda: torch.nn.functional.scaled_dot_product_attention(*[OTHER[None]] * 3), 0, 0),
    ],
)
def test_maps_are_found_by_shape_and_maker(run: Callable[[], Tensor], maps: int, squares: int) -> None:
    with Operations(5) as seen:
        run()
    assert (seen.attention_maps, seen.square_tensors) == (maps, squares)


@pytest.mark.parametrize(
    ("run", "syncs"),
    [
        (lambda: OTHER.sum().item(), 1),
        (lambda: bool((OTHER > 2).any()), 1),
        (lambda: float(OTHER.max()), 1),
        (lambda: PICK.nonzero(), 1),
        (lambda: OTHER[0][PICK], 1),
        (lambda: OTHER.masked_select(OTHER > 0.5), 1),
        (lambda: torch.unique(PICK), 1),
        (lambda: torch.equal(OTHER, OTHER), 1),
        (lambda: torch.arange(3).repeat_interleave(torch.tensor([1, 2, 3])), 1),
        (lambda: OTHER[0][torch.tensor([0, 2])], 0),
        (lambda: OTHER.gather(1, torch.zeros(2, 1, 4, dtype=torch.long)), 0),
        (lambda: OTHER.masked_fill(OTHER > 0.5, 0.0), 0),
        (lambda: OTHER.sort(dim=1), 0),
    ],
)
def test_waits_of_the_host(run: Callable[[], Any], syncs: int) -> None:
    with Operations(5) as seen:
        run()
    assert seen.host_syncs == syncs


def test_operations_of_inference_mode_are_what_they_are_made_of() -> None:
    def run() -> Any:
        return torch.nn.functional.scaled_dot_product_attention(*[OTHER[None]] * 3) @ OTHER.transpose(1, 2)

    seen = []
    for mode in (torch.no_grad, torch.inference_mode):
        with mode(), Operations(5) as counter:
            run()
        seen.append((counter.sdpa_calls, counter.operations, counter.square_tensors))
    assert seen[0] == seen[1]
    assert seen[0][0] == seen[0][2] == 1


def test_views_and_bare_memory_are_no_operations() -> None:
    with Operations(5) as seen:
        OTHER.transpose(1, 2).unsqueeze(0)[..., :2].expand(3, -1, -1, -1)
        torch.empty(3)
    assert seen.operations == 0
    with Operations(5) as seen:
        (OTHER + 1).mul_(2).reshape(-1)
    assert seen.operations == 2


def test_a_change_for_the_worse_is_named() -> None:
    before = {"encode": {"flops": 100, "sdpa_calls": 23, "operations": 100, "peak_bytes": 1000}}
    before["encode"] |= {"host_syncs": 0, "attention_maps": 0, "square_tensors": 0}

    def lines(same_versions: bool = True, **change: int) -> list[str]:
        after = deepcopy(before)
        after["encode"] |= change
        return compare(before, after, same_versions=same_versions)

    assert lines() == []
    assert lines(operations=102, peak_bytes=1020) == []
    assert lines(operations=103) == ["encode: operations grew from 100 to 103 (+3.0%, 2% allowed)"]
    assert lines(peak_bytes=1200) == ["encode: peak_bytes grew from 1000 to 1200 (+20.0%, 2% allowed)"]
    assert lines(attention_maps=24) == ["encode: attention_maps grew from 0 to 24"]
    assert lines(flops=101) == ["encode: flops grew from 100 to 101 (+1.0%)"]
    assert "something no longer runs" in lines(sdpa_calls=22)[0]
    assert lines(operations=90, peak_bytes=10) == []
    assert lines(same_versions=False, operations=200, peak_bytes=9000) == []
    assert len(lines(same_versions=False, host_syncs=1, flops=101)) == 2
    assert (
        "the stages differ: expected encode; counted prefill"
        in compare(before, {"prefill": before["encode"]}, same_versions=True)[0]
    )


def test_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: Counts) -> None:
    file, worse = tmp_path / "counts.json", deepcopy(found)
    worse["encode visionzip"]["attention_maps"] = 24
    runner, words = CliRunner(), ["--expected", str(file)]
    monkeypatch.setattr(counts, "count_all", lambda: found)
    missing = runner.invoke(counts.app, words)
    assert isinstance(missing.exception, ValueError) and "--update writes it" in str(missing.exception)
    assert runner.invoke(counts.app, [*words, "--update"]).exit_code == 0
    assert json.loads(file.read_text()) == {"versions": versions(), "stages": found}
    assert runner.invoke(counts.app, words).exit_code == 0
    monkeypatch.setattr(counts, "count_all", lambda: worse)
    refused = runner.invoke(counts.app, words)
    assert refused.exit_code == 1
    assert "encode visionzip: attention_maps grew from 0 to 24" in refused.output


def test_the_versions_of_the_file_decide_how_strict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: Counts
) -> None:
    file, worse = tmp_path / "counts.json", deepcopy(found)
    worse["decode step"]["operations"] *= 2
    file.write_text(json.dumps({"versions": versions(), "stages": found}))
    told: list[str] = []
    assert [line.split(" grew")[0] for line in check(file, worse, told.append)] == ["decode step: operations"]
    assert not told
    file.write_text(json.dumps({"versions": {"torch": "0.1", "transformers": "5.0"}, "stages": found}))
    assert check(file, worse) == []
    monkeypatch.setattr(counts, "count_all", lambda: worse)
    shown = CliRunner().invoke(counts.app, ["--expected", str(file)])
    assert shown.exit_code == 0
    assert "operations and bytes not compared: versions differ (torch 0.1, transformers 5.0 in " in shown.output


def test_what_is_counted_is_the_stage_alone() -> None:
    counted = count(Stage(lambda: torch.ones(10, 10) @ torch.ones(10, 10), 10))
    assert counted["flops"] == 2000
    assert counted["peak_bytes"] == 3 * 400
    assert (counted["operations"], counted["square_tensors"], counted["attention_maps"]) == (3, 3, 0)
