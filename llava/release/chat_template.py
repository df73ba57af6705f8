"""Jinja chat templates that render what `llava.conversation` renders.

A message's content is a text, or a list of parts ({"type": "image"} and {"type": "text", "text": ...}); pictures come
first, each as `<image>` and a newline, as LLaVA puts them.
"""

import json
from dataclasses import dataclass

from llava.constants import DEFAULT_IM_END_TOKEN, DEFAULT_IM_START_TOKEN, DEFAULT_IMAGE_TOKEN
from llava.conversation import Conversation, SeparatorStyle, get_conversation


@dataclass(frozen=True)
class _Turns:
    """Constant texts around what is said. The system text stands between `before` and `after`, and without one all
    three are left out; `opening` comes in front in any case. `between` stands before every question but the first."""

    opening: str
    before: str
    system: str
    after: str
    question: tuple[str, str]
    answer: tuple[str, str]
    generation: str
    between: str = ""


def chat_template(conv_mode: str, start_end: bool = False) -> str:
    """The Jinja template of a conversation style.

    Args:
        conv_mode: name in `llava.conversation.conv_templates`.
        start_end: put <im_start> and <im_end> around every <image> (config key mm_use_im_start_end).

    Raises:
        ValueError: an unknown name, or a style no template is written for.
    """
    turns = _turns(get_conversation(conv_mode), conv_mode)
    image = f"{DEFAULT_IM_START_TOKEN}{DEFAULT_IMAGE_TOKEN}{DEFAULT_IM_END_TOKEN}" if start_end else DEFAULT_IMAGE_TOKEN
    text = {name: json.dumps(value) for name, value in vars(turns).items() if isinstance(value, str)}
    question, answer = ([json.dumps(part) for part in pair] for pair in (turns.question, turns.answer))
    return "".join((
        "{%- macro said(content) -%}{%- if content is string -%}{{ content }}{%- else -%}",
        "{%- for part in content if part['type'] == 'image' -%}",
        f"{{{{ {json.dumps(image + chr(10))} }}}}{{%- endfor -%}}",
        "{%- for part in content if part['type'] == 'text' -%}{{ part['text'] }}{%- endfor -%}{%- endif -%}",
        "{%- endmacro -%}",
        "{%- if messages and messages[0]['role'] == 'system' -%}",
        "{%- set system = said(messages[0]['content']) -%}{%- set turns = messages[1:] -%}",
        f"{{%- else -%}}{{%- set system = {text['system']} -%}}{{%- set turns = messages -%}}{{%- endif -%}}",
        f"{{{{ {text['opening']} }}}}",
        f"{{%- if system -%}}{{{{ {text['before']} + system + {text['after']} }}}}{{%- endif -%}}",
        "{%- for turn in turns -%}{%- if turn['role'] == 'user' -%}",
        f"{{%- if not loop.first -%}}{{{{ {text['between']} }}}}{{%- endif -%}}",
        f"{{{{ {question[0]} + said(turn['content']) + {question[1]} }}}}",
        f"{{%- else -%}}{{{{ {answer[0]} + said(turn['content']) + {answer[1]} }}}}{{%- endif -%}}",
        f"{{%- endfor -%}}{{%- if add_generation_prompt -%}}{{{{ {text['generation']} }}}}{{%- endif -%}}",
    ))


def _turns(conv: Conversation, name: str) -> _Turns:
    user, assistant = conv.roles
    style, sep, end = conv.sep_style, conv.sep, conv.sep2 or ""
    if style is SeparatorStyle.TWO:
        said = (f"{user}: ", sep), (f"{assistant}: ", end)
        return _Turns("", "", conv.system, sep, *said, generation=f"{assistant}:")
    if style is SeparatorStyle.LLAMA_2:
        said = ("", " [/INST]"), (" ", f" {end}")
        first, later = "[INST] ", f"{sep}[INST] "
        return _Turns(first, "<<SYS>>\n", conv.system, "\n<</SYS>>\n\n", *said, generation="", between=later)
    if style in {SeparatorStyle.MPT, SeparatorStyle.CHATML}:
        line = "\n" if style is SeparatorStyle.CHATML else ""
        before, _, system = conv.system.partition("\n")  # "<|im_start|>system", and what it says
        said = (f"{user}{line}", f"{sep}{line}"), (f"{assistant}{line}", f"{sep}{line}")
        return _Turns("", f"{before}\n", system, f"{sep}{line}", *said, generation=f"{assistant}{line}")
    known = "vicuna_v1, llava_v1, mistral_instruct, llava_llama_2, chatml_direct, qwen_1_5, qwen_2 and their like"
    raise ValueError(f"--conv-mode {name}: no chat template is written for style {style.name}; known: {known}")
