"""The programs that answer: one set of options, ScienceQA's list, MMBench's table and rounds."""

import json

import pytest
import typer
from typer.testing import CliRunner

from llava.eval import model_vqa, model_vqa_loader, model_vqa_mmbench, model_vqa_science
from llava.eval.answer_command import AnswerOptions, answer_command, conversation_for
from llava.eval.tasks import TASKS
from llava.eval.tasks.mmbench_table import read_asked
from tests.tiny_checkpoints import tiny_vicuna_llava, write_v15
from tests.tiny_eval import LETTER, write_root

PROGRAMS = {
    "model_vqa": model_vqa,
    "model_vqa_loader": model_vqa_loader,
    "model_vqa_science": model_vqa_science,
    "model_vqa_mmbench": model_vqa_mmbench,
}
PUBLIC = (
    "model-path model-base image-folder question-file answers-file conv-mode num-chunks chunk-idx temperature".split()
)
MORE = {
    "model_vqa": ["--top_p", "--num_beams"],
    "model_vqa_loader": ["--top_p", "--num_beams", "--max_new_tokens"],
    "model_vqa_science": ["--answer-prompter", "--single-pred-prompt"],
    "model_vqa_mmbench": ["--top_p", "--num_beams", "--all-rounds", "--single-pred-prompt", "--lang"],
}
OURS = "dominant contextual method order batch-size num-workers device fast".split()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("answering")
    write_v15(tiny_vicuna_llava(folder), folder / "llava-tiny")
    return write_root(folder)


def run(world, program, answers, **flags):
    app = typer.Typer()
    app.command()(PROGRAMS[program].main)
    given = {"model-path": world / "llava-tiny", "answers-file": answers, "max_new_tokens": 4, **flags}
    words = [word for key, value in given.items() for word in (f"--{key}", *([] if value is True else [str(value)]))]
    return CliRunner().invoke(app, words)


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def defaults(program):
    app = typer.Typer()
    app.command()(PROGRAMS[program].main)
    command = typer.main.get_command(app)
    return {name: option.default for option in command.params for name in option.opts}


@pytest.mark.parametrize("program", sorted(PROGRAMS))
def test_every_public_flag_and_ours(program):
    known = defaults(program)
    wanted = [f"--{name}" for name in PUBLIC + OURS] + MORE[program]
    table = program == "model_vqa_mmbench"  # its pictures lie in the table
    assert [name for name in wanted if name not in known] == (["--image-folder"] if table else [])
    assert known["--max_new_tokens"] == (128 if program == "model_vqa_loader" else 1024)
    assert (known["--conv-mode"], known["--temperature"]) == ("vicuna_v1", 0.0)


def test_an_error_is_a_usage_error_and_options_arrive_whole(tmp_path):
    seen = []

    @answer_command(max_new_tokens=7)
    def main(options: AnswerOptions, extra: bool = False) -> None:
        """Say it."""
        seen.append((options, extra))
        raise ValueError("no such thing")

    app = typer.Typer()
    app.command()(main)
    result = CliRunner().invoke(app, ["--model-path", "m", "--answers-file", "a", "--extra", "--top_p", "0.5"])
    assert result.exit_code == 2 and "no such thing" in result.output
    options, extra = seen[0]
    assert (options.model_path, options.top_p, options.max_new_tokens, extra) == ("m", 0.5, 7, True)


def test_open_questions(world, tmp_path):
    flags = {"question-file": world / TASKS["pope"].questions, "image-folder": world / "pope/val2014", "batch-size": 2}
    result = run(world, "model_vqa", tmp_path / "a.jsonl", **flags, dominant=5, contextual=2)
    assert result.exit_code == 0, result.output
    assert "5 answers (5 new)" in result.output and "7.0 visual tokens an image" in result.output


