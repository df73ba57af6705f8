"""Prompts of every template, letter by letter, and the Conversation object."""

from __future__ import annotations

import base64
import copy
import io
from pathlib import Path

import pytest
from PIL import Image

from llava.conversation import (
    Conversation,
    SeparatorStyle,
    conv_templates,
    conversation_mode,
    default_conversation,
    get_conversation,
)
from llava.conversation.styles import RENDERERS
from llava.model.tokenizer import load_tokenizer
from tests.tiny_text import build_llama_3

S1 = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the human's questions."
)
S2 = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions."
)
S3 = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
S4 = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant is able to understand the "
    "visual content that the user provides, and assist the user with a variety of tasks using natural language.The "
    "visual content will be provided with the following format: <Image>visual content</Image>."
)
OPEN_ASSISTANT = (
    "<|im_start|>system\nA conversation between a user and an LLM-based AI assistant. The assistant gives helpful and "
    "honest answers."
)
DIRECT = "<|im_start|>system\nAnswer the questions."
QWEN = "<|im_start|>system\nYou are a helpful assistant."
QWEN_2_5 = "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."
SAFETY_ENDS = ("You are a helpful, respectful and honest assistant.", "please don't share false information.")


def vicuna(system: str) -> tuple[str, str]:
    one = f"{system} USER: <image>\nQ ASSISTANT:"
    return one, f"{one} A</s>USER: Q2 ASSISTANT:"


def single(system: str) -> tuple[str, str]:
    one = f"{system}###Human: <image>\nQ###Assistant:"
    return one, f"{one} A###Human: Q2###Assistant:"


def inst(system: str, bos: str = "<s>") -> tuple[str, str]:
    shown = f"<<SYS>>\n{system}\n<</SYS>>\n\n" if system else ""
    one = f"[INST] {shown}<image>\nQ [/INST]"
    return one, f"{one} A </s>{bos}[INST] Q2 [/INST]"


def im(system: str, user: str = "<|im_start|>user\n", bot: str = "<|im_start|>assistant\n", end: str = "<|im_end|>"):
    one = f"{system}{end}{user}<image>\nQ{end}{bot}"
    return one, f"{one}A{end}{user}Q2{end}{bot}"


def qwen(system: str) -> tuple[str, str]:
    one = f"{system}<|im_end|>\n<|im_start|>user\n<image>\nQ<|im_end|>\n<|im_start|>assistant\n"
    return one, f"{one}A<|im_end|>\n<|im_start|>user\nQ2<|im_end|>\n<|im_start|>assistant\n"


LLAMA_3 = (
    f"<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n{S3}<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n<image>\nQ<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
)
GEMMA = "<start_of_turn>user\n<image>\nQ<end_of_turn>\n<start_of_turn>model\n"
SIMPLE = "Answer the questions about the visual content that the user provides."
TAGGED = "The visual content will be provided with the following format: <Image>visual content</Image>."
ORCA = (
    "<|im_start|>system\nYou are MistralOrca, a large language model trained by Alignment Lab AI. Write out your "
    "reasoning step-by-step to be sure you get the right answers!"
)

