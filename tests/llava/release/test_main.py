"""The command line: every command end to end, refusals as one line, the token never shown."""

import contextlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llava.release.__main__ import _hub, app
from tests.tiny_release import tuned_projector

COMMANDS = ("extract", "merge", "to-hf", "from-hf", "card", "manifest", "verify", "publish")


def run(*arguments: object, code: int = 0, **environment: str) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], env=environment)
    assert done.exit_code == code, f"{done.output}\n{done.exception!r}"
    return done.output


@pytest.fixture
def home(v15: Path, tmp_path: Path):
    """A working folder with a base, its tower and a tuned projector."""
    shutil.copytree(v15, tmp_path / "base")
    shutil.copytree(v15.parent / "tower", tmp_path / "tower")
    tuned_projector(v15, tmp_path / "tuned", mm_vision_tower="tower")
    with contextlib.chdir(tmp_path):
        yield tmp_path


def test_from_a_run_to_a_release(home: Path) -> None:
    named = ("--tower", "org/tower")  # on the hub one day; until then it is found beside the release
    assert "wrote full" in run("merge", "tuned", "--base", "base", "--out", "full", "--shard-gb", "0.0001", *named)
    run("card", "full", "--repo", "me/mini", "--license", "llama2", "--dataset", "org/mix")
    run("manifest", "full")
    assert "recorded logits reproduced" in run("verify", "full")
    said = run("publish", "full", "--repo", "me/mini", HF_TOKEN="hf_secret")
    assert "dry run, nothing sent" in said and "manifest.json" in said and "hf_secret" not in said
    assert "not empty" in run("merge", "tuned", "--base", "base", "--out", "full", code=1)


def test_there_and_back(home: Path) -> None:
    run("extract", "base", "--out", "projector")
    run("to-hf", "base", "--out", "hf", "--conv-mode", "llava_v1")
    assert "curious human" in (home / "hf" / "chat_template.jinja").read_text()
    run("from-hf", "hf", "--out", "back")
    assert json.loads(Path("back/config.json").read_text()) == json.loads(Path("base/config.json").read_text())


def test_a_refusal_is_one_line(home: Path) -> None:
    said = run("to-hf", "tuned", "--out", "x", code=1)
    assert said.startswith("error: ") and "holds a projector only" in said and "Traceback" not in said


def test_an_upload_without_token_names_the_variable(home: Path) -> None:
    said = run("publish", "tuned", "--repo", "me/mini", "--upload", code=1, HF_TOKEN="")
    assert "environment variable HF_TOKEN" in said


def test_the_token_goes_to_the_client_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    given: list = []
    _hub(lambda token: given.append(token))  # type: ignore[arg-type,return-value]
    assert given == ["hf_secret"]


def test_help_needs_no_torch_and_keeps_the_lines_of_its_examples() -> None:
    program = (
        "import sys, typer.testing as t; from llava.release.__main__ import app; "
        "print(t.CliRunner().invoke(app, ['--help']).output, {'torch', 'transformers'} & set(sys.modules))"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said.rstrip().endswith("set()")
    assert "\n    python -m llava.release to-hf checkpoints/mini-release --out checkpoints/mini-hf\n" in said


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str) -> None:
    assert f"Example: python -m llava.release {command} " in " ".join(run(command, "--help").split())
