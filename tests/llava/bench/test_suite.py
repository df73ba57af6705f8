"""Suites: every part on a tiny model from YAML to record, what is done is not done again, what fails is told."""

import inspect
import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llava.bench.command import app, case_list
from llava.bench.suite import PARTS, Plan, plans_of, read_suite, record_file, run
from tests.llava.bench.tiny_subject import SUITE, entry


def quiet(_: str) -> None:
    pass


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """All records of the tiny suite's first model."""
    out = tmp_path_factory.mktemp("records")
    plan = next(plan for plan in read_suite(SUITE) if plan.name == "tiny-next")
    assert set(plan.parts) == set(PARTS), "the tiny suite proves every part"
    assert list(run([plan], out, "cpu", quiet)) == []
    return {part: json.loads(record_file(out, plan, part).read_text("utf-8")) for part in PARTS}


def test_every_record_says_what_made_it(records):
    for part, record in records.items():
        assert record["kind"] == part
        assert record["stamp"]["commit"] and record["stamp"]["dtype"] == "float32"
        assert record["subject"]["weights"] == "random"
        assert record["ceilings"]["flops_per_s"] > 1e8 < record["ceilings"]["bytes_per_s"]
        assert record["settings"]["load"]["shape"] == "liuhaotian/llava-v1.6-vicuna-7b"


def record_steps(records):
    return records["latency"]["settings"]["new_tokens"] - 1


def test_stages_are_those_of_the_shared_path(records):
    rows = {row["case"]: row for row in records["latency"]["cases"]}
    zipped, dense = rows["visionzip-16"]["first"], rows["dense"]["first"]
    assert list(zipped) == ["total", "vision", "score", "merge", "project", "pack", "splice", "prefill", "rest"]
    assert set(zipped) - set(dense) == {"score", "merge"}
    for row in (zipped, dense):
        stages = sum(value["median"] for name, value in row.items() if name != "total")
        assert 0 < stages <= 1.2 * row["total"]["median"]
        assert row["rest"]["p10"] >= 0
    for row in rows.values():  # the stage itself, the means of three steps: no difference of totals
        steps = record_steps(records)
        assert row["decode_step"]["median"] == pytest.approx(row["answer"]["decode"]["median"] / steps, rel=1e-4)


def test_rows_are_compared_with_the_first_case(records):
    latency = records["latency"]
    assert latency["compared_with"] == "dense"
    assert latency["cases"][0]["speedup_first"]["median"] == 1.0
    assert [row["case"] for row in latency["cases"]] == [
        "dense",
        "visionzip-16",
        "random-16",
        "fastv-16",
        "sparsevlm-16",
        "visionzip-16 official",
        "dense fast",
        "visionzip-16 fast",
    ]


def test_counts_follow_the_tokens(records):
    rows = {row["case"]: row for row in records["latency"]["cases"]}
    assert (rows["dense"]["visual_tokens"], rows["visionzip-16"]["visual_tokens"]) == (336, 80)
    per_token = 2 * 64 * 4 * 18  # key and value, float32, layers
    assert rows["dense"]["kv_bytes"] == per_token * (60 + 336)
    assert rows["visionzip-16"]["kv_bytes"] == per_token * (60 + 80)
    assert rows["fastv-16"]["kv_bytes"] == pytest.approx(
        per_token * (60 + rows["fastv-16"]["visual_tokens_per_layer"]), 0.01
    )
    assert rows["visionzip-16"]["flops_first"] < rows["fastv-16"]["flops_first"] < rows["dense"]["flops_first"]


def test_the_encoder_is_compared_five_ways(records):
    rows = {(row["tiles"], row["way"]): row for row in records["encoder"]["cases"]}
    assert records["encoder"]["budget"] == 16
    assert {way for _, way in rows} == {"blocks", "hugging face", "dense", "visionzip", "official"}
    assert {tiles for tiles, _ in rows} == {1, 5}
    for tiles in (1, 5):
        assert rows[tiles, "blocks"]["times_the_blocks"]["median"] == 1.0
        assert rows[tiles, "official"]["peak_bytes"] > 2 * rows[tiles, "visionzip"]["peak_bytes"]


