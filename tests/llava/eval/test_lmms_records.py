"""lmms-eval's results among our records: names, cells, what cannot be told."""

from dataclasses import replace
from pathlib import Path

import pytest

from llava.eval.compare import build_rows
from llava.eval.lmms_records import as_measured, model_options, questions_file, read_questions, write_questions
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
        said={key: f"says {key}" for key in items},
        asked={key: (f"What is {key}?", "ABCD"[int(key)]) for key in items},
        pictures={"0": "same", "1": "same", "2": "other"},
    )
    return replace(made, **changes)


def test_a_result_becomes_a_record_with_items():
    one = as_measured(result())
    assert one.record.name == "visionzip-64/mmmu" and one.record.headline == 75.0 and one.record.n == 4
    assert one.record.budget == {"dominant": 54, "contextual": 10, "total": 64} and one.record.order == "official"
    assert one.record.model == {"path": "org/llava", "base": None} and one.record.tokens_per_image == 64.0
    assert one.items.ids == ("0", "1", "2", "3") and one.items.scores == (1, 0, 1, 1)
    assert one.items.said == ("says 0", "says 1", "says 2", "says 3")


def test_documents_about_one_picture_fall_together_where_the_model_names_it():
    assert as_measured(result()).items.images == ("same", "same", "other", "3")
    assert as_measured(result(pictures={})).items.images == ("0", "1", "2", "3")


def test_questions_are_kept_by_task(tmp_path):
    write_questions(tmp_path, result(asked={"0": ("Who?\u2028", 'a "b"'), "1": ("", "")}))
    assert read_questions(tmp_path, "mmmu") == {"0": ("Who?\u2028", 'a "b"'), "1": ("", "")}
    assert read_questions(tmp_path, "lmms:pope") == {}
    questions_file(tmp_path, "mmmu").write_text('{"0": 1}')
    with pytest.raises(ValueError, match=r"mmmu\.json: expected \{document: \[prompt, reference\]\}"):
        read_questions(tmp_path, "mmmu")


def test_other_protocols_stay_columns_of_their_own():
    assert as_measured(result(task="pope")).record.task == "lmms:pope"


def test_what_a_run_was_is_read_from_its_options():
    assert as_measured(result(model_args={"pretrained": "p", "method": "dense"})).record.cell == "dense"
    zipped = {"pretrained": "p", "dominant": "27", "contextual": "5"}
    assert as_measured(result(model_args=zipped)).record.cell == "visionzip-32"
    assert as_measured(result(model_args={**ARGS, "method": "visionzip-tuned"})).record.cell == "visionzip-tuned-64"
    with pytest.raises(ValueError, match=r"x_results\.json: p was run as it was saved"):
        as_measured(result(model_args={"pretrained": "p"}))
    with pytest.raises(
        ValueError, match=r"expected results of llava_visionzip or llava with pretrained=..., got llava_hf"
    ):
        as_measured(result(model="llava_hf"))
    with pytest.raises(ValueError, match=r"method 'dense' and budget .* do not go together"):
        as_measured(result(model_args={**ARGS, "method": "dense"}))


OWN = {"pretrained": "org/llava", "conv_template": "vicuna_v1", "device_map": "auto"}


def own_llava(**changes):
    """What lmms-eval's own model leaves: no visual tokens, no pictures."""
    told = {"model": "llava", "model_args": OWN, "tokens_per_image": None, "pictures": {}, "source": Path("own.json")}
    return as_measured(result(**{**told, **changes}))


def test_lmms_evals_own_llava_is_dense():
    one = own_llava().record
    assert (one.name, one.method, one.budget, one.tokens_per_image, one.images) == (
        "dense/mmmu",
        "dense",
        None,
        None,
        0,
    )
    assert one.model == {"path": "org/llava", "base": None} and one.headline == 75.0
    with pytest.raises(ValueError, match=r"own\.json: expected .* with pretrained=.*, got llava with {'conv_template'"):
        own_llava(model_args={"conv_template": "vicuna_v1"})


