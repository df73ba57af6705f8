"""The programs that answer: one set of options, ScienceQA's list, MMBench's table and rounds."""

import json
import shutil

import pytest
import typer
from typer.testing import CliRunner

from llava.eval import model_vqa, model_vqa_loader, model_vqa_mmbench, model_vqa_science
from llava.eval.answer_command import AnswerOptions, answer_command, conversation_for
from llava.eval.tasks import TASKS
from llava.eval.tasks.mmbench_table import read_asked
from tests.tiny_checkpoints import tiny_vicuna_llava, write_v15
from tests.tiny_eval import LETTER, picture, write_root

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
OURS = "dominant contextual method order batch-size num-workers device fast seed".split()


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


def test_sampling_goes_by_the_seed_and_one_question_at_a_time(world, tmp_path):
    flags = {"question-file": world / TASKS["pope"].questions, "image-folder": world / "pope/val2014", "temperature": 1}
    for name, more in (("a", {}), ("b", {"seed": 0}), ("c", {"seed": 1})):
        assert run(world, "model_vqa", tmp_path / f"{name}.jsonl", **flags, **more).exit_code == 0
    first, same, other = (rows(tmp_path / f"{name}.jsonl") for name in "abc")
    assert first == same != other
    assert refusal(run(world, "model_vqa", tmp_path / "a.jsonl", **flags, seed=1)) == "seed: 0 then, 1 now"
    flags |= {"batch-size": 2, "model-path": "nowhere"}
    said = run(world, "model_vqa", tmp_path / "d.jsonl", **flags)
    assert said.exit_code == 2 and "needs --batch-size 1, got 2" in " ".join(said.output.replace("│", " ").split())


def test_other_weights_or_pictures_under_the_same_names_do_not_go_on_in_the_file(world, tmp_path):
    checkpoint = tmp_path / "llava-tiny"
    shutil.copytree(world / "llava-tiny", checkpoint)
    shutil.copytree(world / "pope/val2014", tmp_path / "val2014")
    flags = {"question-file": world / TASKS["pope"].questions, "image-folder": tmp_path / "val2014"}
    flags |= {"batch-size": 5, "max_new_tokens": 2, "model-path": checkpoint}
    answers = tmp_path / "a.jsonl"
    assert "5 answers (5 new)" in run(world, "model_vqa", answers, **flags).output
    before = answers.read_bytes()
    other = write_v15(tiny_vicuna_llava(tmp_path / "other", seed=1), tmp_path / "llava-other")
    shutil.copy(other / "pytorch_model-00002-of-00002.bin", checkpoint)
    assert refusal(run(world, "model_vqa", answers, **flags)) == "model/pytorch_model-00002-of-00002.bin"
    picture(tmp_path / "val2014/COCO_1.jpg", shade=99)
    flags["model-path"] = world / "llava-tiny"
    changed = refusal(run(world, "model_vqa", answers, **flags))
    assert "model_path" in changed and answers.read_bytes() == before  # settings are told first
    shutil.rmtree(checkpoint)
    shutil.copytree(world / "llava-tiny", checkpoint)
    assert refusal(run(world, "model_vqa", answers, **flags | {"model-path": checkpoint})) == "pictures"


def refusal(result):
    """What differs, as the message has it in brackets."""
    said = " ".join(result.output.replace("│", " ").split())
    assert result.exit_code == 2 and "was begun with other" in said and "to ask anew delete a.jsonl" in said, said
    return said.partition("begun with other")[2].partition(" (")[2].partition("); to ask anew")[0]


def test_missing_pictures_are_told_before_the_model_is_loaded(world, tmp_path):
    flags = {"question-file": world / TASKS["gqa"].questions, "image-folder": tmp_path, "model-path": "nowhere"}
    said = run(world, "model_vqa_loader", tmp_path / "a.jsonl", **flags)
    assert said.exit_code == 2 and "1 of 1 pictures are not in" in " ".join(said.output.replace("│", " ").split())


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
    assert written[0]["options"] == ["cat", "dog"] and written[0]["option_char"] == ["A", "B"]
    assert written[1]["options"] == written[1]["option_char"] == []  # the first reads `None`: see mmbench_table
    assert {row["round_id"] for row in written} == {0} and written[0]["prompt"].endswith("请直接回答选项字母。")
    before = (tmp_path / "a.jsonl").read_bytes()
    again = run(world, "model_vqa_mmbench", tmp_path / "a.jsonl", **flags)
    assert "4 answers (0 new)" in again.output and (tmp_path / "a.jsonl").read_bytes() == before


def test_mmbench_rounds_and_chunks(world, tmp_path):
    flags = {"question-file": world / TASKS["mmbench"].questions, "all-rounds": True}
    assert run(world, "model_vqa_mmbench", tmp_path / "all.jsonl", **flags).exit_code == 0
    whole = rows(tmp_path / "all.jsonl")
    turns = [(7, 0), (7, 1), (8, 0), (1000007, 0), (1000007, 1)]
    assert [(row["question_id"], row["round_id"]) for row in whole[:5]] == turns
    assert whole[1]["options"] == ["dog", "cat"] and whole[1]["option_char"] == ["B", "A"]
    assert whole[1]["prompt"] == "Look.\nWhat?\nA. dog\nB. cat"
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


@pytest.mark.parametrize(
    ("name", "mode", "warned"),
    [
        ("llava-v1.6-mistral-7b", "vicuna_v1", "suggests the conversation template mistral_instruct"),
        ("llava-v1.6-34b", "vicuna_v1", "suggests the conversation template chatml_direct"),
        ("llava-v1.5-7b", "mistral_instruct", "suggests the conversation template llava_v1"),
        ("llava-7b-v0", "vicuna_v1", "suggests the conversation template llava_v0"),
        ("llava-v1.6-mistral-7b", "mistral_instruct", None),
        ("llava-v1.5-7b", "vicuna_v1", None),
        ("llava-v1.5-7b", "llava_v1", None),
        ("zip_tune_next_7b_64", "vicuna_v1", None),
    ],
)
def test_a_template_of_another_family_than_the_name_tells_is_warned_about(caplog, name, mode, warned):
    assert conversation_for(name, mode) == mode
    assert (warned or "") in caplog.text and bool(caplog.text) == bool(warned)
