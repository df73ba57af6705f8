"""Generation defaults as released."""

from __future__ import annotations

from transformers import GenerationConfig

SAMPLING_KEYS = ("temperature", "top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")


def drop_idle_sampling(config: GenerationConfig) -> None:
    """Take sampling options off a config that does not sample: they have no effect, and transformers 5 refuses to save
    such a pair. Vicuna and the released LLaVA checkpoints have one (a temperature, do_sample false)."""
    if not config.do_sample:
        for key in SAMPLING_KEYS:
            if getattr(config, key, None) is not None:
                setattr(config, key, None)
