"""Image processor and processor of an export: the picture in the same pixels, and as many placeholders as features."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import CLIPImageProcessorPil, LlavaNextProcessor, LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from llava.release.hf_config import STRATEGIES
from llava.release.hf_tokenizer import mend_tokenizer_config
from llava.release.tower import plain_size

PREPROCESSOR = "preprocessor_config.json"
# The CLS token, which CLIP puts in front of its patches and the "default" strategy takes away again.
CLS_TOKENS = 1


def write_processor(
    folder: Path,
    tower: Path,
    values: Mapping[str, Any],
    exported: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerFast,
    template: str,
) -> None:
    """Write processor, image processor, chat template and tokenizer files.

    Args:
        folder: of the export.
        tower: folder whose preprocessor config the tower was trained with.
        values: LLaVA's config.json.
        exported: the config.json of the export.
    """
    clip = CLIPImageProcessorPil.from_pretrained(str(tower))
    pixels: dict[str, Any] = {
        "size": plain_size(clip.size),
        "crop_size": plain_size(clip.crop_size),
        "image_mean": list(clip.image_mean),
        "image_std": list(clip.image_std),
        "resample": clip.resample,
    }
    is_next = exported["model_type"] == "llava_next"
    if is_next:
        images: Any = LlavaNextImageProcessorPil(**pixels, image_grid_pinpoints=exported["image_grid_pinpoints"])
    else:
        images = LlavaImageProcessorPil(**pixels, do_pad=values.get("image_aspect_ratio") == "pad")
    processor = (LlavaNextProcessor if is_next else LlavaProcessor)(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=exported["vision_config"]["patch_size"],
        vision_feature_select_strategy=STRATEGIES[values.get("mm_vision_select_feature") or "patch"],
        num_additional_image_tokens=CLS_TOKENS,
        chat_template=template,
    )
    processor.save_pretrained(str(folder))
    images.save_pretrained(str(folder))  # preprocessor_config.json, where transformers 4 looks
    mend_tokenizer_config(folder)
