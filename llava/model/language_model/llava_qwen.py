"""LLaVA on Qwen2 (LLaVA-NeXT and later)."""

from __future__ import annotations

from transformers import AutoConfig, AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen2Model

from llava.model.language_model.causal_lm import LlavaCausalLM
from llava.model.language_model.public_rope import PublicRope
from llava.model.llava_arch import LlavaMetaModel


class LlavaQwenConfig(PublicRope, Qwen2Config):  # type: ignore[no-untyped-call]
    """Qwen2's config plus LLaVA's `mm_*` keys, which are kept as they come."""

    model_type = "llava_qwen"


class LlavaQwenModel(LlavaMetaModel, Qwen2Model):  # type: ignore[no-untyped-call]
    """Qwen2 decoder with tower and projector."""

    config_class = LlavaQwenConfig


class LlavaQwenForCausalLM(LlavaCausalLM, Qwen2ForCausalLM):  # type: ignore[misc, no-untyped-call]
    """Qwen2 causal LM that takes images."""

    config_class = LlavaQwenConfig
    decoder_class = LlavaQwenModel


AutoConfig.register(LlavaQwenConfig.model_type, LlavaQwenConfig, exist_ok=True)
AutoModelForCausalLM.register(LlavaQwenConfig, LlavaQwenForCausalLM, exist_ok=True)
