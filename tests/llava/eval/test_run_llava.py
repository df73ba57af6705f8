"""The one-question program: what it asks, what it answers, what it says when something is wrong."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from llava.conversation import conv_templates
from llava.eval.run_llava import app, build_prompt, choose_mode, eval_model
from llava.mm_utils import process_images, tokenizer_image_token
from llava.model.builder import load_pretrained_model
from tests.tiny import LARGE, tiny_image_processor
from tests.tiny_checkpoints import tiny_vicuna_llava, write_v15

QUERY = "What colour is the square?"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    return write_v15(tiny_vicuna_llava(root, image_size=LARGE), root / "llava-tiny-v1.5", dtype=torch.float32)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("pictures")
    for name, size, colour in (("a.png", (200, 120), "red"), ("b.jpg", (90, 160), "blue")):
        Image.new("RGB", size, colour).save(folder / name)
    return [str(folder / "a.png"), str(folder / "b.jpg")]


def ask(checkpoint: Path, image_file: str | None, query: str = QUERY, **more: Any) -> str:
    fields = {"model_path": str(checkpoint), "query": query, "image_file": image_file}
    return eval_model(SimpleNamespace(**(fields | {"temperature": 0, "max_new_tokens": 6, "device": "cpu"} | more)))


def test_the_answer_is_the_models_own(
    checkpoint: Path, pictures: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    answer = ask(checkpoint, pictures[0])
    tokenizer, model, processor, _ = load_pretrained_model(str(checkpoint), None, "x", device="cpu")
    conversation = conv_templates["llava_v1"].copy()  # what LLaVA infers from "v1" in the name
    conversation.append_message(conversation.roles[0], "<image>\n" + QUERY)
    conversation.append_message(conversation.roles[1], None)
    ids = tokenizer_image_token(conversation.get_prompt(), tokenizer, return_tensors="pt")[None]
    pixels = process_images([Image.open(pictures[0]).convert("RGB")], processor, model.config)
    new = model.generate(ids, images=pixels, do_sample=False, max_new_tokens=6)
    assert answer == tokenizer.decode(new[0], skip_special_tokens=True).strip()
    assert answer and capsys.readouterr().out.strip() == answer


def test_upstreams_way_to_call_it(checkpoint: Path, pictures: list[str]) -> None:
    """LLaVA's README passes a class whose attributes are the fields."""
    fields = {
        "model_path": str(checkpoint),
        "model_base": None,
        "model_name": "llava-v1.5-7b",
        "query": QUERY,
        "conv_mode": None,
        "image_file": pictures[0],
        "sep": ",",
        "temperature": 0,
        "top_p": None,
        "num_beams": 1,
        "max_new_tokens": 6,
    }
    assert eval_model(type("Args", (), fields)()) == ask(checkpoint, pictures[0])


def test_every_picture_counts(checkpoint: Path, pictures: list[str]) -> None:
    one, other = ask(checkpoint, pictures[0]), ask(checkpoint, pictures[1])
    both = ask(checkpoint, "|".join(pictures), sep="|")
    assert len({one, other, both}) == 3
    assert ask(checkpoint, None)  # no picture, no <image>


def test_placeholders_say_where_the_pictures_go(pictures: list[str]) -> None:
    images = [Image.open(name).convert("RGB") for name in pictures]
    config = SimpleNamespace(image_aspect_ratio="pad")
    processor = tiny_image_processor(LARGE)
    query = "First <image-placeholder> then <image-placeholder>?"
    prompt = build_prompt(query, images, "vicuna_v1", processor, config)
    assert prompt.text.endswith("USER: First <image> then <image>? ASSISTANT:")
    assert prompt.sizes == ((200, 120), (90, 160)) and len(prompt.pixels) == 2
    prompt = build_prompt(QUERY, images, "vicuna_v1", processor, config)
    assert f"USER: <image>\n<image>\n{QUERY} ASSISTANT:" in prompt.text
    marked = SimpleNamespace(image_aspect_ratio="pad", mm_use_im_start_end=True)
    prompt = build_prompt("<image-placeholder>?", images[:1], "vicuna_v1", processor, marked)
    assert "<im_start><image><im_end>?" in prompt.text
    with pytest.raises(ValueError, match="2 <image> but there are 1"):
        build_prompt(query, images[:1], "vicuna_v1", processor, config)


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("llava-v1.5-7b", "llava_v1"),
        ("llava-v1.6-mistral-7b", "mistral_instruct"),
        ("llava-v1.6-34b", "chatml_direct"),
        ("llava-llama-2-13b-chat", "llava_llama_2"),
        ("my-ckpt", "llava_v0"),
    ],
)
def test_the_template_follows_the_name_unless_told(name: str, mode: str, caplog: pytest.LogCaptureFixture) -> None:
    assert choose_mode(name, None) == mode
    assert ("tells no conversation template" in caplog.text) == (name == "my-ckpt")
    assert choose_mode(name, "vicuna_v1") == "vicuna_v1"


def test_compression_by_flag(checkpoint: Path, pictures: list[str]) -> None:
    dense = ask(checkpoint, pictures[0])
    assert ask(checkpoint, pictures[0], dominant=14, contextual=2) != dense
    with pytest.raises(ValueError, match=r"500.*14[45]"):
        ask(checkpoint, pictures[0], dominant=500, contextual=2)


def test_a_sampled_answer_is_drawn_by_its_seed(checkpoint: Path, pictures: list[str]) -> None:
    before = torch.get_rng_state()
    first, again, *others = (ask(checkpoint, pictures[0], temperature=1.0, seed=seed) for seed in (0, 0, 1, 2))
    assert first == again and {first} != {first, *others}
    assert ask(checkpoint, pictures[0], temperature=1.0) == first, "0 where nothing is said"
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_missing_is_named_before_the_model_is_loaded(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone\.jpg does not exist"):
        ask(tmp_path / "no-model", f"{tmp_path}/gone.jpg")
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n1234")
    with pytest.raises(ValueError, match=r"torn\.png cannot be read"):
        ask(tmp_path / "no-model", str(tmp_path / "torn.png"))
    with pytest.raises(ValueError, match="unknown conv_mode 'vicuna_v9'"):
        ask(tmp_path / "no-model", None, conv_mode="vicuna_v9")
    with pytest.raises(ValueError, match="eval_model needs query"):
        eval_model(SimpleNamespace(model_path=str(checkpoint)))


def test_the_command_line(checkpoint: Path, pictures: list[str]) -> None:
    arguments = ["--model-path", str(checkpoint), "--image-file", pictures[0], "--query", QUERY, "--device", "cpu"]
    result = CliRunner().invoke(app, [*arguments, "--temperature", "1", "--seed", "2", "--max_new_tokens", "6"])
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == ask(checkpoint, pictures[0], temperature=1.0, seed=2)
    help_text = CliRunner().invoke(app, ["--help"]).output
    assert "Example:" in help_text and "--image-file" in help_text


def test_the_command_line_says_what_is_wrong(checkpoint: Path) -> None:
    result = CliRunner().invoke(app, ["--model-path", str(checkpoint), "--query", QUERY, "--image-file", "gone.jpg"])
    assert result.exit_code == 1
    assert "error: image gone.jpg does not exist" in result.stderr
