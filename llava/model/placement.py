"""Where a model goes and in which precision: the loader's old keywords, translated once.

`load_8bit`, `load_4bit`, `device` and `torch_dtype` are the public LLaVA loader's words; transformers 5 wants a
quantization config, a device map and `dtype`.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import BitsAndBytesConfig

__all__ = ["Placement", "as_dtype", "default_dtype", "place"]

logger = logging.getLogger(__name__)

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
# Never quantized: the projector is small and decisive, the tower's features choose the tokens, the head the words.
# Full names: transformers matches them from the start of a module's name.
UNQUANTIZED = ["model.mm_projector", "model.vision_tower", "lm_head"]
STRATEGIES = ("auto", "balanced", "balanced_low_0", "sequential")
DeviceMap = str | Mapping[str, Any]


@dataclass(frozen=True)
class Placement:
    """device_map: None on the CPU (no accelerate hooks: the model stays picklable), else transformers' device map."""

    device_map: DeviceMap | None
    dtype: torch.dtype
    quantization: BitsAndBytesConfig | None


def place(
    device_map: DeviceMap | torch.device | int | None,
    device: str | torch.device,
    dtype: str | torch.dtype | None,
    load_8bit: bool = False,
    load_4bit: bool = False,
) -> Placement:
    """Turn the loader's arguments into a placement.

    `device` other than plain "cuda" wins over the map, as in LLaVA. "auto" without a GPU means the CPU, with a warning.
    dtype None: see `default_dtype`.

    Raises:
        ValueError: a GPU is asked for by name and there is none; both quantizations; an unknown dtype.
    """
    if load_8bit and load_4bit:
        raise ValueError("load_8bit and load_4bit exclude each other; pass one of them")
    target = _device_map(device_map, str(device))
    precision = as_dtype(dtype) or default_dtype(target is None)
    return Placement(target, precision, quantization(load_8bit, load_4bit, precision))


def as_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """A torch dtype from its name; None stays None.

    Raises:
        ValueError: not one of float16, bfloat16, float32.
    """
    if dtype is None:
        return None
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is unknown; expected one of {', '.join(DTYPES)}")
    return DTYPES[name]


def default_dtype(on_cpu: bool) -> torch.dtype:
    """What a model is loaded in where nobody says."""
    return torch.float32 if on_cpu else torch.float16


def _device_map(device_map: DeviceMap | torch.device | int | None, device: str) -> DeviceMap | None:
    asked = _by_module(device_map if device == "cuda" else device)
    kinds = {"auto"} if isinstance(asked, str) else {_kind(place) for place in asked.values()}
    if kinds == {"cpu"}:
        return None
    if torch.cuda.is_available() or not kinds & {"cuda", "auto"}:
        return asked
    if isinstance(asked, str):
        logger.warning("device_map=%r: no CUDA device on this machine, loading on the CPU", asked)
        return None
    named = ", ".join(sorted({str(place) for place in asked.values() if _kind(place) == "cuda"}))
    raise ValueError(
        f"device {named} is asked for, but this machine has no CUDA device that torch {torch.__version__} can use. "
        f'Pass device="cpu" (or device_map="auto", which takes what there is).'
    )


def _by_module(device_map: DeviceMap | torch.device | int | None) -> DeviceMap:
    """A strategy name or a map of module -> place; one device alone becomes a map of the whole model."""
    if device_map is None:
        return {"": "cuda"}
    if isinstance(device_map, Mapping) or device_map in STRATEGIES:
        return device_map
    return {"": device_map if isinstance(device_map, int) else str(device_map)}


def _kind(place: Any) -> str:
    return "cuda" if isinstance(place, int) else str(place).split(":", 1)[0]


def quantization(load_8bit: bool, load_4bit: bool, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """How bitsandbytes quantises the language model (nf4 twice quantised for 4 bit); None for neither."""
    if not (load_8bit or load_4bit):
        return None
    bits: dict[str, Any] = {"load_in_8bit": True}
    if load_4bit:
        bits = {
            "load_in_4bit": True,
            "bnb_4bit_compute_dtype": dtype,
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_quant_type": "nf4",
        }
    return BitsAndBytesConfig(**bits, llm_int8_skip_modules=UNQUANTIZED)  # type: ignore[no-untyped-call]
