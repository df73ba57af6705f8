"""Greedy answers with the least waiting between kernels: static shapes, a static cache, CUDA graphs.

B rows, L tokens of the longest row rounded up to a bucket, M columns of the cache in use, T tiles, D LLM width,
V words.

A zipped image is always as long, so that few shapes occur; each is captured once and replayed. The layers are the
model's own, and so is the way of an image into the rows (`image_sequences`, `embed_rows`). Rows are padded on the
right: causal attention never looks there, so a prefill needs no mask, and each row's next token is read at its own
last place. The answers are those of `model.generate`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from llava.model.compiled_blocks import CompiledBlocks
from llava.model.fast_limits import check_greedy, check_model, end_tokens, longest_rows
from llava.model.graphs import Pool, Program
from llava.model.llava_arch import Images
from llava.model.maskless import causal_without_mask
from llava.model.static_cache import StaticKV
from llava.model.transfer import to_device
from visionzip.core.stages import stage
from visionzip.core.types import VisionTokens

__all__ = ["FastGenerator", "longest_rows"]


@dataclass(frozen=True)
class _Encoder:
    """compressor: held so that its id stays its own. pixels: [T, 3, S, S]."""

    compressor: Any
    pixels: Tensor
    run: Program[VisionTokens]


@dataclass(frozen=True)
class _Prefill:
    """embeds: [B, L, D]. last: [B], index of each row's last token. run: -> logits [B, V] of the next one."""

    embeds: Tensor
    last: Tensor
    run: Program[Tensor]


