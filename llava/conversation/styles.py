"""Rendering rules: how turns become text, one function per separator style.

Each rule gives segments that know which part the assistant says, so that prompts and label masks come from one place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from llava.conversation.core import Conversation


class SeparatorStyle(Enum):
    """How turns are joined; the rules are below."""

    SINGLE = auto()
    TWO = auto()
    MPT = auto()
    PLAIN = auto()
    LLAMA_2 = auto()
    CHATML = auto()
    LLAMA_3 = auto()
    QWEN = auto()
    GEMMA = auto()


class Segment(NamedTuple):
    """A part of a prompt. `answer` marks what the assistant says, the blank before it and its end token included."""

    text: str
    answer: bool = False


Turn = tuple[str, str | None]  # role, text; None or "" leaves the turn open


def _single(conv: Conversation, turns: Sequence[Turn]) -> list[Segment]:
    """`Human: question###Assistant: answer###`"""
    return _colon_turns(conv, turns, (conv.sep, conv.sep))


def _two(conv: Conversation, turns: Sequence[Turn]) -> list[Segment]:
    """`USER: question ASSISTANT: answer</s>`"""
    return _colon_turns(conv, turns, (conv.sep, conv.sep2 or ""))


def _colon_turns(conv: Conversation, turns: Sequence[Turn], seps: tuple[str, str]) -> list[Segment]:
    parts = [Segment(conv.system + seps[0])]
    for number, (role, text) in enumerate(turns):
        parts.append(Segment(f"{role}:"))
        if text:
            parts.append(Segment(f" {text}{seps[number % 2]}", answer=number % 2 == 1))
    return parts


def _mpt(conv: Conversation, turns: Sequence[Turn]) -> list[Segment]:
    """`<|im_start|>user\\nquestion<|im_end|>`, the newline being part of the role; none after the end token."""
    return [Segment(conv.system + conv.sep), *_marked_turns(turns, conv.sep)]


def _gemma(conv: Conversation, turns: Sequence[Turn]) -> list[Segment]:
    """`<start_of_turn>user\\nquestion<end_of_turn>\\n`; the format knows no system text."""
    return _marked_turns(turns, conv.sep)


def _chatml(conv: Conversation, turns: Sequence[Turn]) -> list[Segment]:
    """`<|im_start|>user\\nquestion<|im_end|>\\n`"""
    head = [Segment(f"{conv.system}{conv.sep}\n")] if conv.system else []
    return head + _marked_turns([(f"{role}\n", text) for role, text in turns], f"{conv.sep}\n")


def _marked_turns(turns: Sequence[Turn], sep: str) -> list[Segment]:
    """Role, text, end token; a newline after the end token is layout and not said by the assistant."""
    end = sep.rstrip("\n")
    layout = sep[len(end) :]
    parts = []
    for number, (role, text) in enumerate(turns):
        parts.append(Segment(role))
        if text:
            parts.append(Segment(text + end, answer=number % 2 == 1))
            if layout:
                parts.append(Segment(layout))
    return parts


def _llama_2(conv: Conversation, turns: Sequence[Turn]) -> list[Segment]:
    """`[INST] <<SYS>>...<</SYS>>question [/INST] answer </s><s>[INST] ...`"""
    parts: list[Segment] = []
    for number, (role, text) in enumerate(turns):
        if number == 0 and (not text or role != conv.roles[0]):
            raise ValueError(
                f"a prompt of this style opens with a message of {conv.roles[0]!r}, not {role!r}: {text!r}"
            )
        if not text:
            continue
        if number % 2:
            parts.append(Segment(f" {text} {conv.sep2}", answer=True))
            continue
        system = f"<<SYS>>\n{conv.system}\n<</SYS>>\n\n" if number == 0 and conv.system else ""
        # The tokenizer puts BOS in front of the first turn; the later ones carry it as text.
        parts.append(Segment(f"{conv.sep if number else ''}[INST] {system}{text} [/INST]"))
    return parts


def _plain(conv: Conversation, turns: Sequence[Turn]) -> list[Segment]:
    """Texts only, each with its separator."""
    seps = (conv.sep, conv.sep2)
    parts = [Segment(conv.system)] if conv.system else []
    for number, (_, text) in enumerate(turns):
        if not text:
            continue
        sep = seps[number % 2]
        if sep is None:
            raise ValueError("the plain template has no second separator and takes one message only")
        parts.append(Segment(text + sep, answer=number % 2 == 1))
    return parts


def _llama_3(conv: Conversation, turns: Sequence[Turn]) -> list[Segment]:
    """`<|start_header_id|>user<|end_header_id|>\\n\\nquestion<|eot_id|>`, texts stripped, as Llama-3's own template."""
    parts = [Segment(f"<|begin_of_text|>{_header('system')}{conv.system}{conv.sep}")]
    for number, (role, text) in enumerate(turns):
        parts.append(Segment(_header(role)))
        if text:
            parts.append(Segment(text.strip() + conv.sep, answer=number % 2 == 1))
    return parts


def llama_3_prompt(conv: Conversation, turns: Sequence[Turn]) -> str:
    """The prompt up to the header of the answer, which this style always ends with."""
    said = [(role, text) for role, text in turns if text]
    if conv.tokenizer is not None:
        messages = [{"role": "system", "content": conv.system}]
        messages += [{"role": role, "content": text} for role, text in said]
        return str(conv.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    return "".join(segment.text for segment in _llama_3(conv, said)) + _header(conv.roles[1])


def _header(role: str) -> str:
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n"


RENDERERS: dict[SeparatorStyle, Callable[[Conversation, Sequence[Turn]], list[Segment]]] = {
    SeparatorStyle.SINGLE: _single,
    SeparatorStyle.TWO: _two,
    SeparatorStyle.MPT: _mpt,
    SeparatorStyle.PLAIN: _plain,
    SeparatorStyle.LLAMA_2: _llama_2,
    SeparatorStyle.CHATML: _chatml,
    SeparatorStyle.LLAMA_3: _llama_3,
    SeparatorStyle.GEMMA: _gemma,
}
