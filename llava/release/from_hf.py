"""A checkpoint in transformers' own LLaVA format, back in LLaVA's layout.

An export of ours comes back as it was: weights bit for bit, config.json, tokenizer files. A folder of others' making
(llava-hf, or transformers' own save_pretrained) is told from its config; its tower goes to a folder beside the output,
because LLaVA's layout reads config and preprocessing of a tower from a place of its own.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoImageProcessor, CLIPVisionConfig

from llava.model.checkpoint import State
from llava.model.multimodal_encoder.builder import resolve_vision_tower
from llava.model.sources import VISION_KEY, locate
from llava.model.weight_files import read_json, read_weights
from llava.release import SHARD_GB
from llava.release.folders import (
    CONFIG,
    GENERATION,
    RUN,
    TOKENIZER_FILES,
    copy_files,
    new_folder,
    require_free,
    write_json,
)
from llava.release.hf_config import LAYOUT_KEY, TOWER_KEY, family_of_text, from_hf_config
from llava.release.names import EMBEDDING, FROM_HF, TOWER, is_hf_layout, renamed
from llava.release.origin import write_origin
from llava.release.shards import write_weights
from llava.release.to_hf import TOKENIZER_FOLDER
from llava.release.tower import tower_digest, write_tower
from llava.release.vocabulary_rows import cut

logger = logging.getLogger(__name__)


def from_hf(source: str, out: Path, shard_gb: float = SHARD_GB) -> Path:
    """Write a llava or llava_next checkpoint of transformers in LLaVA's layout.

    A tower that is not where the config names it, or is not the one named, is written to `<out>-vision-tower`.

    Raises:
        ValueError: not in that format, a family LLaVA is not built on here, or weights of unknown names.
    """
    folder = locate(source, "source")
    config = read_json(folder / CONFIG)
    if not is_hf_layout(config) or config.get("model_type") not in {"llava", "llava_next"}:
        raise ValueError(
            f"{folder / CONFIG} is no llava or llava_next config of transformers (model_type "
            f"{config.get('model_type')!r}, {'with' if is_hf_layout(config) else 'without'} text_config)"
        )
    family = family_of_text(config, folder)
    state = renamed(read_weights(folder), FROM_HF, str(folder))
    ours = LAYOUT_KEY in config
    if ours:
        state = cut(state, int(config[LAYOUT_KEY]["vocab_size"]))
    values = from_hf_config(config, family, len(state[EMBEDDING]))
    tower = out.with_name(f"{out.name}-vision-tower")
    if ours and _tower_is_known(config, state, out):
        _write(folder, out, _part(state, config[TOWER_KEY]["inside"]), values, shard_gb, ours)
        return out
    require_free(out)
    load: Any = AutoImageProcessor.from_pretrained
    images = load(str(folder))
    if not ours and getattr(images, "do_pad", False) and config["model_type"] == "llava":
        values["image_aspect_ratio"] = "pad"
    with new_folder(tower) as staging:
        write_tower(state, CLIPVisionConfig.from_dict(config["vision_config"]).to_dict(), images, staging)
    values |= {VISION_KEY: tower.name, "unfreeze_mm_vision_tower": False}
    _write(folder, out, _part(state, inside=False), values, shard_gb, ours)
    logger.info("%s: its tower lies beside it, in %s", out, tower)
    return out


def _tower_is_known(config: Mapping[str, Any], state: State, out: Path) -> bool:
    """Whether an export's tower is still the one it was made with, and lies where its config says."""
    if config[TOWER_KEY]["sha256"] != tower_digest(state):
        return False
    named = str(config[LAYOUT_KEY][VISION_KEY])
    if (out.absolute().parent / Path(named).name).is_dir():
        return True
    try:
        resolve_vision_tower(named)
    except ValueError:
        return False
    return True


def _part(state: State, inside: bool) -> State:
    return state if inside else {key: value for key, value in state.items() if not key.startswith(TOWER)}


def _write(folder: Path, out: Path, state: State, values: Mapping[str, Any], shard_gb: float, ours: bool) -> None:
    with new_folder(out) as staging:
        write_weights(state, staging, shard_gb)
        write_json(staging / CONFIG, values)
        if ours:
            copy_files(folder / TOKENIZER_FOLDER, staging, (*TOKENIZER_FILES, GENERATION))
        else:
            copy_files(folder, staging, (*TOKENIZER_FILES, GENERATION))
        copy_files(folder, staging, (RUN,))
        write_origin(staging, folder)
