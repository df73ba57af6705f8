"""The model side of evaluation: prompts, pixels, one batch through `model.generate`.

`answer_batch` is what every program ends in (question files, lmms-eval). Rows of a batch may have no, one or several
images, of any sizes; what a row is answered does not depend on the others.
B rows, l text tokens of a row, L tokens of the expanded row, S tile side.
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from llava.constants import DEFAULT_IMAGE_TOKEN, IMAGE_TOKEN_INDEX
from llava.conversation import conv_templates
from llava.eval.generate import Reply
from llava.eval.records import Question
from llava.mm_utils import image_mark, process_images, tokenizer_image_token
from llava.model.fast import FastGenerator

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Decoding:
    """How answers are made. Greedy by default. seed: of sampled answers (temperature > 0), see `drawing`.

    Raises:
        ValueError: an unknown conversation mode or a number out of range.
    """

    conv_mode: str = "vicuna_v1"
    temperature: float = 0.0
    top_p: float | None = None
    num_beams: int = 1
    max_new_tokens: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        if self.conv_mode not in conv_templates:
            raise ValueError(f"unknown conv_mode {self.conv_mode!r}; known: {', '.join(sorted(conv_templates))}")
        if self.temperature < 0 or self.num_beams < 1 or self.max_new_tokens < 1:
            raise ValueError(
                f"expected temperature >= 0, num_beams >= 1, max_new_tokens >= 1; got {self.temperature}, "
                f"{self.num_beams}, {self.max_new_tokens}"
            )

    def generate_arguments(self) -> dict[str, Any]:
        """Keyword arguments of `model.generate`."""
        sampling = {"temperature": self.temperature, "top_p": self.top_p} if self.temperature > 0 else {}
        return {
            "do_sample": self.temperature > 0,
            "num_beams": self.num_beams,
            "max_new_tokens": self.max_new_tokens,
            **sampling,
        }

    def settings(self) -> dict[str, Any]:
        """What of it changes answers, by name: the seed only where answers are drawn."""
        told = asdict(self)
        return told if self.temperature > 0 else {name: value for name, value in told.items() if name != "seed"}

    def check_batch_size(self, size: int) -> None:
        """Sampled answers are drawn one at a time.

        Raises:
            ValueError: more than one row in a batch of sampled answers.
        """
        if self.temperature > 0 and size > 1:
            raise ValueError(
                f"sampling (--temperature {self.temperature}) needs --batch-size 1, got {size}: the rows of a batch "
                "draw from one random stream, so an answer would depend on its neighbours"
            )


@dataclass(frozen=True)
class Prompt:
    """One rendered row: text with its `<image>`s, pixels of each image ([3, S, S] or [tiles, 3, S, S]), sizes (W,
    H), and the key of its question, by which a sampled answer is drawn."""

    text: str
    pixels: tuple[Tensor, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()
    key: str = ""

    def pin_memory(self) -> "Prompt":
        """With pixels in pinned memory, from which a GPU copies while Python goes on; torch's DataLoader calls it."""
        return replace(self, pixels=tuple(tile.pin_memory() for tile in self.pixels))


def user_turn(text: str, num_images: int, config: Any, joint: str = "\n") -> str:
    """The user's words with one `<image>` for each image in front, joined by `joint`, unless the text has them
    already.

    Raises:
        ValueError: the text holds another number of `<image>` than there are images.
    """
    present = text.count(DEFAULT_IMAGE_TOKEN)
    if present not in (0, num_images):
        raise ValueError(f"the text holds {present} {DEFAULT_IMAGE_TOKEN} but there are {num_images} images: {text!r}")
    if present or not num_images:
        return text
    return joint.join([image_mark(config)] * num_images) + "\n" + text


def render(conv_mode: str, turns: Sequence[str]) -> str:
    """The prompt string of a conversation: user, assistant, user, ...; after a user's turn the assistant's is left
    open."""
    conversation = conv_templates[conv_mode].copy()
    for index, turn in enumerate(turns):
        conversation.append_message(conversation.roles[index % 2], turn)
    if len(turns) % 2:
        conversation.append_message(conversation.roles[1], None)
    prompt: str = conversation.get_prompt()
    return prompt


def prepare_pixels(images: Sequence[Image.Image], image_processor: Any, config: Any) -> tuple[Tensor, ...]:
    """Pixel tiles of each image by the model's `image_aspect_ratio`; every image on its own."""
    return tuple(process_images([image], image_processor, config)[0] for image in images)


def answer_batch(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    decoding: Decoding,
    fast: FastGenerator | None = None,
) -> list[Reply]:
    """Answer rendered prompts.

    Sampled rows draw from torch's global random state: within `drawing` it is the question's own.

    Args:
        fast: answers in place of `model.generate`, with the same tokens.

    Returns:
        One reply a prompt: new text without special tokens, stripped, and the visual tokens its row really held.

    Raises:
        ValueError: `fast` and a decoding that is not greedy, or rows that `fast` is not made for.
    """
    rows = [torch.tensor(tokenizer_image_token(prompt.text, tokenizer, IMAGE_TOKEN_INDEX)) for prompt in prompts]
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    ids, mask = pad_left(rows, pad)
    pixels, sizes = gather_pixels(model, prompts)
    arguments = {
        "images": pixels,
        "image_sizes": sizes,
        "pad_token_id": pad,
        "use_cache": True,
        **decoding.generate_arguments(),
    }
    lengths: Sequence[int]
    if fast is not None:  # it says itself how long the rows were: hooks are not heard in a replayed graph
        output = fast(ids, attention_mask=mask, **arguments)
        lengths = fast.row_lengths
    else:
        with torch.inference_mode(), _row_lengths(model) as lengths:
            output = model.generate(ids.to(model.device), attention_mask=mask.to(model.device), **arguments)
    texts = tokenizer.batch_decode(output, skip_special_tokens=True)
    expanded = lengths[:: decoding.num_beams]
    words = [int(row.ne(IMAGE_TOKEN_INDEX).sum()) for row in rows]
    return [Reply(text.strip(), length - count) for text, length, count in zip(texts, expanded, words, strict=True)]


