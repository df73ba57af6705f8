"""Chat templates render what llava.conversation renders."""

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from llava.conversation import get_conversation
from llava.release.chat_template import chat_template

MODES = ("vicuna_v1", "llava_v1", "mistral_instruct", "llava_llama_2", "chatml_direct", "qwen_1_5", "mistral_zephyr")
PICTURE = {"type": "image"}


def render(template: str, messages: list, generate: bool = True) -> str:
    """As transformers compiles chat templates."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(messages=messages, add_generation_prompt=generate)


def turn(role: str, text: str, pictures: int = 0) -> dict:
    return {"role": role, "content": [*[PICTURE] * pictures, {"type": "text", "text": text}]}


def expected(mode: str, *texts: str | None) -> str:
    conversation = get_conversation(mode)
    for number, text in enumerate(texts):
        conversation.append_message(conversation.roles[number % 2], text)
    return conversation.get_prompt()


@pytest.mark.parametrize("mode", MODES)
def test_prompts_are_equal(mode: str) -> None:
    template = chat_template(mode)
    one = [turn("user", 'What\'s "this"?\n{{ x }}', pictures=1)]
    assert render(template, one) == expected(mode, '<image>\nWhat\'s "this"?\n{{ x }}', None)
    more = [*one, {"role": "assistant", "content": "A 'dog'."}, turn("user", "And that?")]
    assert render(template, more) == expected(mode, '<image>\nWhat\'s "this"?\n{{ x }}', "A 'dog'.", "And that?", None)


@pytest.mark.parametrize("mode", MODES)
def test_a_finished_exchange_ends_as_in_training(mode: str) -> None:
    said = [turn("user", "Hi", pictures=2), turn("assistant", "Hello")]
    assert render(chat_template(mode), said, generate=False) == expected(mode, "<image>\n<image>\nHi", "Hello")


def test_a_system_message_replaces_the_default() -> None:
    messages = [{"role": "system", "content": "Be brief."}, turn("user", "Hi")]
    assert render(chat_template("vicuna_v1"), messages) == "Be brief. USER: Hi ASSISTANT:"
    chatml = render(chat_template("qwen_1_5"), messages)
    assert chatml.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi")
    assert render(chat_template("mistral_instruct"), messages) == "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST]"


def test_markers_around_pictures() -> None:
    rendered = render(chat_template("vicuna_v1", start_end=True), [turn("user", "Hi", pictures=1)])
    assert "USER: <im_start><image><im_end>\nHi" in rendered


def test_a_style_without_template_is_refused() -> None:
    with pytest.raises(ValueError, match=r"--conv-mode plain: no chat template"):
        chat_template("plain")
