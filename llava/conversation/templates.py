"""The templates of LLaVA v1, v1.5 and NeXT, by name. A changed blank in one of these texts costs accuracy."""

from __future__ import annotations

from typing import Any

from llava.conversation.core import Conversation
from llava.conversation.styles import SeparatorStyle

_HUMAN = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
_USER = _HUMAN.replace("human", "user")
_VISION = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
_TAGGED = "The visual content will be provided with the following format: <Image>visual content</Image>."
_MMTAG = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant is able to understand the "
    "visual content that the user provides, and assist the user with a variety of tasks using natural language."
) + _TAGGED
_SIMPLE = "Answer the questions about the visual content that the user provides."
# Meta's published default prompt for Llama-2 chat models, with its two blanks after "safe.".
_LLAMA_2_SAFETY = (
    "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, while being safe.  "
    "Your answers should not include any harmful, unethical, racist, sexist, toxic, dangerous, or illegal content. "
    "Please ensure that your responses are socially unbiased and positive in nature.\n\n"
    "If a question does not make any sense, or is not factually coherent, explain why instead of answering something "
    "not correct. If you don't know the answer to a question, please don't share false information."
)
_OPEN_ASSISTANT = (
    "A conversation between a user and an LLM-based AI assistant. The assistant gives helpful and honest answers."
)
_ORCA = (
    "You are MistralOrca, a large language model trained by Alignment Lab AI. "
    "Write out your reasoning step-by-step to be sure you get the right answers!"
)
# The example exchange of Vicuna v0.
_V0_EXAMPLE = (
    ("Human", "What are the key differences between renewable and non-renewable energy sources?"),
    (
        "Assistant",
        "Renewable energy sources are those that can be replenished naturally in a relatively short amount of time, "
        "such as solar, wind, hydro, geothermal, and biomass. Non-renewable energy sources, on the other hand, are "
        "finite and will eventually be depleted, such as coal, oil, and natural gas. Here are some key differences "
        "between renewable and non-renewable energy sources:\n"
        "1. Availability: Renewable energy sources are virtually inexhaustible, while non-renewable energy sources are "
        "finite and will eventually run out.\n"
        "2. Environmental impact: Renewable energy sources have a much lower environmental impact than non-renewable "
        "sources, which can lead to air and water pollution, greenhouse gas emissions, and other negative effects.\n"
        "3. Cost: Renewable energy sources can be more expensive to initially set up, but they typically have lower "
        "operational costs than non-renewable sources.\n"
        "4. Reliability: Renewable energy sources are often more reliable and can be used in more remote locations "
        "than non-renewable sources.\n"
        "5. Flexibility: Renewable energy sources are often more flexible and can be adapted to different situations "
        "and needs, while non-renewable sources are more rigid and inflexible.\n"
        "6. Sustainability: Renewable energy sources are more sustainable over the long term, while non-renewable "
        "sources are not, and their depletion can lead to economic and social instability.\n",
    ),
)


def _template(style: SeparatorStyle, system: str, roles: tuple[str, str], sep: str, **fields: Any) -> Conversation:
    return Conversation(**{
        "system": system,
        "roles": roles,
        "messages": (),
        "offset": 0,
        "sep_style": style,
        "sep": sep,
        **fields,
    })


def _v0(system: str, **fields: Any) -> Conversation:
    return _template(SeparatorStyle.SINGLE, system, ("Human", "Assistant"), "###", **fields)


def _v1(system: str, version: str = "v1") -> Conversation:
    return _template(SeparatorStyle.TWO, system, ("USER", "ASSISTANT"), " ", sep2="</s>", version=version)


def _inst(system: str, sep: str = "<s>", version: str = "llama_v2") -> Conversation:
    return _template(SeparatorStyle.LLAMA_2, system, ("USER", "ASSISTANT"), sep, sep2="</s>", version=version)


