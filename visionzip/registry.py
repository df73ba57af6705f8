"""Method names as they stand in a model's config, and the way back from config to compressor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from visionzip.core.compressor import VisionZip
from visionzip.core.types import Compressor
from visionzip.methods.downsample import Downsample
from visionzip.methods.pool import Pool
from visionzip.methods.random import Random
from visionzip.methods.uniform import Uniform

# Every entry is a frozen dataclass; the keys of its config are "method" and its field names.
METHODS: dict[str, type[Any]] = {
    "visionzip": VisionZip,
    "random": Random,
    "uniform": Uniform,
    "pool": Pool,
    "downsample": Downsample,
}


def from_config(config: Mapping[str, Any]) -> Compressor:
    """The compressor that `Compressor.to_config` described.

    Raises: ValueError for no mapping, an unknown method, and unknown, missing or wrong keys, listing what is known.

    >>> from_config({"method": "uniform", "tokens": 64})
    Uniform(tokens=64)
    """
    if not isinstance(config, Mapping):
        raise ValueError(f"compressor config must be a mapping with the key 'method', got {config!r}")
    method = config.get("method")
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f"compressor config: unknown method {method!r}; known methods: {', '.join(METHODS)}")
    cls = METHODS[method]
    known = {field.name: field.default is MISSING for field in fields(cls)}
    given = {key: value for key, value in config.items() if key != "method"}
    unknown = [str(key) for key in given if key not in known]
    missing = [name for name, required in known.items() if required and name not in given]
    if unknown or missing:
        found = " and ".join(
            f"{what} {', '.join(keys)}" for what, keys in (("unknown key", unknown), ("missing key", missing)) if keys
        )
        raise ValueError(f"compressor config of method {method!r}: {found}; its keys are {', '.join(known)}")
    compressor: Compressor = cls(**given)
    return compressor
