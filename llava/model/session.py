"""A conversation about images that computes only what is new in each turn.

l ids of the conversation, K' tokens of one image, D LLM width.

An image is encoded once and its tokens are kept; the keys and values of everything said so far stay in the cache. What
a turn answers is what `model.generate` would answer to the whole conversation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from llava.constants import IMAGE_TOKEN_INDEX
from llava.model.fast_limits import check_decoding, end_tokens

Size = tuple[int, int]
Entry = tuple[Hashable, int]  # one id of the conversation: the id or the image's key, and its number of tokens


class Session:
    """One conversation with one model, greedy; ids in, ids out. Weights must not change meanwhile; a compressor may:
    another one, or another order of its tokens, empties the session."""

    def __init__(self, model: Any) -> None:
        """Raises: ValueError for a model in training mode, or one whose generation config is not plain greedy."""
        check_decoding(model)
        self.model = model
        self._images: dict[Hashable, Tensor] = {}  # tokens [K', D] of the conversation's images
        self._cache, self._held = DynamicCache(), list[Entry]()  # keys and values, and of what
        self._setting = self._compression()

    def clear(self) -> None:
        """Forget everything."""
        self._images = {}
        self._cache, self._held = DynamicCache(), []

    @property
    def cached_tokens(self) -> int:
        """Tokens whose keys and values are held, images expanded."""
        return _length(self._held)

    @torch.inference_mode()
    def ask(
        self,
        ids: Tensor,
        images: Tensor | Sequence[Tensor] = (),
        image_sizes: Sequence[Size] | None = None,
        *,
        max_new_tokens: int,
        eos_token_id: int | Sequence[int] | None = None,
        image_keys: Sequence[Hashable] | None = None,
    ) -> Tensor:
        """Answer the open turn. -> new ids [n] on the CPU, the end token with them

        Args:
            ids: [l], the whole conversation, earlier answers and the open turn included; earlier turns may be edited.
            images, image_sizes: all images of the conversation, see `image_sequences`.
            eos_token_id: None: the model's generation config.
            image_keys: a name for each image that is new whenever its pixels are; None: a digest of the pixels.

        Raises:
            ValueError: image tokens and images do not fit, the conversation is too long, or max_new_tokens < 1.
        """
        if ids.dim() != 1 or not len(ids) or max_new_tokens < 1:
            raise ValueError(
                f"expected ids [l] with l >= 1 and max_new_tokens >= 1; got {list(ids.shape)}, {max_new_tokens}"
            )
        ends, _ = end_tokens(self.model.generation_config, eos_token_id, None)
        if self._setting != (setting := self._compression()):
            self.clear()
            self._setting = setting
        words = ids.tolist()
        keys = self._encode(words.count(IMAGE_TOKEN_INDEX), images, image_sizes, image_keys)
        entries = self._entries(words, keys)
        cache, held = self._cache, self._held
        self._cache, self._held = DynamicCache(), []  # whatever fails below leaves an empty cache, not a wrong one
        kept = min(_common(held, entries), len(entries) - 1)  # the last entry is needed: its logits choose the answer
        _crop(cache, _length(held) - _length(entries[:kept]))
        answer = self._answer(words[kept:], entries, kept, cache, ends, max_new_tokens)
        self._cache, self._held = cache, [*entries, *((token, 1) for token in answer[:-1])]
        return torch.tensor(answer)

    def _answer(
        self, words: list[int], entries: list[Entry], kept: int, cache: Any, ends: frozenset[int], most: int
    ) -> list[int]:
        """`words` and `entries[kept:]` into the cache, and greedy tokens after them."""
        new = [self._images[key] for key, _ in entries[kept:] if key in self._images]
        (embeds,) = self.model.embed_rows(torch.tensor([words]), None, new)
        start, stop = _length(entries[:kept]), _length(entries)
        fed: dict[str, Tensor] = {"inputs_embeds": embeds[None]}
        answer: list[int] = []
        while True:
            places = torch.arange(start, stop, device=embeds.device)[None]
            out = self.model(**fed, position_ids=places, past_key_values=cache, use_cache=True, logits_to_keep=1)
            token = out.logits[:, -1].float().argmax(dim=-1)
            answer.append(int(token))
            if answer[-1] in ends or len(answer) == most:
                return answer
            start, stop = stop, stop + 1
            fed = {"input_ids": token[None]}

    def _encode(
        self,
        count: int,
        images: Tensor | Sequence[Tensor],
        sizes: Sequence[Size] | None,
        names: Sequence[Hashable] | None,
    ) -> list[Hashable]:
        """The key of every image, whose tokens are then held; those of images that are gone are dropped."""
        given = [len(images), *(len(values) for values in (sizes, names) if values is not None)]
        if any(number != count for number in given):
            raise ValueError(f"the conversation holds {count} image tokens; got images, sizes, keys: {given}")
        plain = isinstance(images, Tensor) and images.dim() == 4  # one tile per image, and no packing
        held: dict[Hashable, Tensor] = {}
        keys: list[Hashable] = []
        for index, image in enumerate(images):
            name = _digest(image) if names is None else names[index]
            size = None if sizes is None else tuple(sizes[index])
            key = ("image", name, size, plain)
            if key not in held:
                held[key] = self._images[key] if key in self._images else self._tokens(image, size, plain)
            keys.append(key)
        self._images = held
        return keys

    def _tokens(self, image: Tensor, size: Any, plain: bool) -> Tensor:
        batch = image[None] if plain else [image]
        (tokens,) = self.model.image_sequences(batch, None if size is None else [size])
        return tokens  # type: ignore[no-any-return]

    def _entries(self, words: Sequence[int], keys: Sequence[Hashable]) -> list[Entry]:
        left = iter(keys)
        entries: list[Entry] = []
        for word in words:
            if word == IMAGE_TOKEN_INDEX:
                key = next(left)
                entries.append((key, len(self._images[key])))
            else:
                entries.append((word, 1))
        limit = getattr(self.model.config, "tokenizer_model_max_length", None)
        if limit is not None and _length(entries) > limit:
            raise ValueError(
                f"the conversation has {_length(entries)} tokens with its images, the model takes {limit} "
                "(tokenizer_model_max_length); drop earlier turns"
            )
        return entries

    def _compression(self) -> Any:
        tower = self.model.get_vision_tower()
        return None if tower is None else tower.compressor, getattr(self.model.config, "mm_compressed_order", None)


def _length(entries: Sequence[Entry]) -> int:
    return sum(count for _, count in entries)


def _common(first: Sequence[Entry], second: Sequence[Entry]) -> int:
    """Entries that both begin with."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(first), len(second)))


def _crop(cache: Any, count: int) -> None:
    """Take the last `count` tokens off."""
    if count:
        cache.crop(-count)


def _digest(image: Tensor) -> str:
    data = image.detach().cpu().contiguous()
    digest = hashlib.blake2b(f"{data.dtype} {list(data.shape)}".encode(), digest_size=16)
    digest.update(data.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
