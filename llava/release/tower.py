"""The vision tower a checkpoint names: where it lies, its weights, and a tower folder written anew."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import CLIPImageProcessorPil, CLIPVisionConfig

from llava.model.checkpoint import State
from llava.model.multimodal_encoder.builder import resolve_vision_tower
from llava.model.sources import VISION_KEY, locate
from llava.model.weight_files import digest, read_json, read_weights
from llava.release.folders import CONFIG, write_json
from llava.release.names import TOWER
from llava.release.shards import save_safetensors

VISION_MODEL = "vision_model."
# Parts of a whole CLIP that are no vision tower.
_OTHER_PARTS = ("text_model.", "text_projection.", "visual_projection.", "logit_scale")


def tower_folder(config: Mapping[str, Any], *checkpoints: Path) -> Path:
    """Folder of the tower `config` names: as named, or beside one of `checkpoints`, or fetched from the hub.

    Raises:
        ValueError: it is nowhere.
    """
    named = str(config.get(VISION_KEY))
    for checkpoint in checkpoints:
        with suppress(ValueError):
            source = resolve_vision_tower(named, str(checkpoint))
            if Path(source).is_dir():
                return Path(source)
    return locate(resolve_vision_tower(named, str(checkpoints[0])), VISION_KEY)


def tower_state(folder: Path) -> State:
    """Weights of a tower folder under LLaVA's names. A whole CLIP may lie there: its text side is left out."""
    state: State = {}
    for key, value in read_weights(folder).items():
        if not key.startswith(_OTHER_PARTS):
            state[TOWER + key.removeprefix(VISION_MODEL)] = value
    return state


def tower_config(folder: Path) -> CLIPVisionConfig:
    """The vision config of a tower folder.

    Raises:
        ValueError: the folder has none, or a tower that is no CLIP.
    """
    kind = read_json(folder / CONFIG).get("model_type")
    if kind not in {"clip", "clip_vision_model"}:
        raise ValueError(f"{folder / CONFIG} has model_type {kind!r}: only CLIP towers are exported")
    config: CLIPVisionConfig = CLIPVisionConfig.from_pretrained(str(folder))
    return config


def tower_digest(state: Mapping[str, Tensor]) -> str:
    """`weight_files.digest` of the tower's weights in `state`."""
    return digest({key: value for key, value in state.items() if key.startswith(TOWER)})


def write_tower(state: Mapping[str, Tensor], vision: Mapping[str, Any], processor: Any, folder: Path) -> None:
    """Write the tower's weights in `state` as a tower folder of the public layout.

    Args:
        vision: its config.
        processor: the image processor whose size, crop and normalisation the tower's own takes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    own = {VISION_MODEL + key.removeprefix(TOWER): value for key, value in state.items() if key.startswith(TOWER)}
    save_safetensors(own, folder / "model.safetensors")
    write_json(folder / CONFIG, {**vision, "architectures": ["CLIPVisionModel"], "model_type": "clip_vision_model"})
    CLIPImageProcessorPil(
        size=plain_size(processor.size),
        crop_size=plain_size(processor.crop_size),
        image_mean=list(processor.image_mean),
        image_std=list(processor.image_std),
        resample=processor.resample,
    ).save_pretrained(folder)


def plain_size(size: Any) -> dict[str, int]:
    """An image processor's size as a dict of what it says."""
    return {key: int(value) for key, value in dict(size).items() if value is not None}
