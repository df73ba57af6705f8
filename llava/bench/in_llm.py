"""From a LLaVA model, token ids and images to what the methods inside the language model take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from llava.constants import IGNORE_INDEX
from llava.model.llava_arch import Images
from llava.model.splice import left_padded


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