def test_the_fast_path_writes_the_same_file_and_goes_on_in_it(world, tmp_path):
    """Settings do not know which path answered: a file begun by one is continued by the other."""
    flags = {"question-file": world / TASKS["pope"].questions, "image-folder": world / "pope/val2014", "batch-size": 2}
    for name, more in (("plain", {}), ("fast", {"fast": True})):
        result = run(world, "model_vqa", tmp_path / f"{name}.jsonl", **flags, dominant=5, contextual=2, **more)
        assert result.exit_code == 0, result.output
    assert rows(tmp_path / "fast.jsonl") == rows(tmp_path / "plain.jsonl")
    again = run(world, "model_vqa", tmp_path / "plain.jsonl", **flags, dominant=5, contextual=2, fast=True)
    assert "5 answers (0 new)" in again.output
    beams = run(world, "model_vqa", tmp_path / "beams.jsonl", **flags, fast=True, num_beams=2)
    assert beams.exit_code == 2
    assert "--fast" in beams.output


def test_science(world, tmp_path):
    files = {"question-file": world / TASKS["sqa"].questions, "image-folder": world / "scienceqa/images/test"}
    bare = run(world, "model_vqa_science", tmp_path / "bare.jsonl", **files)
    asked = run(world, "model_vqa_science", tmp_path / "a.jsonl", **files, **{"single-pred-prompt": True})
    assert bare.exit_code == asked.exit_code == 0, bare.output + asked.output
    prompts = [row["prompt"] for row in rows(tmp_path / "a.jsonl")]
    assert prompts[1] == f"<image>\nContext: c\nWhat?\nA. a\nB. b\n{LETTER}" and "<image>" not in prompts[0]
    assert [row["prompt"] for row in rows(tmp_path / "bare.jsonl")] == [p.removesuffix(f"\n{LETTER}") for p in prompts]
    refused = run(world, "model_vqa_science", tmp_path / "b.jsonl", **files, **{"answer-prompter": True})
    assert refused.exit_code == 2 and "--answer-prompter" in refused.output and not (tmp_path / "b.jsonl").exists()


def test_mmbench_lines_carry_the_options(world, tmp_path):
    flags = {"question-file": world / TASKS["mmbench"].questions, "single-pred-prompt": True, "lang": "cn"}
    assert run(world, "model_vqa_mmbench", tmp_path / "a.jsonl", **flags).exit_code == 0
    written = rows(tmp_path / "a.jsonl")
    assert [row["question_id"] for row in written] == [7, 8, 1000007, 1000008]
    assert written[1]["options"] == ["None", "left", "right"] and written[1]["option_char"] == ["A", "B", "C"]
    assert {row["round_id"] for row in written} == {0} and written[0]["prompt"].endswith("请直接回答选项字母。")
    before = (tmp_path / "a.jsonl").read_bytes()
    again = run(world, "model_vqa_mmbench", tmp_path / "a.jsonl", **flags)
    assert "4 answers (0 new)" in again.output and (tmp_path / "a.jsonl").read_bytes() == before


def test_mmbench_rounds_and_chunks(world, tmp_path):
    flags = {"question-file": world / TASKS["mmbench"].questions, "all-rounds": True}
    assert run(world, "model_vqa_mmbench", tmp_path / "all.jsonl", **flags).exit_code == 0
    whole = rows(tmp_path / "all.jsonl")
    assert [(row["question_id"], row["round_id"]) for row in whole[:5]] == [(7, 0), (7, 1), (8, 0), (8, 1), (8, 2)]
    assert whole[3]["options"] == ["left", "right", "None"] and whole[3]["option_char"] == ["B", "C", "A"]
    assert whole[3]["prompt"] == "Where?\nA. left\nB. right\nC. None"
    parts = []
    for place in range(3):
        chunk = {"num-chunks": 3, "chunk-idx": place}
        assert run(world, "model_vqa_mmbench", tmp_path / f"{place}.jsonl", **flags, **chunk).exit_code == 0
        parts += rows(tmp_path / f"{place}.jsonl")
    assert parts == whole


def test_languages(world):
    with pytest.raises(ValueError, match="unknown language 'fr'; known: en, cn"):
        read_asked(world / TASKS["mmbench"].questions, "fr")


def test_pretrained_models_get_the_mmtag_form():
    assert conversation_for("llava-7b-plain", "v1") == "v1_mmtag"
    assert conversation_for("llava-7b-plain-finetune", "v1") == "v1"
    assert conversation_for("llava-7b", "vicuna_v1") == "vicuna_v1"
