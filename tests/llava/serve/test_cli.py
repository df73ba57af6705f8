"""The chat program: its answers are those of `model.generate` on the whole conversation, for less work."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from llava.conversation import conv_templates
from llava.mm_utils import load_image, process_images, tokenizer_image_token
from llava.model.builder import load_pretrained_model
from llava.model.multimodal_encoder.clip_encoder import CLIPVisionTower
from llava.serve.cli import Chat, app
from tests.tiny import LARGE
from tests.tiny_checkpoints import tiny_vicuna_llava, write_v15
from visionzip import visionzip

TURNS = ["What colour is the square?", "And the circle?", "Why?"]
NEW = 6


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("chat")
    return write_v15(tiny_vicuna_llava(root, image_size=LARGE), root / "llava-tiny-v1.5", dtype=torch.float32)


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("picture") / "a.png"
    Image.new("RGB", (200, 120), "red").save(file)
    return file


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tiles of every call of a tower's `encode`."""
    calls: list[int] = []
    encode = CLIPVisionTower.encode

    def note(self: Any, tiles: Any) -> Any:
        calls.append(len(tiles))
        return encode(self, tiles)

    monkeypatch.setattr(CLIPVisionTower, "encode", note)
    return calls


def chat(checkpoint: Path, picture: Path, turns: list[str], *more: str) -> Result:
    words = ["--model-path", str(checkpoint), "--image-file", str(picture), "--device", "cpu"]
    return CliRunner().invoke(app, [*words, "--max-new-tokens", str(NEW), *more], input="\n".join(turns) + "\n")


def answers(result: Result) -> list[str]:
    assert result.exit_code == 0, result.output
    return re.findall(r"ASSISTANT: (.*?)\nUSER: ", result.stdout, re.DOTALL)  # a random model says any character


def wanted(
    checkpoint: Path, picture: Path, turns: list[str], mode: str = "llava_v1", budget: tuple[int, int] | None = None
) -> list[str]:
    """By hand: every turn a call of `model.generate` on everything said so far."""
    tokenizer, model, processor, _ = load_pretrained_model(str(checkpoint), None, "x", device="cpu")
    if budget is not None:
        visionzip(model, *budget)
    pixels = process_images([load_image(picture)], processor, model.config)
    conversation, said = conv_templates[mode].copy(), []
    for turn in turns:
        conversation.append_message(conversation.roles[0], turn if said else f"<image>\n{turn}")
        conversation.append_message(conversation.roles[1], None)
        ids = tokenizer_image_token(conversation.get_prompt(), tokenizer, return_tensors="pt")[None]
        new = model.generate(ids, images=pixels, do_sample=False, max_new_tokens=NEW)[0]
        said.append(tokenizer.decode(new, skip_special_tokens=True).strip())
        conversation.messages[-1][-1] = said[-1]
    return said


@pytest.mark.parametrize("budget", [None, (14, 2)], ids=["dense", "zipped"])
def test_turns_are_those_of_generate_and_the_picture_is_encoded_once(
    checkpoint: Path, picture: Path, encoded: list[int], budget: tuple[int, int] | None
) -> None:
    expected = wanted(checkpoint, picture, TURNS, budget=budget)
    assert encoded == [1, 1, 1], "by hand, once a turn"
    encoded.clear()
    flags = [] if budget is None else ["--dominant", str(budget[0]), "--contextual", str(budget[1])]
    said = answers(chat(checkpoint, picture, TURNS, *flags))
    assert said == expected
    assert all(said), "an empty answer would say little"
    assert encoded == [1]


def test_an_empty_line_ends_it_and_so_does_the_end_of_the_input(checkpoint: Path, picture: Path) -> None:
    assert len(answers(chat(checkpoint, picture, [TURNS[0], "", TURNS[1]]))) == 1
    assert len(answers(chat(checkpoint, picture, TURNS[:2]))) == 2
    assert answers(chat(checkpoint, picture, [""])) == []


def test_a_temperature_asks_generate(checkpoint: Path, picture: Path, encoded: list[int]) -> None:
    """At a temperature near 0 sampling takes the likeliest token, on the path without a session."""
    said = answers(chat(checkpoint, picture, TURNS[:2], "--temperature", "0.000001"))
    assert encoded == [1, 1]
    assert said == wanted(checkpoint, picture, TURNS[:2])


def test_a_template_that_differs_is_used_with_a_warning(
    checkpoint: Path, picture: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert answers(chat(checkpoint, picture, TURNS[:1], "--conv-mode", "llava_v1"))
    assert not caplog.text
    said = answers(chat(checkpoint, picture, TURNS[:2], "--conv-mode", "mistral_instruct"))
    assert said == wanted(checkpoint, picture, TURNS[:2], "mistral_instruct")
    assert "using --conv-mode mistral_instruct; the name llava-tiny-v1.5 suggests llava_v1" in caplog.text


def test_debug_shows_the_prompt(checkpoint: Path, picture: Path) -> None:
    result = chat(checkpoint, picture, TURNS[:1], "--debug")
    assert repr(f"<image>\n{TURNS[0]} ASSISTANT:")[1:-1] in result.stdout
    assert "'outputs': " in result.stdout


@pytest.mark.parametrize("flag", ["--load-8bit", "--load-4bit"])
def test_a_quantised_language_model(checkpoint: Path, picture: Path, flag: str) -> None:
    pytest.importorskip("bitsandbytes")
    assert len(answers(chat(checkpoint, picture, TURNS[:2], flag))) == 2


def test_a_model_trained_with_markers_gets_them(checkpoint: Path) -> None:
    tokenizer, model, processor, _ = load_pretrained_model(str(checkpoint), None, "x", device="cpu")
    model.config.mm_use_im_start_end = True
    image = Image.new("RGB", (20, 20))
    talk = Chat(model, tokenizer, processor, image, conv_templates["v1"].copy(), max_new_tokens=1)
    assert f"USER: <im_start><image><im_end>\n{TURNS[0]} ASSISTANT:" in talk.say(TURNS[0]).prompt


def test_it_says_what_is_wrong(checkpoint: Path, picture: Path, tmp_path: Path) -> None:
    """All but the last before the model is loaded."""
    nowhere = tmp_path / "no-model"
    for result, message in (
        (chat(nowhere, tmp_path / "gone.jpg", TURNS), "gone.jpg does not exist"),
        (chat(nowhere, picture, TURNS, "--conv-mode", "v9"), "no conversation template 'v9'"),
        (chat(nowhere, picture, TURNS, "--dominant", "14"), "--dominant and --contextual go together"),
        (chat(checkpoint, picture, ["Is <image> red?"]), "the conversation is about one picture"),
    ):
        assert result.exit_code == 1
        assert re.search(f"^error: .*{re.escape(message)}", result.stderr, re.MULTILINE)
    assert chat(checkpoint, picture, TURNS, "--temperature", "-1").exit_code == 2


def test_the_help_has_an_example() -> None:
    shown = CliRunner().invoke(app, ["--help"]).output
    assert "Example: python -m llava.serve.cli --model-path" in " ".join(shown.split())
