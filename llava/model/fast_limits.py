"""What the fast path does not do, said before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

ATTENTION = ("sdpa", "eager")
LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope")
# Settings of a generation config under which greedy decoding does not take the likeliest token, and their idle values.
PROCESSORS = {
    "repetition_penalty": (None, 1.0),
    "no_repeat_ngram_size": (None, 0),
    "min_length": (None, 0),
    "min_new_tokens": (None, 0),
    "bad_words_ids": (None,),
    "suppress_tokens": (None,),
    "begin_suppress_tokens": (None,),
    "sequence_bias": (None,),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "exponential_decay_length_penalty": (None,),
    "guidance_scale": (None, 1.0),
}


def longest_rows(config: Any) -> int:
    """Tokens of the longest row the fast path takes: the model's context, within its sliding window if it has one."""
    window = getattr(config, "sliding_window", None)
    return int(min(config.max_position_embeddings, window or config.max_position_embeddings))


def check_decoding(model: Any) -> None:
    """Raises: ValueError naming why greedy decoding by one's own loop would give other answers than `generate`."""
    if model.training:
        raise ValueError("the model is in training mode; call model.eval() first")
    rope = (getattr(model.config, "rope_parameters", None) or {}).get("rope_type")
    if rope in LENGTH_DEPENDENT_ROPE:
        raise ValueError(f"rope_type {rope!r} depends on the length of the row at every step; use model.generate")
    for name, idle in PROCESSORS.items():
        value = getattr(model.generation_config, name, None)
        if value not in idle:
            raise ValueError(f"generation_config.{name} is {value!r}: not plain greedy decoding; use model.generate")


def check_model(model: Any, max_length: int, graphs: bool) -> None:
    """Raises: ValueError naming what in model or configs makes static shapes impossible, or see `check_decoding`."""
    check_decoding(model)
    config = model.config
    if config._attn_implementation not in ATTENTION:
        raise ValueError(
            f"the fast path needs attn_implementation {' or '.join(ATTENTION)}, got {config._attn_implementation!r}; "
            "sdpa uses a flash kernel where it can"
        )
    window = getattr(config, "sliding_window", None)
    if window is not None and max_length > window:
        raise ValueError(
            f"max_length {max_length} is beyond the model's sliding window of {window}; use model.generate"
        )
    devices = {str(parameter.device) for parameter in model.parameters()}
    if len(devices) > 1:
        raise ValueError(f"the fast path needs the whole model on one device, it is on {', '.join(sorted(devices))}")
    if graphs and (layer := _in_8_bit(model)) is not None:
        raise ValueError(
            f"{layer} is in 8 bit (bitsandbytes Linear8bitLt): it waits for the device to say if there are outliers, "
            "and a captured graph cannot wait; use model.generate (without --fast), FastGenerator(graphs=False), or "
            "load the model without load_8bit"
        )
    if graphs and not model.get_output_embeddings().weight.is_cuda:
        raise ValueError(f"graphs need a CUDA device, the model is on {devices.pop()}")


def _in_8_bit(model: Any) -> str | None:
    """The first such layer's name. By the class's name: bitsandbytes is not installed everywhere."""
    return next((name for name, module in model.named_modules() if type(module).__name__ == "Linear8bitLt"), None)


def check_greedy(do_sample: bool, num_beams: int, use_cache: bool, max_new_tokens: int) -> None:
    """Raises: ValueError for arguments that are not greedy decoding of at least one token with a cache."""
    if do_sample or num_beams != 1 or not use_cache:
        raise ValueError(
            f"the fast path decodes greedily with a cache; got do_sample={do_sample}, num_beams={num_beams}, "
            f"use_cache={use_cache}: use model.generate (without --fast) for this"
        )
    if max_new_tokens < 1:
        raise ValueError(f"expected max_new_tokens >= 1, got {max_new_tokens}")


def end_tokens(generation_config: Any, eos: int | Sequence[int] | None, pad: int | None) -> tuple[frozenset[int], int]:
    """(ids that end a row, id behind the end), from the arguments, else from the config, as transformers has it."""
    eos = generation_config.eos_token_id if eos is None else eos
    ends = [] if eos is None else [eos] if isinstance(eos, int) else list(eos)
    pad = generation_config.pad_token_id if pad is None else pad
    return frozenset(ends), pad if pad is not None else ends[0] if ends else 0
