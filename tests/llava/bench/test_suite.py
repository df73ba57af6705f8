"""Suites: every part on a tiny model from YAML to record, what is done is not done again, what fails is told."""

import inspect
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llava.bench import suite
from llava.bench.command import all_parts, app, case_list
from llava.bench.suite import PARTS, Plan, plans_of, read_suite, record_file, run
from tests.llava.bench.tiny_subject import SUITE, entry

ROOT = Path(__file__).resolve().parents[3]


def quiet(_: str) -> None:
    pass


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The tiny suite as a user runs it on a GPU, here on the CPU: folder of the records, and what the script said."""
    out = tmp_path_factory.mktemp("records")
    settings = {"CONFIG": str(SUITE), "DEVICE": "cpu", "OUT": str(out), "BENCH_PYTHON": sys.executable}
    done = subprocess.run(
        ["bash", "scripts/bench/gpu.sh"], cwd=ROOT, env={**os.environ, **settings}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return out, done


def test_the_cpu_script_hands_on_suite_folder_and_words(tmp_path):
    (tmp_path / "scripts" / "bench").mkdir(parents=True)
    library = (ROOT / "scripts" / "lib.sh").read_text("utf-8") + "\nsetup_environment() { :; }\n"
    (tmp_path / "scripts" / "lib.sh").write_text(library, encoding="utf-8")
    script = Path(shutil.copy(ROOT / "scripts" / "bench" / "cpu.sh", tmp_path / "scripts" / "bench"))
    settings = {"CONFIG": str(SUITE), "OUT": str(tmp_path / "out"), "PYTHONPATH": str(ROOT)}
    settings["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", script, "--only", "kernels"], env={**os.environ, **settings}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["tiny-next.kernels.json"]
    assert "tiny-4bit: nothing left to measure" in done.stderr


@pytest.fixture(scope="module")
def records(measured):
    """All records of the tiny suite's first model."""
    out, _ = measured
    plan = next(plan for plan in read_suite(SUITE) if plan.name == "tiny-next")
    assert set(plan.parts) == set(PARTS), "the tiny suite proves every part"
    return {part: json.loads(record_file(out, plan, part).read_text("utf-8")) for part in PARTS}


def test_the_script_leaves_every_record_and_prints_its_tables(measured):
    out, done = measured
    expected = {record_file(out, plan, part).name for plan in read_suite(SUITE) for part in plan.parts}
    assert {path.name for path in out.iterdir()} == expected and any("4bit" in name for name in expected)
    for title in ("From picture to first token", "The encoder alone", "Memory of one answer", "How cost grows"):
        assert title in done.stdout


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
        "dense lean",
        "dense fast",
        "visionzip-16 fast",
    ]
    alike = {row["case"]: row["same_path"]["compared_with"] for row in latency["cases"]}
    assert alike["visionzip-16 official"] == "dense" and alike["visionzip-16 fast"] == "dense fast"
    assert alike["fastv-16"] == alike["sparsevlm-16"] == "dense lean"
    loops = {(row["case"], row["batch"]): row for row in records["throughput"]["cases"]}
    assert loops["visionzip-16 fast", 2]["same_path"]["compared_with"] == "dense fast"
    assert loops["fastv-16", 1]["same_path"] is None, "no dense on its loop among these"


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
    per_token = 2 * 64 * 4 * 18  # key and value, float32, layers
    written = 60 + records["memory"]["settings"]["new_tokens"] - 1  # the last token is never read
    assert memory["dense"]["cache_bytes"] == per_token * (336 + written)
    assert memory["visionzip-16"]["cache_bytes"] == per_token * (80 + written)
    assert memory["fastv-16"]["cache_bytes"] < memory["dense"]["cache_bytes"]
    assert memory["visionzip-16 official"]["cache_at_peak_bytes"] == 0, "its peak is in the encoder"
    static = memory["visionzip-16 fast"]
    assert static["cache_bytes"] == static["cache_at_peak_bytes"] >= per_token * (80 + written)
    assert static["cache_bytes"] % (per_token * 64) == 0, "whole buckets"
    for row in memory.values():
        parts = ("weights", "other", "cache_at_peak", "activations")
        assert row["peak_bytes"] == sum(row[f"{part}_bytes"] for part in parts)
        assert 0 <= row["steady_bytes"] - row["weights_bytes"] - row["cache_bytes"] < per_token, row["case"]
    assert {row["case"] for row in records["throughput"]["cases"] if row["batch"] == 2} == {
        "dense",
        "visionzip-16",
        "fastv-16",
        "dense fast",
        "visionzip-16 fast",
    }
    assert [row["case"] for row in records["train"]["cases"]] == ["dense", "visionzip-16"]
    train = {row["case"]: row["peak_bytes"] for row in records["train"]["cases"]}
    assert train["visionzip-16"] < train["dense"]
    assert {curve["over"] for curve in records["scaling"]["curves"]} == {"tiles", "patches", "tokens", "batch"}
    assert {row["patches"] for row in records["kernels"]["cases"]} == {64, 144}


