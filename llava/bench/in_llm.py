"""From a LLaVA model, token ids and images to what the methods inside the language model take, and their answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from llava.constants import IGNORE_INDEX
from llava.model.fast_limits import check_greedy, end_tokens
from llava.model.llava_arch import Images
from llava.model.splice import left_padded
from visionzip.in_llm import Pruner, generate


def spliced_inputs(
    model: Any,
    input_ids: Tensor,
    images: Images,
    image_sizes: Sequence[tuple[int, int]] | None = None,
    attention_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings [B, L, D], mask [B, L] and visual [B, L] bool, padding on the left, by the model's own splice.

    Args:
        model: a LLaVA causal LM in eval mode.
        input_ids: [B, l] with the image token in place of each image, padded on either side (attention_mask says).
        images, image_sizes: see `LlavaMetaForCausalLM.image_sequences`.

    Raises: ValueError when images and image tokens do not fit, or the model has no vision tower.
    """
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    # Splicing gives image tokens the label that is ignored, and text keeps its own: with ids as labels, it tells us
    # where the images are, whatever tower, tiling, compressor or truncation made them.
    _, _, mask, _, embeds, labels = model.prepare_inputs_labels_for_multimodal(
        input_ids, None, mask, None, input_ids, images, image_sizes=image_sizes
    )
    if embeds is None:
        raise ValueError("this model takes no images: its config has no mm_vision_tower")
    visual = (labels == IGNORE_INDEX) & mask.bool()
    embeds, moved = left_padded(embeds, mask)
    return embeds, moved, left_padded(visual[..., None], mask)[0][..., 0]


class LeanGenerator:
    """Stands in for `model.generate`, as `llava.model.fast.FastGenerator` does, by `visionzip.in_llm.generate`: the
    loop that FastV and SparseVLM need, or with no pruner the same loop over all tokens."""

    def __init__(self, model: Any, pruner: Pruner | None = None) -> None:
        self.model, self.pruner = model, pruner
        self._mask: Tensor | None = None

    @property
    def row_lengths(self) -> list[int]:
        """Tokens of each row of the last call, images expanded, before anything is pruned."""
        return [] if self._mask is None else [int(length) for length in self._mask.sum(dim=1)]

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
        do_sample: bool = False,
        num_beams: int = 1,
        use_cache: bool = True,
    ) -> Tensor:
        """Answer prompts [B, l] that hold images. -> new token ids [B, n]

        Raises: ValueError for sampling or beams, prompts without images, or what `visionzip.in_llm.prefill` refuses.
        """
        check_greedy(do_sample, num_beams, use_cache, max_new_tokens)
        if images is None:
            raise ValueError("expected images: this loop is for prompts with visual tokens; use model.generate")
        ends, pad = end_tokens(self.model.generation_config, None, pad_token_id)
        ids = inputs.to(self.model.device)
        mask = None if attention_mask is None else attention_mask.to(ids.device)
        embeds, self._mask, visual = spliced_inputs(self.model, ids, images, image_sizes, mask)
        return generate(
            self.model,
            embeds,
            self._mask,
            visual,
            self.pruner,
            max_new_tokens=max_new_tokens,
            eos_token_id=sorted(ends),
            pad_token_id=pad,
        )
