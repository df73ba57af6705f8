"""LLaVA on Mistral (v1.6-mistral)."""

from __future__ import annotations

from transformers import AutoConfig, AutoModelForCausalLM, MistralConfig, MistralForCausalLM, MistralModel

from llava.model.language_model.causal_lm import LlavaCausalLM
from llava.model.language_model.public_rope import PublicRope
from llava.model.llava_arch import LlavaMetaModel


class LlavaMistralConfig(PublicRope, MistralConfig):  # type: ignore[no-untyped-call]
    """Mistral's config plus LLaVA's `mm_*` keys, which are kept as they come."""

    model_type = "llava_mistral"


class LlavaMistralModel(LlavaMetaModel, MistralModel):  # type: ignore[no-untyped-call]
    """Mistral decoder with tower and projector."""

    config_class = LlavaMistralConfig


class LlavaMistralForCausalLM(LlavaCausalLM, MistralForCausalLM):  # type: ignore[misc, no-untyped-call]
    """Mistral causal LM that takes images."""

    config_class = LlavaMistralConfig
    decoder_class = LlavaMistralModel


AutoConfig.register(LlavaMistralConfig.model_type, LlavaMistralConfig, exist_ok=True)
AutoModelForCausalLM.register(LlavaMistralConfig, LlavaMistralForCausalLM, exist_ok=True)