# template: (prompt after one question, prompt after one round and a second question)
PROMPTS = {
    "v1": vicuna(S2),
    "vicuna_v1": vicuna(S2),
    "llava_v1": vicuna(S1),
    "v1_mmtag": vicuna(S4),
    "llava_v1_mmtag": vicuna(S4),
    "llava_v0": single(S1),
    "v0_mmtag": single(S4),
    "llava_v0_mmtag": single(S4),
    "llava_llama_2": inst(S3),
    "llava_llama_2_simple": inst(SIMPLE),
    "llava_llama_2_mmtag": inst(SIMPLE + TAGGED),
    "mistral_instruct": inst("", bos=""),
    "llava_mistral_instruct": inst("", bos=""),
    "mpt": im(OPEN_ASSISTANT),
    "chatml_direct": im(DIRECT),
    "mistral_direct": im(DIRECT),
    "mistral_orca": im(ORCA),
    "mistral_zephyr": im("<|system|>\nYou are a helpful AI assistant.", "<|user|>\n", "<|assistant|>\n", "</s>"),
    "qwen_1_5": qwen(QWEN),
    "qwen_2": qwen(QWEN),
    "qwen_2_5": qwen(QWEN_2_5),
    "llava_llama_3": (
        LLAMA_3,
        f"{LLAMA_3}A<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nQ2<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "gemma_instruct": (GEMMA, f"{GEMMA}A<end_of_turn>\n<start_of_turn>user\nQ2<end_of_turn>\n<start_of_turn>model\n"),
}
ELSEWHERE = {"default", "v0", "plain", "v0_plain", "llama_2"}


def ask(conv: Conversation, *texts: str | None) -> str:
    for number, text in enumerate(texts):
        conv.append_message(conv.roles[number % 2], text)
    return conv.get_prompt()


@pytest.mark.parametrize("name", sorted(PROMPTS))
def test_prompt(name: str) -> None:
    one, two = PROMPTS[name]
    assert ask(get_conversation(name), "<image>\nQ", None) == one
    assert ask(conv_templates[name].copy(), "<image>\nQ", "A", "Q2", None) == two


def test_every_template_is_pinned() -> None:
    assert set(conv_templates) == set(PROMPTS) | ELSEWHERE


def test_llama_2_carries_the_published_safety_text() -> None:
    prompt = ask(get_conversation("llama_2"), "<image>\nQ", None)
    system = prompt.removeprefix("[INST] <<SYS>>\n").removesuffix("\n<</SYS>>\n\n<image>\nQ [/INST]")
    assert (system.startswith(SAFETY_ENDS[0]), system.endswith(SAFETY_ENDS[1])) == (True, True)
    assert "while being safe.  Your answers" in system  # two blanks
    assert "in nature.\n\nIf a question" in system
    assert len(system) == 508


def test_plain() -> None:
    for name in ("plain", "v0_plain"):
        assert ask(get_conversation(name), "<image>") == "<image>\n"
    with pytest.raises(ValueError, match="takes one message only"):
        ask(get_conversation("plain"), "<image>", "a caption")


def test_v0_carries_its_example() -> None:
    for name in ("default", "v0"):
        conv = get_conversation(name)
        assert (conv.offset, len(conv.messages)) == (2, 2)
        prompt = ask(conv, "Q", None)
        assert prompt.startswith(f"{S1}###Human: What are the key differences between renewable and non-renewable")
        assert prompt.endswith("depletion can lead to economic and social instability.\n###Human: Q###Assistant:")


FORMATS = {
    "vicuna_v1": (SeparatorStyle.TWO, ("USER", "ASSISTANT"), " ", "</s>", "v1", "</s>"),
    "v0": (SeparatorStyle.SINGLE, ("Human", "Assistant"), "###", None, "Unknown", "###"),
    "v1_mmtag": (SeparatorStyle.TWO, ("USER", "ASSISTANT"), " ", "</s>", "v1_mmtag", "</s>"),
    "plain": (SeparatorStyle.PLAIN, ("", ""), "\n", None, "Unknown", "\n"),
    "llama_2": (SeparatorStyle.LLAMA_2, ("USER", "ASSISTANT"), "<s>", "</s>", "llama_v2", "</s>"),
    "mistral_instruct": (SeparatorStyle.LLAMA_2, ("USER", "ASSISTANT"), "", "</s>", "llama_v2", "</s>"),
    "mpt": (
        SeparatorStyle.MPT,
        ("<|im_start|>user\n", "<|im_start|>assistant\n"),
        "<|im_end|>",
        None,
        "mpt",
        "<|im_end|>",
    ),
    "qwen_1_5": (
        SeparatorStyle.CHATML,
        ("<|im_start|>user", "<|im_start|>assistant"),
        "<|im_end|>",
        None,
        "qwen",
        "<|im_end|>",
    ),
    "llava_llama_3": (SeparatorStyle.LLAMA_3, ("user", "assistant"), "<|eot_id|>", None, "llama_v3", "<|eot_id|>"),
}


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_fields_and_stop_string(name: str) -> None:
    conv = conv_templates[name]
    assert (conv.sep_style, conv.roles, conv.sep, conv.sep2, conv.version, conv.stop_string()) == FORMATS[name]


def test_llama_3_stops_and_names_its_tokenizer() -> None:
    conv = get_conversation("llava_llama_3")
    assert (conv.stop_token_ids, conv.tokenizer_id) == ([128009], "meta-llama/Meta-Llama-3-8B-Instruct")
    conv.stop_token_ids.append(1)
    assert conv_templates["llava_llama_3"].stop_token_ids == [128009]


def test_llama_3_uses_the_chat_template_of_a_tokenizer(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(build_llama_3(tmp_path))
    tokenizer.chat_template = "{% for m in messages %}({{ m['role'] }}:{{ m['content'] }}){% endfor %}"
    tokenizer.chat_template += "{% if add_generation_prompt %}>{% endif %}"
    conv = get_conversation("llava_llama_3")
    conv.tokenizer = tokenizer
    assert ask(conv.copy(), "Q", None) == f"(system:{S3})(user:Q)>"


def test_default_conversation_is_vicuna_v1() -> None:
    assert default_conversation is conv_templates["vicuna_v1"]


def test_templates_stay_as_they_are() -> None:
    before = {name: copy.deepcopy(vars(template)) for name, template in conv_templates.items()}
    for name in conv_templates:
        conv = conv_templates[name].copy()
        conv.append_message(conv.roles[0], ("text", Image.new("RGB", (2, 2)), "Default"))
        conv.system = "changed"
        if name not in {"plain", "v0_plain"}:
            conv.append_message(conv.roles[1], None)
            conv.get_prompt()
        conv.messages[0][1] = "overwritten"
    assert {name: vars(template) for name, template in conv_templates.items()} == before
    with pytest.raises(ValueError, match="copy"):
        default_conversation.append_message("USER", "Q")


def test_copy_is_independent() -> None:
    first = get_conversation("vicuna_v1")
    first.append_message("USER", "Q")
    second = first.copy()
    second.messages[-1][1] = "other"
    second.append_message("ASSISTANT", None)
    assert first.messages == [["USER", "Q"]]


def test_unknown_template_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"no conversation template 'v9'; known: .*chatml_direct.*vicuna_v1"):
        get_conversation("v9")
    with pytest.raises(KeyError):
        conv_templates["v9"]


def test_style_without_a_rule() -> None:
    assert set(SeparatorStyle) - set(RENDERERS) == {SeparatorStyle.QWEN}
    with pytest.raises(ValueError, match="QWEN has no rendering rule"):
        Conversation("", ("a", "b"), [], 0, SeparatorStyle.QWEN).get_prompt()


def test_llama_2_needs_a_first_question() -> None:
    with pytest.raises(ValueError, match="opens with a message of 'USER'"):
        ask(get_conversation("llava_llama_2"), None)


@pytest.mark.parametrize("text", ["Q", "<image>\nQ", "Q <image>"])
def test_first_message_with_an_image(text: str) -> None:
    picture = Image.new("RGB", (2, 2))
    conv = get_conversation("vicuna_v1")
    assert ask(conv, (text, picture, "Default"), None) == PROMPTS["vicuna_v1"][0]
    assert conv.messages[0][1] == (text, picture, "Default")  # rendering changes nothing
    tagged = get_conversation("v1_mmtag")
    expected = f"{S4} USER: <Image><image></Image> ASSISTANT: Received.</s>USER: Q ASSISTANT:"
    assert ask(tagged, (text, picture, "Default"), None) == expected


def test_several_images_keep_their_places() -> None:
    prompt = ask(get_conversation("vicuna_v1"), ("a <image> b <image>", [], "Default"), None)
    assert prompt == f"{S2} USER: a <image> b <image> ASSISTANT:"


def test_segments_say_what_the_assistant_says() -> None:
    answers = {
        "vicuna_v1": " A</s>",
        "llava_v0": " A###",
        "llava_llama_2": " A </s>",
        "chatml_direct": "A<|im_end|>",
        "qwen_1_5": "A<|im_end|>",
        "llava_llama_3": "A<|eot_id|>",
        "gemma_instruct": "A<end_of_turn>",
    }
    for name, answer in answers.items():
        conv = get_conversation(name)
        ask(conv, "Q", "A", "Q2", "A")
        assert [segment.text for segment in conv.segments() if segment.answer] == [answer, answer], name


def test_get_images_and_modes() -> None:
    picture = Image.new("RGB", (40, 20), (255, 0, 0))
    conv = get_conversation("vicuna_v1")
    conv.append_message("USER", ("Q", [picture, picture], "Pad"))
    conv.append_message("ASSISTANT", "A")
    conv.append_message("USER", ("Q2", picture, "Resize"))
    images = conv.get_images(return_pil=True)
    assert [image.size for image in images] == [(40, 40), (40, 40), (336, 336)]
    assert (images[0].getpixel((20, 2)), images[0].getpixel((20, 20))) == ((122, 116, 104), (255, 0, 0))
    encoded = conv.get_images()[2]
    assert Image.open(io.BytesIO(base64.b64decode(encoded))).size == (336, 336)
    for mode in ("Default", "Crop"):
        assert conv.process_image(picture, mode, return_pil=True) is picture
    with pytest.raises(ValueError, match="Stretch"):
        conv.process_image(picture, "Stretch")


@pytest.mark.parametrize(
    ("size", "expected"),
    [((2688, 1344), (1344, 672)), ((1344, 2688), (672, 1344)), ((3000, 3000), (672, 672)), ((1300, 9), (1300, 9))],
)
def test_large_pictures_are_scaled_down(size: tuple[int, int], expected: tuple[int, int]) -> None:
    shown = default_conversation.process_image(Image.new("RGB", size), "Default", return_pil=True)
    assert shown.size == expected


def test_gradio_pairs_and_log() -> None:
    conv = get_conversation("v0")
    conv.append_message("Human", ("<image>\nQ", Image.new("RGBA", (2, 2)), "Default"))
    conv.append_message("Assistant", "A")
    conv.append_message("Human", "Q2")
    pairs = conv.to_gradio_chatbot()
    assert pairs[1] == ["Q2", None]
    question, answer = pairs[0]
    assert answer == "A"
    assert question.startswith('<img src="data:image/jpeg;base64,') and question.endswith("/>Q")
    log = conv.dict()
    assert log["messages"][2:] == [["Human", "<image>\nQ"], ["Assistant", "A"], ["Human", "Q2"]]
    assert (log["offset"], log["sep"], log["sep2"], log["system"]) == (2, "###", None, S1)


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("llava-llama-2-13b", "llava_llama_2"),
        ("llava-v1.6-mistral-7b", "mistral_instruct"),
        ("LLaVA-v1.6-34B", "chatml_direct"),
        ("llava-v1.5-7b", "llava_v1"),
        ("llava-mpt-7b", "mpt"),
        ("my-model", "llava_v0"),
    ],
)
def test_conversation_mode(name: str, mode: str) -> None:
    assert conversation_mode(name) == mode
