"""The path of an image into the language model, in order: encode, project, pack, splice.

This file is the table of contents. Its methods read the config and call one function per step; the tensor work is in
multimodal_encoder, multimodal_projector, packing and splice.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import initialization as init

from llava.anyres import is_tiled
from llava.constants import (
    DEFAULT_IM_END_TOKEN,
    DEFAULT_IM_START_TOKEN,
    DEFAULT_IMAGE_PATCH_TOKEN,
    IMAGE_TOKEN_INDEX,
)
from llava.encoded import EncodedImages
from llava.model.checkpoint import load_projector, projector_state, require_fit
from llava.model.image_layout import check_images, merge_type, tile_grid
from llava.model.language_model.token_rows import copy_rows, fill_with_mean
from llava.model.multimodal_encoder.builder import build_vision_tower, resolve_vision_tower
from llava.model.multimodal_encoder.clip_encoder import CLIPVisionTower
from llava.model.multimodal_projector.builder import build_vision_projector, project
from llava.model.packing import Order, pack_tiles, unpad_image
from llava.model.row_attention import attends_by_row
from llava.model.row_packing import pack_rows
from llava.model.splice import Batch, Side, TextRow, splice_batch, splice_rows
from llava.model.transfer import to_device
from visionzip.core.stages import stage
from visionzip.core.types import VisionTokens

__all__ = ["LlavaMetaForCausalLM", "LlavaMetaModel", "merge_type", "unpad_image"]

Images = Tensor | Sequence[Tensor] | EncodedImages
Prepared = tuple[Tensor | None, Tensor | None, Tensor | None, Any, Tensor | None, Tensor | None]


class LlavaMetaModel:
    """What LLaVA adds to a decoder: `vision_tower`, `mm_projector` and, for `unpad` merge types, `image_newline`."""

    if TYPE_CHECKING:  # given by the decoder class
        config: Any
        dtype: torch.dtype
        vision_tower: CLIPVisionTower | list[CLIPVisionTower]
        mm_projector: nn.Module
        image_newline: nn.Parameter

    def __init__(self, config: Any) -> None:
        super().__init__(config)  # type: ignore[call-arg]
        if getattr(config, "mm_vision_tower", None):
            self.vision_tower = build_vision_tower(config, delay_load=True)
            self.mm_projector = build_vision_projector(config)
            if "unpad" in merge_type(config):
                self.image_newline = nn.Parameter(_new_newline(config))

    def _init_weights(self, module: nn.Module) -> None:
        """transformers calls this for modules a checkpoint left without weights."""
        super()._init_weights(module)  # type: ignore[misc]
        if isinstance(module, LlavaMetaModel) and hasattr(module, "image_newline"):
            init.normal_(module.image_newline, std=module.config.hidden_size**-0.5)

    def get_vision_tower(self) -> CLIPVisionTower | None:
        """The tower, or None for a model without one. Under FSDP it hides in a list of one."""
        tower = getattr(self, "vision_tower", None)
        return tower[0] if isinstance(tower, list) else tower

    def initialize_vision_modules(self, model_args: Any, fsdp: Sequence[str] | None = None) -> None:
        """Give a (text) model its tower and projector before training, and write the choice into the config.

        Args:
            model_args: vision_tower, mm_vision_select_layer, mm_vision_select_feature, mm_projector_type,
                mm_patch_merge_type, pretrain_mm_mlp_adapter (path of an mm_projector.bin, or None).
            fsdp: non-empty when FSDP wraps the model; the tower is then kept out of its sight.
        """
        config = self.config
        config.mm_vision_tower = model_args.vision_tower
        config.mm_vision_select_layer = model_args.mm_vision_select_layer
        config.mm_vision_select_feature = model_args.mm_vision_select_feature
        config.mm_patch_merge_type = model_args.mm_patch_merge_type
        config.use_mm_proj = True
        config.mm_projector_type = getattr(model_args, "mm_projector_type", "linear")

        tower = self._loaded_tower(config)
        self.vision_tower = [tower] if fsdp else tower
        config.mm_hidden_size = tower.hidden_size
        if getattr(self, "mm_projector", None) is None:
            self.mm_projector = build_vision_projector(config)
        self.mm_projector.requires_grad_(True)
        if "unpad" in merge_type(config) and getattr(self, "image_newline", None) is None:
            self.image_newline = nn.Parameter(_new_newline(config).to(self.dtype))
        adapter = getattr(model_args, "pretrain_mm_mlp_adapter", None)
        if adapter is not None:
            self._load_projector(str(adapter))

    def _load_projector(self, path: str) -> None:
        """Fill the projector from an mm_projector.bin. Raises: ValueError naming file and keys that do not fit."""
        stored, own = projector_state(load_projector(path)), self.mm_projector.state_dict()
        shapes = [(key, stored[key].shape, own[key].shape) for key in stored.keys() & own.keys()]
        require_fit(path, own.keys() - stored.keys(), stored.keys() - own.keys(), [s for s in shapes if s[1] != s[2]])
        self.mm_projector.load_state_dict(stored)

    def _loaded_tower(self, config: Any) -> CLIPVisionTower:
        """The present tower if it is the one the config names, else a new one; loaded, with the config's selection."""
        tower = self.get_vision_tower()
        source = resolve_vision_tower(config.mm_vision_tower, getattr(config, "_name_or_path", None))
        if tower is None or tower.vision_tower_name != source:
            return build_vision_tower(config)
        tower.select_layer, tower.select_feature = config.mm_vision_select_layer, config.mm_vision_select_feature
        tower.load_model()
        return tower