def _im(text: str) -> Conversation:
    roles = ("<|im_start|>user\n", "<|im_start|>assistant\n")
    return _template(SeparatorStyle.MPT, f"<|im_start|>system\n{text}", roles, "<|im_end|>", version="mpt")


def _qwen(text: str) -> Conversation:
    roles = ("<|im_start|>user", "<|im_start|>assistant")
    return _template(SeparatorStyle.CHATML, f"<|im_start|>system\n{text}", roles, "<|im_end|>", version="qwen")


conv_templates: dict[str, Conversation] = {
    "v0": _v0(_HUMAN, messages=_V0_EXAMPLE, offset=2),
    "v1": _v1(_USER),
    "llava_v0": _v0(_HUMAN),
    "llava_v1": _v1(_HUMAN),
    "v0_mmtag": _v0(_MMTAG, version="v0_mmtag"),
    "v1_mmtag": _v1(_MMTAG, version="v1_mmtag"),
    "plain": _template(SeparatorStyle.PLAIN, "", ("", ""), "\n"),
    "llama_2": _inst(_LLAMA_2_SAFETY),
    "llava_llama_2": _inst(_VISION),
    "llava_llama_2_simple": _inst(_SIMPLE),
    "llava_llama_2_mmtag": _inst(_SIMPLE + _TAGGED, version="llama_v2_mmtag"),
    "mistral_instruct": _inst("", sep=""),
    "mpt": _im(_OPEN_ASSISTANT),
    "chatml_direct": _im("Answer the questions."),
    "mistral_orca": _im(_ORCA),
    "mistral_zephyr": _template(
        SeparatorStyle.MPT,
        "<|system|>\nYou are a helpful AI assistant.",
        ("<|user|>\n", "<|assistant|>\n"),
        "</s>",
        version="mpt",
    ),
    "qwen_1_5": _qwen("You are a helpful assistant."),
    "qwen_2": _qwen("You are a helpful assistant."),
    "qwen_2_5": _qwen("You are Qwen, created by Alibaba Cloud. You are a helpful assistant."),
    "llava_llama_3": _template(
        SeparatorStyle.LLAMA_3,
        _VISION,
        ("user", "assistant"),
        "<|eot_id|>",
        version="llama_v3",
        tokenizer_id="meta-llama/Meta-Llama-3-8B-Instruct",
        stop_token_ids=[128009],
    ),
    "gemma_instruct": _template(
        SeparatorStyle.GEMMA,
        "",
        ("<start_of_turn>user\n", "<start_of_turn>model\n"),
        "<end_of_turn>\n",
        version="gemma",
    ),
}
conv_templates |= {
    alias: conv_templates[name]
    for alias, name in {
        "default": "v0",
        "vicuna_v1": "v1",
        "v0_plain": "plain",
        "llava_v0_mmtag": "v0_mmtag",
        "llava_v1_mmtag": "v1_mmtag",
        "llava_mistral_instruct": "mistral_instruct",
        "mistral_direct": "chatml_direct",
    }.items()
}

default_conversation = conv_templates["vicuna_v1"]

# Which template a released model wants, by a part of its lower-case name; the first match counts.
_MODES = (
    ("llama-2", "llava_llama_2"),
    ("mistral", "mistral_instruct"),
    ("v1.6-34b", "chatml_direct"),
    ("v1", "llava_v1"),
    ("mpt", "mpt"),
)


def conversation_mode(model_name: str) -> str:
    """Template name LLaVA's chat programs choose for a model name. (Its benchmark programs always use vicuna_v1.)

    >>> conversation_mode("llava-v1.5-7b")
    'llava_v1'
    """
    return next((mode for part, mode in _MODES if part in model_name.lower()), "llava_v0")


def get_conversation(name: str) -> Conversation:
    """A fresh conversation from the template `name`.

    Raises:
        ValueError: no such template; lists those there are.
    """
    if name not in conv_templates:
        raise ValueError(f"no conversation template {name!r}; known: {', '.join(sorted(conv_templates))}")
    return conv_templates[name].copy()