def small(**parts):
    given = entry()
    base = {key: given[key] for key in ("shape", "sizes", "tower")}
    return plans_of({"subjects": [{**base, "name": "small", **parts}]}, "here")


MEMORY = {"cases": ["dense"], "new_tokens": 2}


@pytest.fixture
def as_stamped(monkeypatch):
    """A function that says what the stamp of now is to be."""

    def say(**changed):
        now = {"commit": "a" * 40, "dirty": False, "versions": {"torch": "2"}, "device": "cpu (here)", "date": "today"}
        now |= changed
        monkeypatch.setattr(suite, "stamp", lambda **_: now)

    return say


def test_what_has_its_record_is_not_measured_again(tmp_path, as_stamped):
    said: list[str] = []
    as_stamped()
    assert list(run(small(memory=MEMORY), tmp_path, "cpu", quiet)) == []
    file = tmp_path / "small.memory.json"
    before = file.stat().st_mtime_ns
    assert list(run(small(memory=MEMORY), tmp_path, "cpu", said.append)) == []
    assert file.stat().st_mtime_ns == before
    assert said == ["small, memory: kept, measured today", "small: nothing left to measure"]
    assert list(run(small(memory=MEMORY), tmp_path, "cpu", quiet, again=True)) == []
    assert file.stat().st_mtime_ns != before, "a command for one part measures"
    assert suite.kept_parts(small(memory={**MEMORY, "new_tokens": 3})[0], tmp_path, "cpu") == {}


@pytest.mark.parametrize(
    "changed", [{"commit": "b" * 40}, {"device": "NVIDIA H200"}, {"versions": {"torch": "3"}}, {"dirty": True}]
)
def test_a_record_of_other_code_or_another_device_is_no_record(tmp_path, as_stamped, changed):
    """The folder may hold those that were published with the code."""
    as_stamped()
    assert list(run(plans := small(memory=MEMORY), tmp_path, "cpu", quiet)) == []
    assert list(suite.kept_parts(plans[0], tmp_path, "cpu")) == ["memory"]
    as_stamped(**changed)
    assert suite.kept_parts(plans[0], tmp_path, "cpu") == {}


def test_a_record_older_than_the_checkpoint_is_no_record(tmp_path, as_stamped):
    checkpoint = tmp_path / "model"
    checkpoint.mkdir()
    (checkpoint / "model.safetensors").touch()
    (plan,) = plans_of({"subjects": [{"model": str(checkpoint), "name": "own", "memory": MEMORY}]}, "here")
    for date, kept in (("2999-01-01T00:00:00+00:00", ["memory"]), ("2001-01-01T00:00:00+00:00", [])):
        as_stamped(date=date)
        record = {"stamp": suite.stamp(), "settings": {"load": dict(plan.load), **MEMORY}}
        record_file(tmp_path, plan, "memory").write_text(json.dumps(record), encoding="utf-8")
        assert list(suite.kept_parts(plan, tmp_path, "cpu")) == kept


def test_a_part_that_fails_is_named_and_the_others_are_kept(tmp_path):
    failed = list(run(small(latency={"cases": ["zip:16"]}, memory=MEMORY), tmp_path, "cpu", quiet))
    assert [str(one) for one in failed] == [str(failed[0])] and failed[0][:2] == ("small", "latency")
    assert str(failed[0]).startswith("small, latency: unknown method 'zip'; known: dense")
    assert [path.name for path in tmp_path.iterdir()] == ["small.memory.json"]


def test_a_model_that_cannot_be_loaded_fails_alone(tmp_path, monkeypatch):
    plans = [replace(plan, name=name) for plan in small(memory=MEMORY) for name in ("broken", "small")]
    built = Plan.subject

    def subject(plan, device):
        if plan.name == "broken":
            raise ImportError("no bitsandbytes")
        return built(plan, device)

    monkeypatch.setattr(Plan, "subject", subject)
    failed = [str(one) for one in run(plans, tmp_path, "cpu", quiet)]
    assert failed == ["broken: ImportError: no bitsandbytes"]
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
        ({"subjects": [{"shape": "a", "attention": "flash"}]}, r"subjects\[0\]: attention 'flash': expected one of"),
        ({"subjects": [{"model": "a", "sizes": {}}]}, r"subjects\[0\]: sizes belong to a shape"),
        ({"subjects": [{"shape": "a", "dtype": "fp16"}]}, r"subjects\[0\]: dtype 'fp16' is unknown"),
    ],
)
def test_a_suite_that_does_not_fit_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        plans_of(config, "suite.yaml")


def test_other_attention_is_the_language_models(tmp_path):
    assert list(run(small(attention="eager", memory=MEMORY), tmp_path, "cpu", quiet)) == []
    record = json.loads((tmp_path / "small.memory.json").read_text("utf-8"))
    assert record["subject"]["attention"] == "eager"
    assert record["cases"][0]["activations_bytes"] > 0


