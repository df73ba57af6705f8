"""Chat about one picture in the terminal: LLaVA's `serve.cli`.

    python -m llava.serve.cli --model-path liuhaotian/llava-v1.5-7b --image-file view.jpg --dominant 54 --contextual 10

One line of standard input is one turn; an empty line, or the end of the input, ends the program. Greedy turns go
through a `Session`: the picture is encoded once and each turn computes only what is new in it. With a temperature the
model answers the whole conversation anew. Differences to LLaVA's program: greedy is the default (LLaVA: 0.2), an answer
is printed when it is complete, and a template that is asked for counts as it is.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import typer
from PIL import Image

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.conversation import Conversation, conversation_mode, get_conversation
from llava.mm_utils import get_model_name_from_path, image_mark, load_image, process_images, tokenizer_image_token
from llava.model.builder import load_pretrained_model
from llava.model.session import Session
from visionzip import visionzip

logger = logging.getLogger(__name__)

EXAMPLE = (
    "Example: python -m llava.serve.cli --model-path liuhaotian/llava-v1.5-7b --image-file view.jpg "
    "--dominant 54 --contextual 10"
)


@dataclass(frozen=True)
class Turn:
    """What the model was given, the whole conversation, and what it said."""

    prompt: str
    answer: str


class Chat:
    """A conversation about one picture with a loaded model."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        image_processor: Any,
        image: Image.Image,
        conversation: Conversation,
        *,
        temperature: float = 0.0,
        max_new_tokens: int = 512,
    ) -> None:
        """Raises: ValueError for a greedy chat with a model that `Session` refuses."""
        self.model, self.tokenizer, self.conversation = model, tokenizer, conversation
        self.temperature, self.max_new_tokens = temperature, max_new_tokens
        self._session = Session(model) if temperature == 0 else None
        self._pixels = process_images([image], image_processor, model.config).to(model.device, model.dtype)
        self._size = image.size
        self._mark: str | None = image_mark(model.config)  # in front of the first words

    def say(self, text: str) -> Turn:
        """Answer the user's next words. Raises: ValueError for an image token in them, or too long a conversation."""
        if DEFAULT_IMAGE_TOKEN in text:
            raise ValueError(f"the conversation is about one picture, and {DEFAULT_IMAGE_TOKEN} in {text!r} adds one")
        self.conversation.append_message(
            self.conversation.roles[0], text if self._mark is None else f"{self._mark}\n{text}"
        )
        self._mark = None
        self.conversation.append_message(self.conversation.roles[1], None)
        prompt = self.conversation.get_prompt()
        new = self._answer(torch.tensor(tokenizer_image_token(prompt, self.tokenizer)))
        answer = self.tokenizer.decode(new, skip_special_tokens=True).strip()
        self.conversation.messages[-1][-1] = answer
        return Turn(prompt, answer)

    def _answer(self, ids: torch.Tensor) -> torch.Tensor:
        """New ids [n] after the whole conversation's, [l]."""
        images = {"images": self._pixels, "image_sizes": [self._size]}
        if self._session is not None:
            return self._session.ask(ids, **images, max_new_tokens=self.max_new_tokens, image_keys=["the picture"])
        with torch.inference_mode():
            new: torch.Tensor = self.model.generate(
                ids[None].to(self.model.device),
                **images,
                do_sample=True,
                temperature=self.temperature,
                max_new_tokens=self.max_new_tokens,
                use_cache=True,
            )[0]
        return new


def template_for(model_name: str, conv_mode: str | None) -> str:
    """The template asked for, else the one LLaVA infers from the model's name; a warning where they differ."""
    inferred = conversation_mode(model_name)
    if conv_mode is None:
        return inferred
    if conv_mode != inferred:
        logger.warning("using --conv-mode %s; the name %s suggests %s", conv_mode, model_name, inferred)
    return conv_mode


def talk(chat: Chat, debug: bool) -> None:
    """Lines of standard input to answers on standard output."""
    while True:
        try:
            text = input("USER: ").strip()
        except EOFError:
            text = ""
        if not text:
            typer.echo("exit")
            return
        turn = chat.say(text)
        typer.echo(f"ASSISTANT: {turn.answer}")
        if debug:
            typer.echo({"prompt": turn.prompt, "outputs": turn.answer})


def main(
    model_path: Annotated[str, typer.Option("--model-path", help="Checkpoint folder or hub id.")],
    image_file: Annotated[str, typer.Option("--image-file", help="The picture: a file or an http address.")],
    model_base: Annotated[str | None, typer.Option("--model-base", help="Base of a LoRA or projector.")] = None,
    device: Annotated[str | None, typer.Option("--device", help="Default: a GPU if there is one.")] = None,
    conv_mode: Annotated[str | None, typer.Option("--conv-mode", help="Default: by the model's name.")] = None,
    temperature: Annotated[float, typer.Option("--temperature", min=0, help="0 is greedy.")] = 0.0,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1)] = 512,
    load_8bit: Annotated[bool, typer.Option("--load-8bit", help="Language model in 8 bit (bitsandbytes).")] = False,
    load_4bit: Annotated[bool, typer.Option("--load-4bit", help="Language model in 4 bit (bitsandbytes).")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Print each turn's whole prompt as well.")] = False,
    dominant: Annotated[int | None, typer.Option("--dominant", help="Kept tokens a tile, CLS included.")] = None,
    contextual: Annotated[int | None, typer.Option("--contextual", help="Merged tokens a tile.")] = None,
) -> None:
    """Chat about a picture; an empty line ends it."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    name = get_model_name_from_path(model_path)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        if (dominant is None) != (contextual is None):
            raise ValueError(f"--dominant and --contextual go together, got {dominant} and {contextual}")
        image = load_image(image_file)
        conversation = get_conversation(template_for(name, conv_mode))
        tokenizer, model, processor, _ = load_pretrained_model(
            model_path, model_base, name, load_8bit, load_4bit, device_map={"": device}, device=device, multimodal=True
        )
        if dominant is not None and contextual is not None:  # else as the checkpoint was saved
            saved_order = getattr(model.config, "mm_compressed_order", None)
            visionzip(model, dominant, contextual, order=saved_order or "official")
        chat = Chat(
            model, tokenizer, processor, image, conversation, temperature=temperature, max_new_tokens=max_new_tokens
        )
        talk(chat, debug)
    except ValueError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error


app = typer.Typer(add_completion=False, rich_markup_mode=None)
app.command(epilog=EXAMPLE)(main)

if __name__ == "__main__":
    app()
