"""LLaVA's command: its flags, ours beside them, and ranks."""

import json

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from llava.eval import model_vqa_loader
from llava.eval.records import read_answers
from tests.tiny_checkpoints import tiny_vicuna_llava, write_v15

APP = typer.Typer()
APP.command()(model_vqa_loader.main)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loader")
    write_v15(tiny_vicuna_llava(folder), folder / "llava-tiny")
    Image.new("RGB", (60, 40), (200, 30, 40)).save(folder / "a.png")
    rows = [{"question_id": i, "text": f"What {i}?", "image": "a.png"} for i in range(5)]
    (folder / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def run(world, answers, *flags, **env):
    arguments = ["--model-path", world / "llava-tiny", "--question-file", world / "q.jsonl", "--image-folder", world]
    arguments += ["--answers-file", answers, "--max_new_tokens", 4, *flags]
    return CliRunner().invoke(APP, [str(argument) for argument in arguments], env=env)


def test_all_of_llavas_flags_and_ours(world, tmp_path):
    flags = ["--conv-mode", "vicuna_v1", "--num-chunks", 2, "--chunk-idx", 1, "--temperature", 0, "--num_beams", 1]
    result = run(world, tmp_path / "a.jsonl", *flags, "--dominant", 5, "--contextual", 2, "--batch-size", 2)
    assert result.exit_code == 0, result.output
    assert "2 answers (2 new)" in result.output and "7.0 visual tokens an image" in result.output
    answers = read_answers(tmp_path / "a.jsonl")
    assert [a.question_id for a in answers] == [3, 4] and answers[0].model_id == "llava-tiny"


def test_ranks_of_a_launcher_share_the_questions(world, tmp_path):
    whole, parts = tmp_path / "whole.jsonl", tmp_path / "parts.jsonl"
    assert run(world, whole).exit_code == 0
    first = run(world, parts, RANK="0", WORLD_SIZE="2")
    assert "the last rank merges" in first.output and not parts.exists()
    assert "5 answers (2 new)" in run(world, parts, RANK="1", WORLD_SIZE="2").output
    assert parts.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dominant", 5], "dominant and contextual go together"),
        (["--method", "pool"], "method 'pool' needs a budget"),
        (["--dominant", 15, "--contextual", 5], "do not fit"),
        (["--conv-mode", "vicuna"], "unknown conv_mode 'vicuna'"),
        (["--chunk-idx", 3], "got index 3 of 1 chunks"),
    ],
)
def test_bad_flags_are_explained(world, tmp_path, flags, message):
    result = run(world, tmp_path / "a.jsonl", *flags)
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())