def test_quantised_models_have_names_of_their_own():
    entries = [{"shape": "o/a"}, {"shape": "o/a", "bits": 4}, {"shape": "o/a", "attention": "eager"}]
    assert [plan.name for plan in plans_of({"subjects": entries}, "x")] == ["a", "a-4bit", "a-eager"]


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
    with pytest.raises(ValueError, match="--method zip: expected some of dense, visionzip"):
        case_list("zip", "32", "plain")
    with pytest.raises(ValueError, match="--path plian: expected some of plain, lean"):
        case_list("visionzip", "32", "plian")
    with pytest.raises(ValueError, match="--budget 1: total must be"):
        case_list("visionzip", "1", "plain")


def test_what_is_named_twice_is_measured_once_and_nothing_is_left_out_silently(capsys):
    assert case_list("visionzip,visionzip", "32,32", "plain") == ["dense:plain", "visionzip:32:plain"]
    assert capsys.readouterr().err == ""
    assert case_list("random", "16", "plain,official") == ["dense:plain", "random:16:plain"]
    assert capsys.readouterr().err.startswith("left out: random-16 official (path 'official' is an encoder for")
    with pytest.raises(ValueError, match="--method fastv runs on none of --path fast"):
        case_list("visionzip,fastv", "32", "fast")
    with pytest.raises(ValueError, match="--budget 64,x: expected whole numbers"):
        case_list("visionzip", "64,x", "plain")


def test_all_parts_of_one_model_need_no_suite():
    parts = all_parts("visionzip,fastv", "32,64", "plain,fast")
    assert list(parts) == list(PARTS)
    for part, options in parts.items():
        inspect.signature(PARTS[part]).bind(None, **options)
    assert parts["latency"]["cases"] == case_list("visionzip,fastv", "32,64", "plain,fast")
    assert parts["train"]["cases"] == ["dense:plain", "visionzip:32:plain", "visionzip:64:plain"]
    assert parts["encoder"] == {"budget": 32}


def test_all_from_the_command_line(tmp_path):
    words = ["all", "--model", "playground/miniature/llava-mini-v1.5", "--budget", "16", "--out", str(tmp_path)]
    done = CliRunner().invoke(app, [*words, "--device", "cpu", "--only", "kernels"])
    assert done.exit_code == 0, done.output
    assert [path.name for path in tmp_path.iterdir()] == ["llava-mini-v1.5.kernels.json"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["latency", "--bits", "5"], "--bits 5: expected 16, 8 or 4"),
        (["latency", "--attention", "flash"], "--attention flash: expected one of sdpa, flash_attention_2, eager"),
        (["latency", "--dtype", "fp16"], "--dtype fp16: expected"),
        (["encoder", "--tiles", "1,x"], "--tiles 1,x: expected"),
        (["throughput", "--batch-sizes", "0"], "--batch-sizes 0: expected"),
        (["all", "--only", "speed"], "--only speed: expected one of latency"),
        (["all", "--config", "configs/bench/tiny.yaml"], "names its models itself"),
        (["memory", "--model", "x"], "expected either --model"),
    ],
)
def test_wrong_values_name_their_flag(words, told):
    done = CliRunner().invoke(app, [*words, "--shape", "liuhaotian/llava-v1.5-7b", "--device", "cpu"])
    assert done.exit_code == 1 and told in done.output


def test_cases_that_do_not_fit_the_model_are_all_named_before_anything_is_measured(tmp_path):
    words = ["latency", "--model", "playground/miniature/llava-mini-v1.5", "--device", "cpu", "--out", str(tmp_path)]
    done = CliRunner().invoke(app, [*words, "--method", "visionzip,sparsevlm", "--budget", "16,200"])
    assert done.exit_code == 1 and not list(tmp_path.iterdir())
    for part in (
        "visionzip-200: dominant=169 + contextual=31 = 200 tokens do not fit",
        "sparsevlm-16: it prunes behind layers 2, 6, 15, the model has 4",
        "Leave out what does not fit",
    ):
        assert part in done.output
    assert "round" not in done.output


def test_a_run_that_fails_prints_no_table_of_a_former_one(tmp_path):
    words = ["memory", "--model", "playground/miniature/llava-mini-v1.5", "--device", "cpu", "--out", str(tmp_path)]
    assert "visionzip-16" in CliRunner().invoke(app, [*words, "--budget", "16", "--new-tokens", "2"]).output
    done = CliRunner().invoke(app, [*words, "--budget", "200"])
    assert done.exit_code == 1 and "visionzip-16" not in done.output and "do not fit" in done.output


def test_ctrl_c_is_told_in_a_line(monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(suite, "run", stop)
    words = ["memory", "--shape", "liuhaotian/llava-v1.5-7b", "--device", "cpu"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 130 and done.output.startswith("stopped; parts that were done")


def test_layers_are_those_of_a_shape():
    done = CliRunner().invoke(app, ["memory", "--model", "playground/miniature/llava-mini-v1.5", "--layers", "2"])
    assert done.exit_code == 1 and "--layers: a checkpoint has the layers it has" in done.output


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
