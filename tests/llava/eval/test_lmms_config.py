"""Configurations of lmms-eval: what is pinned, what becomes a task file, what the command line says."""

from pathlib import Path

import pytest
import yaml

pytest.importorskip("lmms_eval")

from llava.eval import lmms_config
from llava.eval.grid_config import read_config as read_grid
from llava.eval.lmms_config import LmmsConfig, LmmsTask, arguments, check_version, read_config, read_task, write_tasks
from llava.eval.lmms_records import task_name

ROOT = Path(__file__).resolve().parents[3]
POPE = "pope/pope.yaml"
SUFFIX = "\nAnswer the question using a single word or phrase."


def config(*tasks, **settings):
    return LmmsConfig("0.7.3", tasks, **settings)


def write(tmp_path, **content):
    file = tmp_path / "a.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def test_a_configuration_is_read(tmp_path):
    file = write(tmp_path, lmms_eval="1", data="x", batch_size=4, tasks={"a": {"file": POPE, "differs": "none"}})
    read = read_config(file)
    assert read == LmmsConfig("1", (LmmsTask("a", POPE, "none"),), batch_size=4, data=Path("x"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"lmms_eval": "1"}, r"a\.yaml: missing keys \['tasks'\]"),
        ({"lmms_eval": "1", "tasks": {}}, "expected 'tasks' to map"),
        ({"lmms_eval": "1", "tasks": {"a": {"file": "x", "differs": ""}}, "speed": 1}, r"unknown keys \['speed'\]"),
        ({"lmms_eval": "1", "tasks": {"a": {"differs": "x"}}}, r"task a: missing keys \['file'\]"),
        ({"lmms_eval": "1", "tasks": {"a": {"file": "x", "differs": "", "ocr": True}}}, r"unknown keys \['ocr'\]"),
        ({"lmms_eval": "1", "tasks": {"a": None}}, "task a: expected a mapping"),
    ],
)
def test_bad_configurations_are_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        read_config(write(tmp_path, **content))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"b\.yaml: no such configuration"):
        read_config(tmp_path / "b.yaml")


def test_some_tasks_in_the_order_asked_for():
    whole = config(LmmsTask("a", POPE, ""), LmmsTask("b", POPE, ""), batch_size=3)
    some = whole.only(["b", "a"])
    assert [task.name for task in some.tasks] == ["b", "a"] and some.batch_size == 3
    with pytest.raises(ValueError, match="no tasks c in the configuration; known: a, b"):
        whole.only(["a", "c"])


def test_another_version_is_said(monkeypatch):
    monkeypatch.setattr(lmms_config.metadata, "version", lambda name: "0.7.4")
    assert "lmms-eval 0.7.4 is installed, the configuration was made for 0.7.3" in check_version(config())
    monkeypatch.setattr(lmms_config.metadata, "version", lambda name: "0.7.3")
    assert check_version(config()) is None


def test_a_task_under_lmms_evals_own_name_needs_no_file(tmp_path):
    write_tasks(config(LmmsTask("pope", POPE, "", {"test_split": "test"})), tmp_path / "tasks")
    assert not list((tmp_path / "tasks").iterdir())


def test_a_task_under_a_new_name_includes_lmms_evals_and_changes_what_is_asked(tmp_path):
    change = {"lmms_eval_specific_kwargs": {"default": {"post_prompt": "!"}}}
    write_tasks(config(LmmsTask("mine", POPE, "", change=change)), tmp_path)
    ours, theirs = read_task(tmp_path / "mine.yaml"), read_task(lmms_config.tasks_folder() / POPE)
    assert ours == {**theirs, "task": "mine", "tag": [], **change}
    assert ours["process_results"] == "utils.pope_process_results"


def test_included_files_are_read_too():
    settings = read_task(lmms_config.tasks_folder() / "textvqa" / "textvqa_val.yaml")
    assert settings["lmms_eval_specific_kwargs"]["default"]["ocr"] is False
    assert settings["task"] == "textvqa_val" and "include" not in settings


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (LmmsTask("pope", "pope/none.yaml", ""), "lmms-eval has no task file pope/none.yaml"),
        (LmmsTask("pope", POPE, "", change={"test_split": "x"}), "task pope: changed tasks need a name of their own"),
        (
            LmmsTask("pope", POPE, "", {"generation_kwargs": {"max_new_tokens": 16, "temperature": 0}}),
            r"generation_kwargs\.max_new_tokens is 128, pinned 16; install lmms-eval 0\.7\.3",
        ),
        (LmmsTask("pope", POPE, "", {"nothing": 1}), "nothing is None, pinned 1"),
    ],
)
def test_what_is_not_as_pinned_is_refused(tmp_path, task, message):
    with pytest.raises(ValueError, match=message):
        write_tasks(config(task), tmp_path)


def test_arguments(tmp_path):
    words = arguments(
        config(LmmsTask("a", POPE, ""), LmmsTask("b", POPE, ""), batch_size=4, conv_template="llava_v1"),
        {"pretrained": "x/y", "dominant": 54, "contextual": 10, "method": None},
        tmp_path / "tasks",
        tmp_path,
        7,
    )
    pairs = dict(zip(words[::2], words[1::2], strict=False))
    assert pairs["--model_args"] == "pretrained=x/y,dominant=54,contextual=10,conv_template=llava_v1"
    assert (pairs["--tasks"], pairs["--batch_size"], pairs["--limit"]) == ("a,b", "4", "7")
    assert pairs["--model"] == "llava_visionzip" and "--log_samples" in words
    assert "--limit" not in arguments(config(), {}, tmp_path, tmp_path, None)


def test_a_comma_in_an_option_is_refused(tmp_path):
    with pytest.raises(ValueError, match="pretrained=a,b: lmms-eval splits its options at commas"):
        arguments(config(), {"pretrained": "a,b"}, tmp_path, tmp_path, None)


SHIPPED = [ROOT / "configs" / "eval" / f"lmms_{name}.yaml" for name in ("table1", "ocr")]


def test_every_task_the_guide_tells_of_is_in_a_shipped_file():
    guide = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    table = guide.split("### What differs from LLaVA's own scripts")[1].split("### ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    told = [name.strip(" `") for row in rows for name in row.split(",")]
    assert sorted(told) == sorted(task.name for file in SHIPPED for task in read_config(file).tasks)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_shipped_tasks_pin_data_and_where_an_answer_ends(file):
    for task in read_config(file).tasks:
        assert {"dataset_path", "test_split"} <= task.pinned.keys(), task.name
        assert {"max_new_tokens", "until"} & task.pinned["generation_kwargs"].keys(), task.name


@pytest.mark.parametrize("name", ["table1_v1_5_7b", "table2_next_7b", "table13_next_13b", "next_7b_dense"])
def test_the_papers_grids_ask_lmms_eval_for_what_is_in_the_average_only(name):
    grid = read_grid(ROOT / "configs" / "eval" / f"{name}.yaml")
    assert {task_name(task) for task in grid.lmms.tasks} <= set(grid.average_over)
