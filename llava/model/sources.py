"""What a checkpoint is: where its folder lies, which kind of checkpoint it holds, and which classes its config means.

Decided by the files and the config; a name is asked only where a config leaves two readings. A folder called `my-ckpt`
is fine.
"""

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import snapshot_download

from llava.model.checkpoint import ADAPTER_CONFIG, NON_LORA_FILE, PROJECTOR_FILE
from llava.model.weight_files import find_weights, listed, read_json

__all__ = ["Checkpoint", "family_of", "inspect", "locate"]

logger = logging.getLogger(__name__)

Kind = Literal["full", "projector", "lora", "plain", "plain_lora"]

# A config that carries this key describes a LLaVA model in LLaVA's own layout.
VISION_KEY = "mm_vision_tower"
# model_type -> family; released Vicuna checkpoints say "llava", a name transformers uses for its own class.
FAMILIES = {
    "llava": "llama",
    "llava_llama": "llama",
    "llama": "llama",
    "llava_mistral": "mistral",
    "mistral": "mistral",
    "llava_qwen": "qwen2",
    "qwen2": "qwen2",
}
ARCHITECTURES = {
    "LlavaLlamaForCausalLM": "llama",
    "LlavaMistralForCausalLM": "mistral",
    "LlavaQwenForCausalLM": "qwen2",
}
NAME_HINTS = {"mistral": "mistral", "qwen": "qwen2", "vicuna": "llama", "llama": "llama"}
_HUB_ID = re.compile(r"\w[\w.-]*(/[\w.-]+)?")
_SMALL_FILES = ["*.json", "*.model", "*.txt"]


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint, described.

    kind: `full` LLaVA weights; `projector` (mm_projector.bin over a base); `lora` (adapter over a base); `plain` and
        `plain_lora`: a language model without vision.
    folder: of the checkpoint itself.
    base: folder of the language model's weights and the tokenizer; equals `folder` where the checkpoint has its own.
    config: config.json as read, of the checkpoint, else of its base.
    """

    kind: Kind
    folder: Path
    base: Path
    config: dict[str, Any]

    @property
    def has_vision(self) -> bool:
        """Whether the config names a vision tower."""
        return self.kind in {"full", "projector", "lora"}


def locate(path: str, flag: str = "model_path") -> Path:
    """Folder of a checkpoint: a local one, or a hub repository fetched into the hub's cache.

    `.bin` files are fetched only where a repository has no safetensors.

    Raises:
        ValueError: no such folder, and no hub id or none that can be fetched (cause: the hub's own error).
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise ValueError(f"{flag} {path!r} is a file; expected the folder that holds config.json and the weights")
    if not _HUB_ID.fullmatch(str(path)):
        raise ValueError(f"{flag} {path!r}: there is no such folder, and it is no hub id of the form owner/name")
    try:
        cached = Path(snapshot_download(path, allow_patterns=[*_SMALL_FILES, "*.safetensors"]))
        if not any(cached.glob("model*.safetensors")):
            cached = Path(snapshot_download(path, allow_patterns=[*_SMALL_FILES, "*.safetensors", "*.bin"]))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{flag} {path!r} is no folder here, and the hub did not give it: {reason} "
            f"Mend the path, or download the repository and pass its folder."
        ) from error
    return cached


def inspect(model_path: str, model_base: str | None) -> Checkpoint:
    """Find a checkpoint (and its base) and tell what it is.

    Raises:
        ValueError: a folder without config or weights, a checkpoint that needs a base and got none, or one in
            transformers' own LLaVA layout.
    """
    folder = locate(model_path)
    base = locate(model_base, "model_base") if model_base else None
    if (folder / ADAPTER_CONFIG).is_file():
        return _adapter(folder, base)
    config = _config(folder)
    has_weights = find_weights(folder) is not None
    has_projector = (folder / PROJECTOR_FILE).is_file()
    if has_projector and (base is not None or not has_weights):
        return _projector_only(folder, base, config)
    if not has_weights:
        found = listed(sorted(file.name for file in folder.iterdir()))
        raise ValueError(
            f"{folder} has a config but no weights: expected safetensors, pytorch_model.bin, {PROJECTOR_FILE} or "
            f"{ADAPTER_CONFIG}; found {found}. The download or the save broke off."
        )
    if base is not None:
        logger.warning("%s holds complete weights: model_base %s is not used", folder, base)
    return Checkpoint("full" if config.get(VISION_KEY) else "plain", folder, folder, config)


