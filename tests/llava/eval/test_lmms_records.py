"""lmms-eval's results among our records: names, cells, what cannot be told."""

from dataclasses import replace
from pathlib import Path

import pytest

from llava.eval.compare import build_rows
from llava.eval.lmms_records import as_measured, model_options
from llava.eval.lmms_results import LmmsResult
from llava.eval.tasks.base import mean_ratio

ARGS = {"pretrained": "org/llava", "method": "visionzip", "dominant": "54", "contextual": "10", "order": "official"}


def result(task="mmmu_val", **changes):
    items = {"0": 1.0, "1": 0.0, "2": 1.0, "3": 1.0}
    made = LmmsResult(
        task=task,
        dataset="hub/MMMU validation",
        metric="accuracy",
        score=75.0,
        n=4,
        items=items,
        ratios=(mean_ratio(tuple(items), tuple(items.values())),),
        metrics={"mmmu_acc": 0.75},
        version="Yaml",
        model="llava_visionzip",
        model_args=ARGS,
        limit=None,
        tokens_per_image=64.0,
        date="today",
        source=Path("x_results.json"),
    )
    return replace(made, **changes)


def test_a_result_becomes_a_record_with_items():
    one = as_measured(result())
    assert one.record.name == "visionzip-64/mmmu" and one.record.headline == 75.0 and one.record.n == 4
    assert one.record.budget == {"dominant": 54, "contextual": 10, "total": 64} and one.record.order == "official"
    assert one.record.model == {"path": "org/llava", "base": None} and one.record.tokens_per_image == 64.0
    assert one.items.ids == one.items.images == ("0", "1", "2", "3") and one.items.scores == (1, 0, 1, 1)


def test_other_protocols_stay_columns_of_their_own():
    assert as_measured(result(task="pope")).record.task == "lmms:pope"


def test_what_a_run_was_is_read_from_its_options():
    assert as_measured(result(model_args={"pretrained": "p", "method": "dense"})).record.cell == "dense"
    zipped = {"pretrained": "p", "dominant": "27", "contextual": "5"}
    assert as_measured(result(model_args=zipped)).record.cell == "visionzip-32"
    assert as_measured(result(model_args={**ARGS, "method": "visionzip-tuned"})).record.cell == "visionzip-tuned-64"
    with pytest.raises(ValueError, match=r"x_results\.json: p was run as it was saved"):
        as_measured(result(model_args={"pretrained": "p"}))
    with pytest.raises(ValueError, match=r"expected results of llava_visionzip with pretrained=..., got llava_hf"):
        as_measured(result(model="llava_hf"))
    with pytest.raises(ValueError, match=r"method 'dense' and budget .* do not go together"):
        as_measured(result(model_args={**ARGS, "method": "dense"}))


def test_samples_that_do_not_tell_give_a_figure_without_interval():
    one = as_measured(result(items={}, ratios=()))
    assert one.items is None and one.record.headline == 75.0


def test_the_options_of_a_cell_read_back_to_the_cell():
    budget = {"dominant": 27, "contextual": 5, "total": 32}
    given = model_options({"path": "p", "base": "b"}, "visionzip-tuned", budget, "spatial")
    read = as_measured(result(model_args={key: str(value) for key, value in given.items()}))
    assert read.record.cell == "visionzip-tuned-32" and read.record.order == "spatial"
    dense = model_options({"path": "p", "base": None}, "dense", None, "official")
    assert (
        "order" not in dense
        and as_measured(result(model_args={"pretrained": "p", "method": "dense"})).record.budget is None
    )


def test_results_on_other_data_are_not_compared():
    dense = as_measured(result(model_args={"pretrained": "org/llava", "method": "dense"}))
    zipped = as_measured(result())
    assert len(build_rows([dense, zipped], ["mmmu"])) == 2
    with pytest.raises(ValueError, match="differ in limit"):
        build_rows([dense, as_measured(result(limit=2))], ["mmmu"])
    with pytest.raises(ValueError, match="differ in base model"):
        build_rows([dense, as_measured(result(model_args={**ARGS, "pretrained": "another"}))], ["mmmu"])