def test_other_parts_hold_what_they_are_for(records):
    memory = {row["case"]: row for row in records["memory"]["cases"]}
    assert memory["visionzip-16"]["cache_bytes"] < memory["dense"]["cache_bytes"]
    assert {row["case"] for row in records["throughput"]["cases"] if row["batch"] == 2} == {
        "dense",
        "visionzip-16",
        "fastv-16",
        "visionzip-16 fast",
    }
    assert [row["case"] for row in records["train"]["cases"]] == ["dense", "visionzip-16"]
    train = {row["case"]: row["peak_bytes"] for row in records["train"]["cases"]}
    assert train["visionzip-16"] < train["dense"]
    assert {curve["over"] for curve in records["scaling"]["curves"]} == {"tiles", "tokens", "batch"}
    assert {row["patches"] for row in records["kernels"]["cases"]} == {64, 144}


def small(**parts):
    given = entry()
    base = {key: given[key] for key in ("shape", "sizes", "tower")}
    return plans_of({"subjects": [{**base, "name": "small", **parts}]}, "here")


MEMORY = {"cases": ["dense"], "new_tokens": 2}


def test_what_has_its_record_is_not_measured_again(tmp_path):
    said: list[str] = []
    assert list(run(small(memory=MEMORY), tmp_path, "cpu", quiet)) == []
    file = tmp_path / "small.memory.json"
    before = file.stat().st_mtime_ns
    assert list(run(small(memory=MEMORY), tmp_path, "cpu", said.append)) == []
    assert file.stat().st_mtime_ns == before and said == ["small: nothing left to measure"]
    assert list(run(small(memory={**MEMORY, "new_tokens": 3}), tmp_path, "cpu", quiet)) == []
    assert file.stat().st_mtime_ns != before, "other settings are another measurement"


def test_a_part_that_fails_is_named_and_the_others_are_kept(tmp_path):
    failed = list(run(small(latency={"cases": ["zip:16"]}, memory=MEMORY), tmp_path, "cpu", quiet))
    assert failed == [failed[0]] and failed[0].startswith("small, latency: ValueError: unknown method or path 'zip'")
    assert [path.name for path in tmp_path.iterdir()] == ["small.memory.json"]


def test_a_model_that_cannot_be_loaded_fails_alone(tmp_path, monkeypatch):
    plans = [replace(plan, name=name) for plan in small(memory=MEMORY) for name in ("broken", "small")]
    built = Plan.subject

    def subject(plan, device):
        if plan.name == "broken":
            raise ImportError("no bitsandbytes")
        return built(plan, device)

    monkeypatch.setattr(Plan, "subject", subject)
    assert list(run(plans, tmp_path, "cpu", quiet)) == ["broken: ImportError: no bitsandbytes"]
    assert [path.name for path in tmp_path.iterdir()] == ["small.memory.json"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "no subjects"),
        ({"subjects": [{"latency": {}}]}, "needs either model"),
        ({"subjects": [{"shape": "a", "model": "b"}]}, "needs either model"),
        ({"subjects": [{"shape": "a", "speed": {}}]}, r"subjects\[0\] has unknown keys \['speed'\]"),
        ({"subjects": [{"shape": "a"}, {"shape": "a"}]}, "two subjects share a name"),
        ({"subjects": [{"shape": "a", "bits": 5}]}, r"subjects\[0\]: bits 5: expected 16, 8 or 4"),
        ({"subjects": [{"shape": "a", "dtype": "fp16"}]}, r"subjects\[0\]: dtype 'fp16' is unknown"),
    ],
)
def test_a_suite_that_does_not_fit_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        plans_of(config, "suite.yaml")


def test_quantised_models_have_names_of_their_own():
    names = [plan.name for plan in plans_of({"subjects": [{"shape": "o/a"}, {"shape": "o/a", "bits": 4}]}, "x")]
    assert names == ["a", "a-4bit"]


