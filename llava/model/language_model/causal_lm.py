"""What every LLaVA causal LM shares, whatever decoder it is built on."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from llava.constants import IMAGE_TOKEN_INDEX
from llava.model.language_model.generation_defaults import drop_idle_sampling
from llava.model.language_model.loss import CHUNK, supervised_loss
from llava.model.llava_arch import Images, LlavaMetaForCausalLM, Prepared
from llava.model.row_attention import row_mask, row_options
from llava.model.splice import left_padded
from visionzip.core.stages import stage


class LlavaCausalLM(LlavaMetaForCausalLM):
    """Mixin in front of a transformers causal LM: builds our decoder, and takes images in `forward` and `generate`.

    A family sets `decoder_class` (its decoder with LlavaMetaModel mixed in) and `config_class`.
    """

    decoder_class: ClassVar[type[nn.Module]]
    # A device map must not cut through the tower; the decoder adds its own layer class to this.
    _no_split_modules: ClassVar[list[str]] = ["CLIPVisionTower"]

    if TYPE_CHECKING:
        model: nn.Module
        device: torch.device
        generation_config: Any

    def __init__(self, config: Any) -> None:
        config = copy.deepcopy(config)  # two models of one config object must not share what is attached to one
        # The decoder's own causal LM would first build a plain decoder: go past it.
        PreTrainedModel.__init__(self, config)  # type: ignore[arg-type]
        self.model = self.decoder_class(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()  # type: ignore[attr-defined]

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """As in transformers; released generation defaults that it refuses to write are mended first."""
        if getattr(self, "generation_config", None) is not None:
            drop_idle_sampling(self.generation_config)
        super().save_pretrained(*args, **kwargs)  # type: ignore[misc]

    def get_model(self) -> Any:
        """The decoder, which holds tower and projector."""
        return self.model

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        images: Images | None = None,
        image_sizes: Sequence[tuple[int, int]] | None = None,
        return_dict: bool | None = None,
        modalities: Sequence[str] | None = None,
        logits_to_keep: int | Tensor = 0,
        loss_only: bool = False,
        pack_length: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Logits [B, L, V] of the expanded sequence (each image token counts as all its image's tokens), and loss.

        Args:
            input_ids, labels, attention_mask: [B, l], before expansion, padded on either side.
            images, image_sizes: see `image_sequences`.
            loss_only: the output holds the loss and no logits, which are computed at supervised positions only.
            pack_length: see `prepare_packed`; rows of a batch without images are not packed.
            kwargs: go to the decoder (`num_items_in_batch` and the like).

        Raises:
            ValueError: images and image tokens do not fit, or loss_only without labels.
        """
        if inputs_embeds is None and input_ids is not None:
            given = (input_ids, position_ids, attention_mask, past_key_values, labels, images)
            options: dict[str, Any] = {"image_sizes": image_sizes, "modalities": modalities, "pack_length": pack_length}
            input_ids, position_ids, attention_mask, past_key_values, inputs_embeds, labels = self._expand(
                *given, **options
            )
        if pack_length is not None:
            use_cache = False  # with a cache transformers would not look for packed rows
            kwargs |= row_options(self.config, position_ids)
        attention_mask = row_mask(self.config, attention_mask)
        if loss_only:
            return self._loss(inputs_embeds, input_ids, attention_mask, position_ids, labels, **kwargs)
        flags = _given(
            output_attentions=output_attentions, output_hidden_states=output_hidden_states, return_dict=return_dict
        )
        with stage("decode" if inputs_embeds is None else "prefill"):
            return super().forward(  # type: ignore[misc]
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                inputs_embeds=inputs_embeds,
                labels=labels,
                use_cache=use_cache,
                logits_to_keep=logits_to_keep,
                **flags,
                **kwargs,
            )

    def _expand(
        self,
        ids: Tensor,
        positions: Tensor | None,
        mask: Tensor | None,
        past: Any,
        labels: Tensor | None,
        images: Images | None,
        pack_length: int | None,
        **more: Any,
    ) -> Prepared:
        """Token ids and images to embeddings, packed where that is asked for and there is something to pack."""
        if images is None and past is None:
            _reject_unfilled(ids)
        if images is not None and mask is None and past is None:
            mask = torch.ones_like(ids)  # images of different lengths pad rows that had none before
        if pack_length is not None and images is not None and labels is not None:
            return self.prepare_packed(ids, mask, labels, images, **more, pack_length=pack_length)
        return self.prepare_inputs_labels_for_multimodal(ids, positions, mask, past, labels, images, **more)

    def _loss(
        self,
        inputs_embeds: Tensor | None,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        labels: Tensor | None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        if labels is None:
            raise ValueError("loss_only needs labels")
        hidden = self.get_model()(
            input_ids=input_ids,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=False,
            **kwargs,
        ).last_hidden_state
        # Under ZeRO-3 every call of the head gathers it from all processes, so all must call it equally often: once.
        chunk = sys.maxsize if hasattr(self.lm_head.weight, "ds_id") else CHUNK
        loss: Any = supervised_loss(hidden, labels, self.lm_head, num_items_in_batch, chunk)
        return CausalLMOutputWithPast(loss=loss)

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        images: Images | None = None,
        image_sizes: Sequence[tuple[int, int]] | None = None,
        modalities: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Answer prompts; returns the new tokens only (they never contain the prompt).

        Args:
            inputs: [B, l] token ids, padded on either side; `attention_mask` in kwargs says where.
            images, image_sizes: see `image_sequences`.
            kwargs: as in transformers' generate. position_ids are derived from the mask.

        Raises:
            NotImplementedError: inputs_embeds are given; prompts are ids.
            ValueError: no prompt, or image tokens and images do not fit.
        """
        if "inputs_embeds" in kwargs:
            raise NotImplementedError("generate() takes token ids and images, not inputs_embeds")
        ids = kwargs.pop("input_ids", None) if inputs is None else inputs
        if ids is None:
            raise ValueError("generate() needs token ids as its first argument")
        kwargs.pop("position_ids", None)
        given = kwargs.pop("attention_mask", None)
        mask = torch.ones_like(ids) if given is None else given
        if mask.shape != ids.shape:
            raise ValueError(
                f"attention_mask must have the shape of the ids, {list(ids.shape)}; got {list(mask.shape)}"
            )
        if images is None:
            _reject_unfilled(ids)
        _, _, expanded, _, embeds, _ = self.prepare_inputs_labels_for_multimodal(
            ids, None, mask, None, None, images, image_sizes=image_sizes, modalities=modalities
        )
        if embeds is None or expanded is None:
            embeds, expanded = self.get_model().embed_tokens(ids), mask
        embeds, expanded = left_padded(embeds, expanded)
        return super().generate(inputs_embeds=embeds, attention_mask=expanded, **kwargs)  # type: ignore[misc]


def _reject_unfilled(input_ids: Tensor) -> None:
    """An image token without images would index the embedding table at -200."""
    if not torch.compiler.is_compiling() and bool((input_ids == IMAGE_TOKEN_INDEX).any()):
        raise ValueError("the prompt holds <image> but no images were given; pass images= or drop <image>")


def _given(**flags: bool | None) -> Mapping[str, bool]:
    """The flags that were set; transformers takes the rest from the config."""
    return {name: value for name, value in flags.items() if value is not None}