def family_of(config: dict[str, Any], name: str, where: Path) -> str:
    """Language model family of a LLaVA config: "llama", "mistral" or "qwen2".

    `model_type` decides; for the shared name `llava` the class under `architectures` does, and only without that the
    model's name.

    Raises:
        ValueError: an unknown model_type.
    """
    model_type = config.get("model_type")
    if model_type not in FAMILIES:
        raise ValueError(
            f"{where / 'config.json'} says model_type {model_type!r}; known LLaVA types: {', '.join(FAMILIES)}"
        )
    if model_type == "llava":
        for architecture in config.get("architectures") or []:
            if architecture in ARCHITECTURES:
                return ARCHITECTURES[architecture]
        for hint, family in NAME_HINTS.items():
            if hint in name.lower():
                return family
    return FAMILIES[model_type]


def _config(folder: Path) -> dict[str, Any]:
    config = read_json(folder / "config.json")
    if VISION_KEY not in config and ("text_config" in config or "vision_config" in config):
        raise ValueError(
            f"{folder} is in transformers' own LLaVA layout (config.json has text_config / vision_config), which this "
            f"loader does not read. Convert it with `python -m llava.release from-hf {folder} --out NEW_FOLDER`, take "
            f"the checkpoint in LLaVA's layout (for llava-hf/llava-1.5-7b-hf that is liuhaotian/llava-v1.5-7b), or "
            f"load this one with transformers.AutoModelForImageTextToText."
        )
    return config


def _projector_only(folder: Path, base: Path | None, config: dict[str, Any]) -> Checkpoint:
    if not config.get(VISION_KEY):
        raise ValueError(
            f"{folder} holds {PROJECTOR_FILE}, but its config.json has no {VISION_KEY}: which tower does it belong to?"
        )
    if base is None:
        hint = _recorded(config.get("_name_or_path"))
        raise ValueError(f"{folder} holds a projector only: pass model_base, the model it was trained on{hint}")
    _config(base)
    return Checkpoint("projector", folder, base, config)


def _adapter(folder: Path, base: Path | None) -> Checkpoint:
    adapter = read_json(folder / ADAPTER_CONFIG)
    if "peft_type" not in adapter:
        raise ValueError(f"{folder / ADAPTER_CONFIG} names no peft_type: it is no adapter's config. Copy it again.")
    if base is None:
        hint = _recorded(adapter.get("base_model_name_or_path"))
        raise ValueError(f"{folder} holds a LoRA adapter: pass model_base, the model it was trained on{hint}")
    base_config = _config(base)
    own = _config(folder) if (folder / "config.json").is_file() else {}
    config = own if own.get(VISION_KEY) else base_config
    has_projector = (folder / NON_LORA_FILE).is_file()
    if has_projector and not config.get(VISION_KEY):
        raise ValueError(
            f"{folder} holds {NON_LORA_FILE} (a trained projector), but neither its config.json nor that of {base} "
            f"names a tower ({VISION_KEY}): copy config.json of the run to {folder}"
        )
    if own.get(VISION_KEY) and not has_projector:
        logger.warning("%s holds no %s: the projector is the one of %s", folder, NON_LORA_FILE, base)
    return Checkpoint("lora" if config.get(VISION_KEY) else "plain_lora", folder, base, config)


def _recorded(base: Any) -> str:
    return f" (the run recorded {base!r})" if base else ""
