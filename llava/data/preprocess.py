"""Label masking: which ids of a training conversation carry loss.

One algorithm for every template. The template renders the turns as segments and says which of them the assistant
speaks; the whole text is tokenised exactly as evaluation would; and the bounds of each answer are found by tokenising
the text up to there. Since the turns are known, nothing that a turn contains can shift a bound, and what does not fit
raises an error: no sample loses its labels silently.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from llava.constants import (
    DEFAULT_IM_END_TOKEN,
    DEFAULT_IM_START_TOKEN,
    DEFAULT_IMAGE_TOKEN,
    IGNORE_INDEX,
    IMAGE_TOKEN_INDEX,
)
from llava.conversation import Conversation, Segment, SeparatorStyle, get_conversation
from llava.mm_utils import tokenizer_image_token

HUMAN, GPT = "human", "gpt"
Turns = Sequence[Mapping[str, str]]
Encode = Callable[[str], list[int]]


class MaskingError(ValueError):
    """A conversation that cannot be masked; the message names the sample and the turn."""


def preprocess(
    conversation: Turns,
    tokenizer: Any,
    version: str,
    has_image: bool = False,
    *,
    mm_use_im_start_end: bool = False,
    sample_id: object = None,
) -> dict[str, Tensor]:
    """Ids and labels of one conversation.

    Loss falls on what the assistant says: the answer and its end token (`</s>` for vicuna_v1 and the llama_2 styles,
    `<|im_end|>` for mpt, chatml and qwen, `<|eot_id|>` for llama_3; for plain the caption and its newline, no EOS).

    Args:
        conversation: turns {"from": "human" | "gpt", "value": text}. A first turn of gpt is dropped, as in LLaVA.
        tokenizer: Hugging Face tokenizer.
        version: name of a conversation template.
        has_image: `<image>` in the texts stands for an image; otherwise it is tokenised as text.
        mm_use_im_start_end: see `preprocess_multimodal`.
        sample_id: named in errors.

    Returns:
        input_ids [L] int64 with -200 for images, labels [L] int64 with -100 where there is no loss.

    Raises:
        MaskingError: no turns, an unknown role, two turns of one role in a row, an empty answer, no answer at all, or a
            tokenizer that joins an answer with the text around it.
        ValueError: unknown template.
    """
    template = get_conversation(version)
    where = "" if sample_id is None else f"sample {sample_id}: "
    turns: Turns = _checked(conversation, where)
    if has_image:
        turns = preprocess_multimodal(turns, version, mm_use_im_start_end)
    if template.sep_style is SeparatorStyle.PLAIN:
        segments = _plain_segments(turns, template, where)
    else:
        segments = _segments(turns, template)
    return _encode(segments, tokenizer, has_image, where)


def preprocess_multimodal(conversation: Turns, version: str, mm_use_im_start_end: bool = False) -> list[dict[str, str]]:
    """Put the placeholder of each turn with exactly one `<image>` in front: `<image>\\ntext`. Source: LLaVA.

    Turns with several keep their places (the public v1 code loses all but one). Versions with `mmtag` wrap each
    placeholder as `<Image><image></Image>`, `mm_use_im_start_end` as `<im_start><image><im_end>`.
    """
    placeholder = DEFAULT_IMAGE_TOKEN
    if mm_use_im_start_end:
        placeholder = f"{DEFAULT_IM_START_TOKEN}{placeholder}{DEFAULT_IM_END_TOKEN}"
    if "mmtag" in get_conversation(version).version:
        placeholder = f"<Image>{placeholder}</Image>"
    turns = []
    for turn in conversation:
        text = turn["value"]
        if text.count(DEFAULT_IMAGE_TOKEN) == 1:
            text = f"{DEFAULT_IMAGE_TOKEN}\n{text.replace(DEFAULT_IMAGE_TOKEN, '').strip()}".strip()
        turns.append({**turn, "value": text.replace(DEFAULT_IMAGE_TOKEN, placeholder)})
    return turns


def _checked(conversation: Turns, where: str) -> Turns:
    """The turns from the first human one on, alternating human and gpt, every answer with text."""
    if not conversation:
        raise MaskingError(f"{where}the conversation has no turns")
    for number, turn in enumerate(conversation):
        if turn.get("from") not in {HUMAN, GPT}:
            raise MaskingError(f"{where}turn {number} is from {turn.get('from')!r}; expected 'human' or 'gpt'")
        if not isinstance(turn.get("value"), str):
            raise MaskingError(f"{where}turn {number} needs a text under 'value', got {turn.get('value')!r}")
    first = int(conversation[0]["from"] == GPT)
    for number, turn in enumerate(conversation[first:], start=first):
        if turn["from"] != (HUMAN, GPT)[(number - first) % 2]:
            raise MaskingError(f"{where}turns {number - 1} and {number} are both from {turn['from']!r}")
        if turn["from"] == GPT and not turn["value"]:
            raise MaskingError(f"{where}turn {number} (gpt) is empty; give it a text or drop the sample")
    if len(conversation) - first < 2:
        raise MaskingError(f"{where}no question is followed by an answer, so nothing could be learned")
    return conversation[first:]


def _segments(turns: Turns, template: Conversation) -> list[Segment]:
    """The whole conversation as the template renders it; example turns of the template are left out."""
    template.messages = [(template.roles[number % 2], turn["value"]) for number, turn in enumerate(turns)]
    return template.segments()


def _plain_segments(turns: Turns, template: Conversation, where: str) -> list[Segment]:
    """Pre-training on captions: the image, then the caption and a newline; the question is left out."""
    if len(turns) != 2 or turns[0]["value"].count(DEFAULT_IMAGE_TOKEN) != 1:
        raise MaskingError(
            f"{where}the plain template takes one question with one {DEFAULT_IMAGE_TOKEN} and one caption; "
            f"got {len(turns)} turns, the first being {turns[0]['value']!r}"
        )
    return [Segment(DEFAULT_IMAGE_TOKEN), Segment(turns[1]["value"] + template.sep, answer=True)]


def _encode(segments: Sequence[Segment], tokenizer: Any, has_image: bool, where: str) -> dict[str, Tensor]:
    """Ids of the whole text, labels of the answers in it.

    Finding a bound means tokenising the text up to it. Where an answer ends in a special token, tokenisation starts
    afresh, so that each stretch up to such an end is searched alone: linear in the number of turns, not quadratic. If
    the stretches do not join to the whole text's ids (no tokenizer known does this), the text is searched as one.
    """

    def encode(text: str) -> list[int]:
        return list(tokenizer_image_token(text, tokenizer) if has_image else tokenizer(text).input_ids)

    whole = encode(_text(segments))
    stretches = _stretches(segments, tokenizer)
    ids = [_encode_after(before, _text(stretch), encode) for before, stretch in stretches]
    if [index for stretch in ids for index in stretch] != whole:
        stretches, ids = [("", segments)], [whole]
    labels: list[int] = []
    for (before, stretch), found in zip(stretches, ids, strict=True):
        labels += _labels(stretch, before, found, encode, where)
    return {"input_ids": torch.tensor(whole), "labels": torch.tensor(labels)}


def _stretches(segments: Sequence[Segment], tokenizer: Any) -> list[tuple[str, Sequence[Segment]]]:
    """Runs of segments that end where an answer ends in a special token, each with that token of the run before."""
    special = tuple(token for token in tokenizer.all_special_tokens if token)
    runs: list[tuple[str, list[Segment]]] = [("", [])]
    for number, segment in enumerate(segments):
        runs[-1][1].append(segment)
        end = next((token for token in special if segment.answer and segment.text.endswith(token)), None)
        if end is not None and number + 1 < len(segments):
            runs.append((end, []))
    return [*runs]


def _text(segments: Sequence[Segment]) -> str:
    return "".join(segment.text for segment in segments)


def _encode_after(before: str, text: str, encode: Encode) -> list[int]:
    """Ids of a text that follows the special token `before` (empty: nothing), without it."""
    return encode(before + text)[len(encode(before)) if before else 0 :]


def _labels(segments: Sequence[Segment], before: str, ids: Sequence[int], encode: Encode, where: str) -> list[int]:
    """Labels of one stretch, whose ids are known."""
    labels = [IGNORE_INDEX] * len(ids)
    text = _text(segments)
    end = 0
    for segment in segments:
        start, end = end, end + len(segment.text)
        if not segment.answer:
            continue
        # The last id before an answer may reach into it: "\n" and an answer that begins with a newline may be one id.
        what = f"of the answer {segment.text[:60]!r}"
        first = _shared(_encode_after(before, text[:start], encode), ids, 1, f"{where}the start {what}")
        last = _shared(_encode_after(before, text[:end], encode), ids, 0, f"{where}the end {what}")
        labels[first:last] = [IGNORE_INDEX if index == IMAGE_TOKEN_INDEX else index for index in ids[first:last]]
    return labels


def _shared(prefix: Sequence[int], ids: Sequence[int], slack: int, what: str) -> int:
    """How many ids the text up to a bound has inside the whole text; all but the last `slack` must agree."""
    count = next((n for n, (a, b) in enumerate(zip(prefix, ids, strict=False)) if a != b), min(len(prefix), len(ids)))
    if count < len(prefix) - slack:
        raise MaskingError(
            f"{what} falls inside a token: the text up to it has {len(prefix)} ids, the whole text shares {count} of "
            f"them; check that the template fits the tokenizer"
        )
    return count