class FastGenerator:
    """Stands in for `model.generate` where decoding is greedy; a context manager, or call `close` in the end.

    It belongs to the model as it is: weights may change in place, and compressors come and go, but moving the model to
    another device or dtype needs a new generator. Between calls the model is as it was, so several generators may share
    one. Not thread-safe: calls share buffers.
    """

    def __init__(
        self,
        model: Any,
        *,
        max_length: int,
        batch: int = 1,
        bucket: int = 64,
        graphs: bool | None = None,
        compile_blocks: bool = False,
    ) -> None:
        """
        Args:
            max_length: the most tokens a row may have, its images and answer included. Only a limit: the cache takes
                what the rows need.
            batch: the most rows of a call.
            bucket: lengths are rounded up to multiples of it, so that one shape serves `bucket` lengths; itself a
                multiple of 8, as attention kernels want their masks.
            graphs: capture CUDA graphs; None: on CUDA.
            compile_blocks: fuse small operations inside blocks by torch.compile, see `CompiledBlocks`.

        Raises:
            ValueError: numbers out of range, or a model whose answers would be others than those of `model.generate`,
                see `check_model`.
        """
        if min(max_length, batch, bucket) < 1 or bucket % 8:
            raise ValueError(
                f"expected max_length and batch >= 1 and bucket a multiple of 8; got {max_length}, {batch}, {bucket}"
            )
        head = model.get_output_embeddings().weight
        self.graphs = head.is_cuda if graphs is None else graphs
        check_model(model, max_length, self.graphs)
        self.model, self.max_length, self.batch, self.bucket = model, max_length, batch, bucket
        self.row_lengths: tuple[int, ...] = ()  # tokens of each row of the last call, images expanded
        self._device, self._dtype = head.device, head.dtype
        self._token = torch.zeros(batch, dtype=torch.long, device=self._device)  # the next token of each row
        self._position = torch.zeros_like(self._token)  # its place
        self._columns = 0  # M of the rows at hand
        self._kv: StaticKV | None = None
        self._encoders: dict[Any, _Encoder] = {}
        self._prefills: dict[tuple[int, int], _Prefill] = {}
        self._steps: dict[tuple[int, int], Program[Tensor]] = {}
        self._vision_pool = Pool(self._device) if self.graphs else None
        self._language_pool = Pool(self._device) if self.graphs else None
        self._compiled = CompiledBlocks(model) if compile_blocks else None

    def __enter__(self) -> FastGenerator:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give the buffers back; the next call would make new ones."""
        self._encoders.clear()
        self._drop_language()
        self._kv = None

    @property
    def cache_bytes(self) -> int:
        """Bytes of the keys and values it holds between calls; 0 before the first one."""
        return 0 if self._kv is None else self._kv.nbytes()

    # ------------------------------------------------------------------------------------------------------- answering

    @torch.inference_mode()
    def __call__(
        self,
        inputs: Tensor,
        attention_mask: Tensor | None = None,
        images: Images | None = None,
        image_sizes: Sequence[tuple[int, int]] | None = None,
        *,
        max_new_tokens: int,
        pad_token_id: int | None = None,
        eos_token_id: int | Sequence[int] | None = None,
        do_sample: bool = False,
        num_beams: int = 1,
        use_cache: bool = True,
    ) -> Tensor:
        """Answer prompts, as `model.generate` does. -> new token ids [B, n], padded behind a row's end token

        Args:
            inputs, attention_mask: [B, l] ids padded on either side, and where they are real; best on the CPU.
            images, image_sizes: see `image_sequences`.
            pad_token_id, eos_token_id: None: the model's generation config.

        Raises:
            ValueError: sampling or beams; too many rows, or rows too long; no fit of images and image tokens.
        """
        check_greedy(do_sample, num_beams, use_cache, max_new_tokens)
        ends, pad = end_tokens(self.model.generation_config, eos_token_id, pad_token_id)
        self.prefill(inputs, attention_mask, images, image_sizes, max_new_tokens=max_new_tokens)
        rows = len(self.row_lengths)
        answer: list[list[int]] = []
        ended = [False] * rows
        while True:
            said = self._token[:rows].tolist()
            answer.append([pad if over else token for token, over in zip(said, ended, strict=True)])
            ended = [over or token in ends for token, over in zip(said, ended, strict=True)]
            if all(ended) or len(answer) == max_new_tokens:
                return torch.tensor(answer, device=self._device).T
            self.step()

    @torch.inference_mode()
    def prefill(
        self,
        inputs: Tensor,
        attention_mask: Tensor | None = None,
        images: Images | None = None,
        image_sizes: Sequence[tuple[int, int]] | None = None,
        *,
        max_new_tokens: int,
    ) -> Tensor:
        """Images and prompts to the first token of every answer. -> its logits [B, V] float32, good until the next call

        `max_new_tokens` - 1 calls of `step` may follow. Raises: ValueError as `__call__`.
        """
        ids = inputs.cpu()  # before the tower is given work that a copy would wait for
        mask = None if attention_mask is None else attention_mask.cpu()
        sequences: list[Tensor] = []
        if images is not None:
            sequences = self.model.image_sequences(images, image_sizes, encode=self.encode)
        rows = self.model.embed_rows(ids, mask, sequences)
        lengths = tuple(len(row) for row in rows)
        self._check_rows(lengths, max_new_tokens)
        prefill = self._prepared(len(rows), max(lengths), max_new_tokens)
        self.row_lengths = lengths
        with stage("prefill"):
            for row, place in zip(rows, prefill.embeds, strict=True):
                place[: len(row)] = row
                place[len(row) :] = 0
            prefill.last.copy_(to_device(torch.tensor(lengths) - 1, self._device))
            return prefill.run()

    @torch.inference_mode()
    def step(self) -> Tensor:
        """The token after the last one, of every row. -> its logits [B, V] float32, good until the next call"""
        rows = len(self.row_lengths)
        with stage("decode"):
            return self._steps[rows, self._columns]()

    @torch.inference_mode()
    def encode(self, images: Tensor) -> VisionTokens:
        """`model.encode_tiles`, replayed. Tiles [T, 3, S, S] -> tokens, good until the next call"""
        compressor = self.model.get_vision_tower().compressor
        key = (tuple(images.shape), images.dtype, id(compressor))
        if key not in self._encoders:
            self._encoders[key] = self._new_encoder(images, compressor)
        encoder = self._encoders[key]
        with stage("encode") if self.graphs else nullcontext():  # a replay has no stages inside
            encoder.pixels.copy_(images)
            return encoder.run()

    @torch.inference_mode()
    def warm_up(self, *, max_new_tokens: int, tiles: Iterable[int] = (), lengths: Iterable[int] = ()) -> None:
        """Do now what the first call of each shape would do: allocate, compile, capture.

        Args:
            max_new_tokens: as in the calls to come.
            tiles: numbers of tiles T that images of one call will have together.
            lengths: tokens of rows, images expanded; each with `batch` rows.
        """
        tower = self.model.get_vision_tower()
        for count in tiles:
            self.encode(
                torch.zeros(count, 3, tower.image_size, tower.image_size, dtype=self._dtype, device=tower.device)
            )
        for length in sorted(lengths, reverse=True):  # the longest first: the cache need not grow
            self._check_rows([length] * self.batch, max_new_tokens)
            prefill = self._prepared(self.batch, length, max_new_tokens)
            prefill.embeds.zero_()
            prefill.last.fill_(length - 1)
            prefill.run()
            self._steps[self.batch, self._columns]()

    # -------------------------------------------------------------------------------------------------------- programs

    def _prepared(self, rows: int, longest: int, max_new_tokens: int) -> _Prefill:
        """The programs for such rows, made where they are missing. Both now: a capture runs them on what it finds."""
        length = self._round_up(longest)
        self._columns = self._round_up(longest + max_new_tokens)
        self._reserve(self._columns)
        if (rows, self._columns) not in self._steps:
            self._steps[rows, self._columns] = self._new_step(rows, self._columns)
        if (rows, length) not in self._prefills:
            self._prefills[rows, length] = self._new_prefill(rows, length)
        return self._prefills[rows, length]

    def _new_encoder(self, images: Tensor, compressor: Any) -> _Encoder:
        pixels = torch.empty_like(images, device=self.model.get_vision_tower().device).copy_(images)
        run = self._program(f"tower, {len(images)} tiles", lambda: self.model.encode_tiles(pixels), self._vision_pool)
        return _Encoder(compressor, pixels, run)

    def _new_prefill(self, rows: int, length: int) -> _Prefill:
        embeds = torch.zeros(rows, length, self.model.config.hidden_size, dtype=self._dtype, device=self._device)
        last = torch.zeros(rows, dtype=torch.long, device=self._device)
        every = torch.arange(rows, device=self._device)
        positions = torch.arange(length, device=self._device)[None]
        cache = self._held.prefill(rows, length)

        def run() -> Tensor:
            with causal_without_mask(self.model.config):
                hidden = self._decode(embeds, positions, cache, None)
            return self._choose(hidden[every, last], last + 1)

        return _Prefill(embeds, last, self._program(f"prefill, {rows} x {length}", run, self._language_pool))

    def _new_step(self, rows: int, columns: int) -> Program[Tensor]:
        token, position = self._token[:rows], self._position[:rows]
        cache = self._held.step(rows, columns, position)
        every = torch.arange(columns, device=self._device)
        position.zero_()  # a capture counts on from here

        def run() -> Tensor:
            embeds = self.model.get_input_embeddings()(token[:, None])
            # Additive and in the model's dtype: a boolean mask would be turned into this one in every layer.
            mask = embeds.new_zeros(rows, 1, 1, columns).masked_fill(every > position[:, None, None, None], -torch.inf)
            hidden = self._decode(embeds, position[:, None], cache, mask)
            return self._choose(hidden[:, 0], position + 1)

        return self._program(f"step, {rows} rows of {columns}", run, self._language_pool)

    def _decode(self, embeds: Tensor, positions: Tensor, cache: Any, mask: Tensor | None) -> Tensor:
        """[B, n, D] -> [B, n, D]"""
        hidden: Tensor = self.model.get_model()(
            inputs_embeds=embeds, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        ).last_hidden_state
        return hidden

    def _choose(self, hidden: Tensor, position: Tensor) -> Tensor:
        """The likeliest next tokens, put where the next step finds them; hidden [B, D] -> logits [B, V]."""
        logits: Tensor = self.model.get_output_embeddings()(hidden).float()
        self._token[: len(hidden)].copy_(logits.argmax(dim=-1))
        self._position[: len(hidden)].copy_(position)
        return logits

    def _program(self, name: str, run: Callable[[], Any], pool: Pool | None) -> Program[Any]:
        return Program(name, run if self._compiled is None else self._compiled.in_use()(run), pool)

    # --------------------------------------------------------------------------------------------------------- buffers

    @property
    def _held(self) -> StaticKV:
        assert self._kv is not None, "reserved before programs are made"
        return self._kv

    def _reserve(self, columns: int) -> None:
        """A cache of at least so many columns; a larger one takes twice the place, so that growing ends soon."""
        have = 0 if self._kv is None else self._kv.columns
        if columns <= have:
            return
        self._drop_language()
        self._kv = None  # before the new one is allocated
        columns = max(columns, min(2 * have, self._round_up(self.max_length)))
        self._kv = StaticKV(self.model.config, self.batch, columns, self._dtype, self._device)

    def _drop_language(self) -> None:
        """Programs over a cache that goes, and their graphs' memory."""
        self._prefills.clear()
        self._steps.clear()
        if self.graphs:
            self._language_pool = Pool(self._device)

    def _round_up(self, length: int) -> int:
        return -(-length // self.bucket) * self.bucket

    def _check_rows(self, lengths: Sequence[int], max_new_tokens: int) -> None:
        if len(lengths) > self.batch:
            raise ValueError(f"got {len(lengths)} rows, made for batch={self.batch}")
        for index, length in enumerate(lengths):
            if length + max_new_tokens > self.max_length:
                raise ValueError(
                    f"row {index} has {length} tokens with its images and may grow by {max_new_tokens}, "
                    f"max_length is {self.max_length}; raise it, or shorten prompt or answer"
                )