@contextmanager
def drawing(decoding: Decoding, key: str, device: torch.device) -> Iterator[None]:
    """Sampled answers within it come from a random stream that seed and question alone name, so they depend on no other
    question, shard or interruption. The random state of the process comes back after it.

    Args:
        key: of the question.
    """
    if decoding.temperature == 0:
        yield
        return
    digest = hashlib.sha256(f"{decoding.seed}\n{key}".encode()).digest()
    seed = int.from_bytes(digest[:8], "big") >> 1
    devices = range(torch.cuda.device_count()) if device.type == "cuda" else ()
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        if devices:  # `torch.manual_seed` would also seed GPUs that answer nothing here and are not put back
            torch.cuda.manual_seed_all(seed)
        yield


def pad_left(rows: Sequence[Tensor], value: int) -> tuple[Tensor, Tensor]:
    """Rows [l] of several lengths as ids [B, l_max] and mask [B, l_max] bool, real tokens at the right."""
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), value, dtype=torch.long)
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for index, row in enumerate(rows):
        ids[index, longest - len(row) :] = row
        mask[index, longest - len(row) :] = True
    return ids, mask


def gather_pixels(
    model: Any, prompts: Sequence[Prompt]
) -> tuple[Tensor | list[Tensor] | None, list[tuple[int, int]] | None]:
    """All images of a batch in row order, in the model's dtype: a tensor [n, 3, S, S] of plain images, a list if one
    is tiled."""
    # Two steps: a copy that changes the dtype as well goes through ordinary memory and waits.
    moved = (tile.to(model.device, non_blocking=True) for prompt in prompts for tile in prompt.pixels)
    tensors = [tile.to(model.dtype) for tile in moved]
    if not tensors:
        return None, None
    sizes = [size for prompt in prompts for size in prompt.sizes]
    plain = all(tensor.dim() == 3 for tensor in tensors)
    return (torch.stack(tensors) if plain else tensors), sizes


@contextmanager
def _row_lengths(model: Any) -> Iterator[list[int]]:
    """Note the length L of every row at the first pass through the decoder (padding not counted), as the decoder
    sees it."""
    lengths: list[int] = []

    def note(_module: Any, _args: Any, kwargs: Mapping[str, Any]) -> None:
        embeds, mask = kwargs.get("inputs_embeds"), kwargs.get("attention_mask")
        if lengths or embeds is None:
            return
        if isinstance(mask, Tensor) and mask.dim() == 2:
            lengths.extend(int(count) for count in mask.sum(dim=1))
        else:  # no padding
            lengths.extend([embeds.shape[1]] * embeds.shape[0])

    handle = model.get_model().register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield lengths
    finally:
        handle.remove()


@dataclass
class LlavaAnswerer:
    """A loaded LLaVA model as the generation loop's answerer. `source` goes into the settings of the answer file."""

    model: Any
    tokenizer: Any
    image_processor: Any
    model_id: str
    decoding: Decoding = field(default_factory=Decoding)
    source: Mapping[str, Any] = field(default_factory=dict)
    fast: FastGenerator | None = None

    @property
    def settings(self) -> Mapping[str, Any]:
        """Decoding, compressor and source: what changes answers."""
        compressor = self.model.get_vision_tower().compressor
        return {
            **self.decoding.settings(),
            "compressor": None if compressor is None else compressor.to_config(),
            "order": getattr(self.model.config, "mm_compressed_order", None),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            **self.source,
        }

    @property
    def how(self) -> Mapping[str, Any]:
        """Attention kernel, and whether the fast path answered: like the batch size they change the time."""
        return {"attention": self.model.config._attn_implementation, "fast": self.fast is not None}

    def load(self, question: Question, image: Image.Image | None) -> Prompt:
        """Render the prompt and prepare the image.

        Raises:
            ValueError: `<image>` in the text that does not fit.
        """
        pictures = [] if image is None else [image]
        turn = user_turn(question.text, len(pictures), self.model.config)
        return Prompt(
            text=render(self.decoding.conv_mode, [turn]),
            pixels=prepare_pixels(pictures, self.image_processor, self.model.config),
            sizes=tuple(picture.size for picture in pictures),
            key=question.key,
        )

    def reply(self, batch: Sequence[Prompt]) -> list[Reply]:
        """Answer a batch.

        Raises:
            ValueError: several rows, and answers are sampled.
        """
        self.decoding.check_batch_size(len(batch))
        with drawing(self.decoding, batch[0].key, self.model.device):
            return answer_batch(self.model, self.tokenizer, batch, self.decoding, self.fast)