class LlavaMetaForCausalLM:
    """What LLaVA adds to a causal LM: from images and token ids to input embeddings."""

    if TYPE_CHECKING:  # given by the causal LM class
        config: Any
        training: bool
        get_input_embeddings: Callable[[], nn.Embedding]
        get_output_embeddings: Callable[[], nn.Linear]
        resize_token_embeddings: Callable[..., nn.Module]

    def get_model(self) -> Any:
        """The decoder, which holds tower and projector."""
        raise NotImplementedError(f"{type(self).__name__} must return its decoder from get_model()")

    def get_vision_tower(self) -> CLIPVisionTower | None:
        """The tower, or None."""
        tower: CLIPVisionTower | None = self.get_model().get_vision_tower()
        return tower

    def encode_images(self, images: Tensor) -> Tensor:
        """Tiles [T, 3, S, S] to projected tokens [T, K, D]; K is the dense grid or the compressor's budget."""
        return self.encode_tiles(images).features

    def encode_tiles(self, images: Tensor) -> VisionTokens:
        """`encode_images` with the places of the tokens. No step of it waits for the device."""
        tower = self.get_vision_tower()
        if tower is None:
            raise ValueError("This model has no vision tower: its config has no mm_vision_tower")
        return self._project(tower.encode(images))

    def _project(self, tokens: VisionTokens) -> VisionTokens:
        with stage("project"):
            features = project(self.get_model().mm_projector, tokens.features)
        return dataclasses.replace(tokens, features=features, positions=tokens.positions.to(features.device))

    def image_sequences(
        self,
        images: Images,
        image_sizes: Sequence[tuple[int, int]] | None = None,
        *,
        encode: Callable[[Tensor], VisionTokens] | None = None,
    ) -> list[Tensor]:
        """Encode, project and pack: one sequence [K', D] per image.

        Args:
            images: a batch [n, 3, S, S], one tile per image and no packing; or a list (or 5-D tensor) of images
                [3, S, S] or [1 + tiles, 3, S, S], overview first; or what the tower made of them before.
            image_sizes: (W, H) of every picture before tiling; needed by the spatial merge types for tiled images.
            encode: called instead of `encode_tiles`; it must give the same (a captured graph of it does).

        Raises:
            ValueError: images are no such tensors, or image_sizes no such pairs.
        """
        encode = encode or self.encode_tiles
        dense = False
        if isinstance(images, dict):
            tokens = self._project(VisionTokens(images["features"], images["positions"], images["has_cls"]))
            counts = images["tiles"].tolist()
            if not is_tiled(getattr(self.config, "image_aspect_ratio", None)):
                return list(tokens.features)  # one tile per image and no packing, as for pixels
        else:
            check_images(images, image_sizes)
            if isinstance(images, Tensor) and images.dim() == 4:
                return list(encode(images).features)
            tiled = [image if image.dim() == 4 else image[None] for image in images]  # [T_i, 3, S, S]
            if not tiled:
                return []
            tokens = encode(torch.cat(tiled))
            counts = [len(tiles) for tiles in tiled]
            tower = self.get_vision_tower()
            dense = tower is not None and tower.compressor is None
        return self._pack(tokens, counts, image_sizes, dense)

    def _pack(
        self, tokens: VisionTokens, counts: list[int], image_sizes: Sequence[tuple[int, int]] | None, dense: bool
    ) -> list[Tensor]:
        per_image = zip(torch.split(tokens.features, counts), torch.split(tokens.positions, counts), strict=True)
        with stage("pack"):
            return [
                pack_tiles(
                    dataclasses.replace(tokens, features=features, positions=positions),
                    tile_grid(self.config, self.get_vision_tower(), index, len(features), image_sizes),
                    merge_type=merge_type(self.config),
                    order=self._order(),
                    newline=getattr(self.get_model(), "image_newline", None),
                    dense=dense,
                )
                for index, (features, positions) in enumerate(per_image)
            ]

    def _order(self) -> Order:
        """Order of packed tokens: a dense grid is always spatial, compressed tokens as the config says."""
        tower = self.get_vision_tower()
        if tower is None or tower.compressor is None:
            return "spatial"
        return getattr(self.config, "mm_compressed_order", None) or "official"

    def prepare_inputs_labels_for_multimodal(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None,
        attention_mask: Tensor | None,
        past_key_values: Any,
        labels: Tensor | None,
        images: Images | None,
        image_sizes: Sequence[tuple[int, int]] | None = None,
        modalities: Sequence[str] | None = None,
    ) -> Prepared:
        """Replace image tokens by image features.

        Returns:
            (input_ids, position_ids, attention_mask, past_key_values, inputs_embeds, labels). Without a tower or
            images, and at a decoding step (one text token), the arguments come back and inputs_embeds is None;
            else input_ids is None and the rest has the expanded length. What came in as None goes out as None.

        Raises:
            ValueError: images and image tokens do not fit, or truncation leaves a training row without labels.
            NotImplementedError: a modality other than image or text; projector-only training with start/end tokens.
        """
        fresh = past_key_values is None and labels is not None  # a training row of one token is no decoding step
        decoding = not fresh and input_ids.shape[1] == 1 and not bool((input_ids == IMAGE_TOKEN_INDEX).any())
        if self.get_vision_tower() is None or images is None or decoding:
            return input_ids, position_ids, attention_mask, past_key_values, None, labels
        batch = self._spliced(input_ids, attention_mask, labels, images, image_sizes, modalities)
        return (
            None,
            None if position_ids is None else batch.position_ids,
            None if attention_mask is None else batch.mask.to(attention_mask.dtype),
            past_key_values,
            batch.embeds,
            None if labels is None else batch.labels,
        )

    def prepare_packed(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        labels: Tensor,
        images: Images,
        image_sizes: Sequence[tuple[int, int]] | None = None,
        modalities: Sequence[str] | None = None,
        *,
        pack_length: int,
    ) -> Prepared:
        """The same for training, its rows together in packs of `pack_length` tokens instead of padded.

        Position ids are always returned, and no mask: see `llava.model.row_packing`.
        """
        arrange = functools.partial(pack_rows, capacity=self._capacity(pack_length))
        batch = self._spliced(input_ids, attention_mask, labels, images, image_sizes, modalities, arrange)
        return None, batch.position_ids, None, None, batch.embeds, batch.labels

    def _spliced(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        labels: Tensor | None,
        images: Images,
        image_sizes: Sequence[tuple[int, int]] | None,
        modalities: Sequence[str] | None,
        arrange: Callable[[Sequence[TextRow]], Batch] | None = None,
    ) -> Batch:
        self._check_supported(modalities)
        sequences = self.image_sequences(images, image_sizes)
        with stage("splice"):
            return splice_batch(
                input_ids,
                sequences,
                self._embed_text,
                mask=attention_mask,
                labels=labels,
                side=self._padding_side(),
                max_length=self._longest_row(),
                training=self.training and labels is not None,
                arrange=arrange,
            )

    def embed_rows(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, sequences: Sequence[Tensor] = ()
    ) -> list[Tensor]:
        """Input embeddings [L, D] of every row without padding, image tokens replaced by `sequences` in their order.

        Args:
            input_ids, attention_mask: [B, l]; on the CPU nothing here waits for the device.
            sequences: what `image_sequences` gave.

        Raises:
            ValueError: image tokens and sequences do not fit.
        """
        limit = self._longest_row()
        with stage("splice"):
            rows = splice_rows(input_ids, sequences, self._embed_text, mask=attention_mask, max_length=limit)
        return [row.embeds for row in rows]

    def _embed_text(self, ids: Tensor) -> Tensor:
        table = self.get_model().embed_tokens
        embeds: Tensor = table(to_device(ids, table.weight.device))
        return embeds

    def _longest_row(self) -> int | None:
        return getattr(self.config, "tokenizer_model_max_length", None)

    def _padding_side(self) -> Side:
        return getattr(self.config, "tokenizer_padding_side", None) or "right"

    def _capacity(self, pack_length: int) -> int:
        """Tokens of a pack: one pack holds all rows where attention does no work between them."""
        return sys.maxsize if attends_by_row(self.config) else pack_length

    def _check_supported(self, modalities: Sequence[str] | None) -> None:
        unknown = sorted(set([modalities] if isinstance(modalities, str) else modalities or ()) - {"image", "text"})
        if unknown:
            raise NotImplementedError(f"modalities {unknown} are not supported; known: image, text")
        config = self.config
        if getattr(config, "tune_mm_mlp_adapter", False) and getattr(config, "mm_use_im_start_end", False):
            raise NotImplementedError("tune_mm_mlp_adapter cannot be combined with mm_use_im_start_end")

    def initialize_vision_tokenizer(self, model_args: Any, tokenizer: Any) -> None:
        """Add the image marker tokens the arguments ask for; new embedding rows are the mean of the old ones.

        Args:
            model_args: mm_use_im_patch_token, mm_use_im_start_end, tune_mm_mlp_adapter, pretrain_mm_mlp_adapter.
            tokenizer: gets the tokens.
        """
        markers: list[str] = []
        if model_args.mm_use_im_patch_token:
            markers.append(DEFAULT_IMAGE_PATCH_TOKEN)
        if model_args.mm_use_im_start_end:
            markers += [DEFAULT_IM_START_TOKEN, DEFAULT_IM_END_TOKEN]
        if not markers:
            return
        before = len(tokenizer)
        tokenizer.add_tokens(markers, special_tokens=True)
        inputs, outputs = self.get_input_embeddings(), self.get_output_embeddings()
        if len(tokenizer) > inputs.num_embeddings:
            self.resize_token_embeddings(len(tokenizer), mean_resizing=False)
            inputs, outputs = self.get_input_embeddings(), self.get_output_embeddings()
        for table in (inputs, outputs):
            fill_with_mean(table, before, len(tokenizer))
        if model_args.tune_mm_mlp_adapter:
            inputs.requires_grad_(bool(model_args.mm_use_im_start_end))
            outputs.requires_grad_(False)
        if model_args.mm_use_im_start_end and model_args.pretrain_mm_mlp_adapter:
            stored = load_projector(model_args.pretrain_mm_mlp_adapter)
            if "model.embed_tokens.weight" not in stored:
                raise ValueError(
                    f"{model_args.pretrain_mm_mlp_adapter} holds no embeddings of <im_start> and <im_end>: it was "
                    "trained without mm_use_im_start_end, so train on without it as well"
                )
            copy_rows(inputs, stored["model.embed_tokens.weight"], before, len(tokenizer))


def _new_newline(config: Any) -> Tensor:
    width = int(config.hidden_size)
    return torch.randn(width) / math.sqrt(width)
