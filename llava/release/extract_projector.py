"""The projector alone, out of whatever holds one: a full checkpoint, a projector run or a LoRA run."""

import logging
from pathlib import Path

from llava.model.checkpoint import (
    ADAPTER_CONFIG,
    PROJECTOR_FILE,
    State,
    load_non_lora,
    load_projector,
    projector_state,
    read_json,
    save_projector,
)
from llava.model.sources import VISION_KEY, locate
from llava.model.weight_files import find_weights, read_weights
from llava.release.folders import CONFIG, RUN, copy_files, new_folder
from llava.release.names import is_hf_layout
from llava.release.shards import save_safetensors

logger = logging.getLogger(__name__)

SAFE_FILE = "mm_projector.safetensors"


def extract_projector(source: str, out: Path) -> Path:
    """Write mm_projector.bin (public layout), the same tensors as safetensors, config.json and a run's run.json.

    Args:
        source: folder or hub id. Weights keep their bits and their dtype.
        out: a new folder.

    Raises:
        ValueError: `source` holds no projector, no config that names a tower, or is in transformers' own layout.
    """
    folder = locate(source, "source")
    config = read_json(folder / CONFIG)
    if is_hf_layout(config):
        raise ValueError(f"{folder} is in transformers' layout: convert it first (python -m llava.release from-hf)")
    if not config.get(VISION_KEY):
        raise ValueError(f"{folder / CONFIG} names no {VISION_KEY}: it is no LLaVA checkpoint, so it has no projector")
    held = projector_state(_held(folder))
    if not held:
        raise ValueError(f"{folder} holds no weights with 'mm_projector.' in their names")
    state = {f"model.mm_projector.{key}": value for key, value in held.items()}
    with new_folder(out) as staging:
        save_projector(state, staging / PROJECTOR_FILE)
        save_safetensors(state, staging / SAFE_FILE)
        copy_files(folder, staging, (CONFIG, RUN))
    logger.info("%s: %d tensors of the projector of %s", out, len(state), folder)
    return out


def _held(folder: Path) -> State:
    if (folder / ADAPTER_CONFIG).is_file():
        return load_non_lora(folder)
    if (folder / PROJECTOR_FILE).is_file() and find_weights(folder) is None:
        return load_projector(folder)
    return read_weights(folder)