@pytest.mark.parametrize("file", sorted(SUITE.parent.glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_suites_hold_options_and_cases_that_exist(file: Path):
    from llava.bench.cases import parse_case

    for plan in read_suite(file):
        assert plan.parts
        for part, options in plan.parts.items():
            inspect.signature(PARTS[part]).bind(None, **options)
            for case in options.get("cases", []):
                parse_case(case)


def test_five_tiles_on_a_cpu_are_the_same_model_under_another_name():
    """So that both records of its encoder stay."""
    first, more = (read_suite(SUITE.with_name(name)) for name in ("cpu.yaml", "cpu_tiles.yaml"))
    (tiles,) = more
    (same,) = (plan for plan in first if plan.load == tiles.load)
    assert list(tiles.parts) == ["encoder"] and not {plan.name for plan in first} & {tiles.name}
    assert tiles.parts["encoder"]["budget"] == same.parts["encoder"]["budget"]


def test_flags_become_cases_with_dense_first():
    assert case_list("visionzip,fastv", "32,64", "plain,fast,official") == [
        "dense:plain",
        "dense:fast",
        "visionzip:32:plain",
        "visionzip:32:fast",
        "visionzip:32:official",
        "visionzip:64:plain",
        "visionzip:64:fast",
        "visionzip:64:official",
        "fastv:32:plain",
        "fastv:64:plain",
    ]
    with pytest.raises(ValueError, match="--method random needs --budget"):
        case_list("random", "", "plain")
    with pytest.raises(ValueError, match="unknown method"):
        case_list("zip", "32", "plain")


def test_what_is_named_twice_is_measured_once_and_nothing_is_left_out_silently():
    assert case_list("visionzip,visionzip", "32,32", "plain") == ["dense:plain", "visionzip:32:plain"]
    with pytest.raises(ValueError, match="--method fastv runs on none of --path fast"):
        case_list("visionzip,fastv", "32", "fast")
    with pytest.raises(ValueError, match="--budget 64,x: expected whole numbers"):
        case_list("visionzip", "64,x", "plain")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["latency", "--bits", "5"], "--bits 5: expected 16, 8 or 4"),
        (["latency", "--dtype", "fp16"], "--dtype fp16: expected"),
        (["encoder", "--tiles", "1,x"], "--tiles 1,x: expected"),
        (["throughput", "--batch-sizes", "0"], "--batch-sizes 0: expected"),
    ],
)
def test_wrong_values_name_their_flag(words, told):
    done = CliRunner().invoke(app, [*words, "--shape", "liuhaotian/llava-v1.5-7b", "--device", "cpu"])
    assert done.exit_code == 1 and told in done.output


def test_a_command_measures_the_miniature_and_prints_a_table(tmp_path):
    words = ["memory", "--model", "playground/miniature/llava-mini-v1.5", "--budget", "16", "--out", str(tmp_path)]
    done = CliRunner().invoke(app, [*words, "--device", "cpu", "--new-tokens", "2"])
    assert done.exit_code == 0, done.output
    assert "visionzip-16" in done.output
    record = json.loads((tmp_path / "llava-mini-v1.5.memory.json").read_text("utf-8"))
    assert record["subject"]["weights"] == "checkpoint"
    assert str(tmp_path) not in json.dumps(record)


def test_the_encoder_alone_from_the_command_line(tmp_path):
    words = ["encoder", "--model", "playground/miniature/llava-mini-v1.5", "--device", "cpu", "--out", str(tmp_path)]
    done = CliRunner().invoke(app, [*words, "--tiles", "1,2", "--budget", "16", "--rounds", "1"])
    assert done.exit_code == 0, done.output
    assert "The encoder alone" in done.output
    record = json.loads((tmp_path / "llava-mini-v1.5.encoder.json").read_text("utf-8"))
    assert {row["tiles"] for row in record["cases"]} == {1, 2} and record["budget"] == 16
    done = CliRunner().invoke(app, [*words, "--tiles", ""])
    assert done.exit_code == 1 and "--tiles : expected" in done.output


def test_a_wrong_option_is_told_without_a_traceback(tmp_path):
    done = CliRunner().invoke(app, ["all", "--config", str(tmp_path / "no.yaml")])
    assert done.exit_code == 1
    assert "no.yaml" in done.output and "Traceback" not in done.output
