"""LLaVA on Llama and Vicuna (v1.5, v1.6-vicuna, v1.6-34b)."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, LlamaModel

from llava.model.language_model.causal_lm import LlavaCausalLM
from llava.model.language_model.public_rope import PublicRope
from llava.model.llava_arch import LlavaMetaModel


class LlavaConfig(PublicRope, LlamaConfig):  # type: ignore[no-untyped-call]
    """Llama's config plus LLaVA's `mm_*` keys, which are kept as they come."""

    model_type = "llava_llama"

    @classmethod
    def get_config_dict(cls, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read a config as a dict. Released checkpoints say `llava`, a name transformers uses for its own layout.

        Raises:
            ValueError: the config is in that other layout (text_config, vision_config).
        """
        config, unused = super().get_config_dict(*args, **kwargs)
        if config.get("model_type") in ("llava", "llava_next"):
            if "text_config" in config:
                raise ValueError(
                    f"This config.json is in the Hugging Face layout ({config.get('architectures')}), not in LLaVA's. "
                    "Load it with transformers, or use the original checkpoint (liuhaotian/llava-v1.5-7b)"
                )
            config = config | {"model_type": cls.model_type}
        return config, unused


class LlavaLlamaModel(LlavaMetaModel, LlamaModel):  # type: ignore[no-untyped-call]
    """Llama decoder with tower and projector."""

    config_class = LlavaConfig


class LlavaLlamaForCausalLM(LlavaCausalLM, LlamaForCausalLM):  # type: ignore[misc, no-untyped-call]
    """Llama causal LM that takes images."""

    config_class = LlavaConfig
    decoder_class = LlavaLlamaModel


AutoConfig.register(LlavaConfig.model_type, LlavaConfig, exist_ok=True)
AutoModelForCausalLM.register(LlavaConfig, LlavaLlamaForCausalLM, exist_ok=True)