def test_lmms_evals_own_llava_is_not_dense_where_the_checkpoint_compresses(tmp_path):
    args = {**OWN, "pretrained": str(tmp_path)}
    config = tmp_path / "config.json"
    for told in ("{}", '{"mm_compressor": null}'):
        config.write_text(told)
        assert own_llava(model_args=args).record.method == "dense"
    config.write_text('{"mm_compressor": {"method": "visionzip", "dominant": 54, "contextual": 10}}')
    with pytest.raises(
        ValueError, match=r"own\.json: .* was saved with .*'dominant': 54.* run it with llava_visionzip"
    ):
        own_llava(model_args=args)
    config.write_text("{")
    with pytest.raises(ValueError, match=r"config\.json: not JSON"):
        own_llava(model_args=args)


def test_lmms_evals_own_llava_stands_beside_what_was_asked_the_same():
    zipped = as_measured(result())
    dense, row = build_rows([own_llava(), zipped], ["mmmu"])
    assert (dense.tokens, row.tokens, row.relative) == (None, 64.0, 100.0)
    assert row.bounds is not None, "the pictures are those that the other model names"
    named = as_measured(result(model_args={"pretrained": "org/llava", "method": "dense"}, pictures={"0": "another"}))
    with pytest.raises(ValueError, match="mmmu: expected the same questions"):
        build_rows([named, zipped], ["mmmu"])
    for way, name in (({"conv_template": "llava_v1"}, "conv_mode"), ({"attn_implementation": "eager"}, "attention")):
        told = as_measured(result(model_args={**ARGS, "attn": "sdpa"}))
        with pytest.raises(ValueError, match=f"dense/mmmu and visionzip-64/mmmu .* differ in {name}"):
            build_rows([own_llava(model_args=OWN | way), told], ["mmmu"])
    with pytest.raises(ValueError, match="differ in limit"):
        build_rows([own_llava(limit=2), zipped], ["mmmu"])


def test_two_dense_results_of_a_task_are_both_named():
    ours = as_measured(result(model_args={"pretrained": "org/llava", "method": "dense"}))
    with pytest.raises(ValueError, match=r"two records of dense/mmmu, own\.json and x_results\.json; name folders"):
        build_rows([own_llava(), ours], ["mmmu"])
    assert len(build_rows([own_llava(task="pope"), ours], ["mmmu"])) == 1, "one row of two benchmarks"


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


@pytest.mark.parametrize(
    ("name", "ways"),
    [
        ("conv_mode", ({"conv_template": "vicuna_v1"}, {"conv_template": "llava_v1"})),
        ("attention", ({"attn": "sdpa"}, {"attn_implementation": "eager"})),
        ("dtype", ({"dtype": "float16"}, {"dtype": "bfloat16"})),
    ],
)
def test_runs_that_were_asked_in_another_way_are_not_compared(name, ways):
    """Also where the first record does not tell how: dense says nothing of attention and dtype."""
    dense = as_measured(result(model_args={"pretrained": "org/llava", "method": "dense"}))
    one, other = (
        as_measured(result(model_args={**ARGS, "dominant": str(kept), **way}))
        for kept, way in zip((54, 22), ways, strict=True)
    )
    assert len(build_rows([dense, one], ["mmmu"])) == 2
    with pytest.raises(ValueError, match=f"/mmmu and visionzip-32/mmmu .* differ in {name}"):
        build_rows([dense, one, other], ["mmmu"])


def test_a_tuned_checkpoint_stands_beside_its_base_and_no_other_run_of_it_does():
    dense = as_measured(result(model_args={"pretrained": "org/llava", "method": "dense"}))
    tuned = {**ARGS, "pretrained": "zip_tune", "model_base": "org/llava"}
    row = build_rows([dense, as_measured(result(model_args={**tuned, "method": "visionzip-tuned"}))], ["mmmu"])[1]
    assert row.title == "VisionZip‡"
    with pytest.raises(ValueError, match="differ in base model"):
        build_rows([dense, as_measured(result(model_args={**tuned, "dominant": "22"}))], ["mmmu"])
