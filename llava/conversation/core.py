"""The `Conversation` object: a template, and with messages a conversation."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.conversation.styles import RENDERERS, Segment, SeparatorStyle, Turn, llama_3_prompt


@dataclass
class Conversation:
    """A template, and with messages a conversation.

    messages: [role, message] pairs. A message is a text, a tuple (text, image or list of images, image mode), or None
    for the turn the model is to write. offset: how many of them belong to the template. sep, sep2: separators, used as
    sep_style says. tokenizer, stop_str, stop_token_ids: for templates whose format belongs to a tokenizer.
    """

    system: str
    roles: tuple[str, str]
    messages: Sequence[Any]
    offset: int
    sep_style: SeparatorStyle = SeparatorStyle.SINGLE
    sep: str = "###"
    sep2: str | None = None
    version: str = "Unknown"
    tokenizer_id: str = ""
    tokenizer: Any = None
    stop_str: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    skip_next: bool = False

    def copy(self) -> Conversation:
        """A conversation of its own: appending to it leaves this one as it is."""
        stop_ids = None if self.stop_token_ids is None else list(self.stop_token_ids)
        return replace(self, messages=[list(message) for message in self.messages], stop_token_ids=stop_ids)

    def __deepcopy__(self, memo: dict[int, Any]) -> Conversation:
        """As `copy()`: clients of Llama-3 templates copy this way. The tokenizer is shared, not copied."""
        return self.copy()

    def append_message(self, role: str, message: Any) -> None:
        """Add one turn; None leaves it open for the model.

        Raises:
            ValueError: this is a template; templates are shared, so they must be copied first.
        """
        if not isinstance(self.messages, list):
            raise ValueError("this Conversation is a shared template; call copy() first and append to the copy")
        self.messages.append([role, message])

    def segments(self) -> list[Segment]:
        """The prompt in parts, in order.

        Raises:
            ValueError: the style has no rule, or the messages do not fit it.
        """
        renderer = RENDERERS.get(self.sep_style)
        if renderer is None:
            known = ", ".join(style.name for style in RENDERERS)
            raise ValueError(f"separator style {self.sep_style} has no rendering rule; those that have one: {known}")
        return renderer(self, self._turns())

    def get_prompt(self) -> str:
        """The text to tokenise. BOS is left to the tokenizer, except where the format itself contains it."""
        if self.sep_style is SeparatorStyle.LLAMA_3:
            return llama_3_prompt(self, self._turns())
        return "".join(segment.text for segment in self.segments())

    def stop_string(self) -> str:
        """The text after which an answer is over."""
        return self.sep2 if self.sep_style in {SeparatorStyle.TWO, SeparatorStyle.LLAMA_2} and self.sep2 else self.sep

    def _turns(self) -> list[Turn]:
        """Messages as texts. Where the first one brings an image, its placeholder is put at the front."""
        turns: list[Turn] = [(role, _text(message)) for role, message in self.messages]
        if not (self.messages and isinstance(self.messages[0][1], tuple)):
            return turns
        role, text = turns[0]
        text = text or ""
        if "mmtag" in self.version:
            tagged = f"<Image>{DEFAULT_IMAGE_TOKEN}</Image>"
            plain = text.replace(DEFAULT_IMAGE_TOKEN, "").strip()
            return [(self.roles[0], tagged), (self.roles[1], "Received."), (role, plain), *turns[1:]]
        if text.count(DEFAULT_IMAGE_TOKEN) <= 1:  # several images keep the places they have
            text = f"{DEFAULT_IMAGE_TOKEN}\n{text.replace(DEFAULT_IMAGE_TOKEN, '').strip()}"
        return [(role, text), *turns[1:]]

    # ------------------------------------------------------------------------------------------ images and display

    def process_image(
        self,
        image: Any,
        image_process_mode: str,
        return_pil: bool = False,
        image_format: str = "PNG",
        max_len: int = 1344,
        min_len: int = 672,
    ) -> Any:
        """Prepare a PIL image for display or sending: a PIL image, or base64 text.

        Modes: "Pad" makes it square, "Resize" makes it 336 x 336, "Default" and "Crop" leave it. A picture longer than
        `max_len` is then scaled so that its short side is at most `min_len` and its long side at most `max_len`.
        """
        if image_process_mode == "Pad":
            from llava.mm_utils import CLIP_BACKGROUND, expand2square

            image = expand2square(image.convert("RGB"), CLIP_BACKGROUND)
        elif image_process_mode == "Resize":
            image = image.resize((336, 336))
        elif image_process_mode not in {"Default", "Crop"}:
            raise ValueError(f"image mode {image_process_mode!r} is none of Pad, Default, Crop, Resize")
        if max(image.size) > max_len:
            long, short = max(image.size), min(image.size)
            new_short = int(min(max_len * short / long, min_len, short))
            sides = (max(1, int(new_short * long / short)), max(1, new_short))
            image = image.resize(sides if image.width >= image.height else sides[::-1])
        if return_pil:
            return image
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, format=image_format)
        return base64.b64encode(buffer.getvalue()).decode()

    def get_images(self, return_pil: bool = False) -> list[Any]:
        """Every image of the messages after `offset`, in order, as `process_image` gives it."""
        images = []
        for _, message in self.messages[self.offset :]:
            if isinstance(message, tuple):
                _, image, mode = message
                several = image if isinstance(image, list | tuple) else [image]
                images += [self.process_image(one, mode, return_pil=return_pil) for one in several]
        return images

    def to_gradio_chatbot(self) -> list[list[str | None]]:
        """[question, answer] pairs of the messages after `offset`; images become inline <img> elements."""
        pairs: list[list[str | None]] = []
        for number, (_, message) in enumerate(self.messages[self.offset :]):
            if number % 2:
                pairs[-1][1] = _text(message)
            elif isinstance(message, tuple):
                text, image, _ = message
                several = image if isinstance(image, list | tuple) else [image]
                tags = "".join(_image_tag(self.process_image(one, "Default", image_format="JPEG")) for one in several)
                pairs.append([tags + text.replace(DEFAULT_IMAGE_TOKEN, "").strip(), None])
            else:
                pairs.append([message, None])
        return pairs

    def dict(self) -> dict[str, Any]:
        """What a log keeps of a conversation: texts and format, no images."""
        return {
            "system": self.system,
            "roles": self.roles,
            "messages": [[role, _text(message)] for role, message in self.messages],
            "offset": self.offset,
            "sep": self.sep,
            "sep2": self.sep2,
        }


def _image_tag(encoded: str) -> str:
    return f'<img src="data:image/jpeg;base64,{encoded}" alt="user upload image" />'


def _text(message: Any) -> str | None:
    text: str | None = message[0] if isinstance(message, tuple) else message
    return text
