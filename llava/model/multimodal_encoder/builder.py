"""Find the tower a config names and build it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from llava.model.multimodal_encoder.clip_encoder import CLIPVisionTower
from visionzip.registry import from_config

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")

TOWERS: dict[str, type[CLIPVisionTower]] = {"clip": CLIPVisionTower, "clip_vision_model": CLIPVisionTower}


def build_vision_tower(vision_tower_cfg: Any, delay_load: bool = False, **kwargs: Any) -> CLIPVisionTower:
    """Build the tower named by `mm_vision_tower` (or `vision_tower`), with the compressor the config asks for.

    Args:
        vision_tower_cfg: a model config or training arguments. Read: mm_vision_tower, mm_vision_select_layer,
            mm_vision_select_feature, unfreeze_mm_vision_tower, mm_compressor, _name_or_path.
        delay_load: True inside a model constructor. Then a tower whose weights come with the checkpoint
            (unfreeze_mm_vision_tower, LLaVA v1.6) is built from its config, and any other waits for `load_model`.

    Raises:
        ValueError: no tower is named, the path does not exist, its kind is unknown, or the compressor's budget does not
            fit its number of patches.
    """
    name = getattr(vision_tower_cfg, "mm_vision_tower", None) or getattr(vision_tower_cfg, "vision_tower", None)
    if not isinstance(name, str):
        raise ValueError(f"mm_vision_tower must name a tower (a folder or a hub id); got {name!r}")
    source = resolve_vision_tower(name, getattr(vision_tower_cfg, "_name_or_path", None))
    tower = _tower_class(source)(source, args=vision_tower_cfg, delay_load=delay_load, **kwargs)
    compressor = getattr(vision_tower_cfg, "mm_compressor", None)
    if compressor:
        tower.compressor = from_config(compressor)
        if Path(source).is_dir():  # a tower on the hub tells its number of patches once it is loaded
            tower.compressor.tokens_per_tile(tower.num_patches)
    return tower


def resolve_vision_tower(name: str, checkpoint: str | None = None) -> str:
    """Where the tower lies: an existing path; a folder of that base name beside the checkpoint; or a hub id.

    Args:
        name: value of mm_vision_tower.
        checkpoint: folder of the checkpoint that names it (config._name_or_path), if there is one.

    Raises:
        ValueError: it looks like a path and nothing is there.
    """
    if Path(name).expanduser().exists():
        return str(Path(name).expanduser())
    if checkpoint and Path(checkpoint).is_dir():
        sibling = Path(checkpoint).resolve().parent / Path(name).name
        if sibling.is_dir():
            return str(sibling)
    if _HUB_ID.fullmatch(name):
        return name
    beside = f" nor beside {checkpoint}" if checkpoint else ""
    raise ValueError(
        f"mm_vision_tower: no folder {name!r} here{beside}, and it is no hub id of the form org/name. "
        "Put the tower there or correct the key in config.json"
    )


def _tower_class(source: str) -> type[CLIPVisionTower]:
    """Choose by the model_type in the tower's own config; a hub id not looked up yet is taken for CLIP."""
    path = Path(source) / "config.json"
    if not path.is_file():
        return CLIPVisionTower
    try:
        kind = json.loads(path.read_text(encoding="utf-8")).get("model_type")
    except json.JSONDecodeError as error:
        raise ValueError(f"mm_vision_tower: {path} is not valid JSON ({error}); copy the tower again") from error
    if kind not in TOWERS:
        raise ValueError(f"mm_vision_tower: {path} has model_type {kind!r}; known: {', '.join(TOWERS)}")
    return TOWERS[kind]
