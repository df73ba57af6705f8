"""The sizes of a LLaVA model, from its config alone: no weights are read."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava.anyres import is_tiled, most_tiles

# Sizes of the public checkpoints, so that a plan needs no download. Width, layers, MLP width, heads, key/value heads.
_VICUNA_7B = {"hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 11008, "num_attention_heads": 32}
_VICUNA_13B = {"hidden_size": 5120, "num_hidden_layers": 40, "intermediate_size": 13824, "num_attention_heads": 40}
_MISTRAL_7B = {**_VICUNA_7B, "intermediate_size": 14336, "num_key_value_heads": 8}
_COMMON = {"vocab_size": 32000, "mm_vision_tower": "openai/clip-vit-large-patch14-336"}
_NEXT = {
    "image_aspect_ratio": "anyres",
    "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
}
KNOWN: dict[str, dict[str, Any]] = {
    "llava-v1.5-7b": _COMMON | _VICUNA_7B,
    "llava-v1.5-13b": _COMMON | _VICUNA_13B,
    "llava-v1.6-vicuna-7b": _COMMON | _VICUNA_7B | _NEXT,
    "llava-v1.6-vicuna-13b": _COMMON | _VICUNA_13B | _NEXT,
    "llava-v1.6-mistral-7b": _COMMON | _MISTRAL_7B | _NEXT,
}
KNOWN_TOWERS: dict[str, dict[str, int]] = {
    "clip-vit-large-patch14-336": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "intermediate_size": 4096,
        "image_size": 336,
        "patch_size": 14,
    }
}


@dataclass(frozen=True)
class ModelShape:
    """layers, width D, intermediate, kv_width (key or value width of all heads), vocabulary: of the language model.
    tower_layers, tower_width C, tower_intermediate, patches N per tile, max_tiles: of the vision side."""

    layers: int
    width: int
    intermediate: int
    kv_width: int
    vocabulary: int
    tower_layers: int
    tower_width: int
    tower_intermediate: int
    patches: int
    max_tiles: int

    @property
    def block_parameters(self) -> int:
        """Parameters of all decoder blocks: what 4-bit loading shrinks."""
        attention = 2 * self.width * (self.width + self.kv_width)
        return self.layers * (attention + 3 * self.width * self.intermediate + 2 * self.width)

    @property
    def embedding_parameters(self) -> int:
        """Embedding table, output head and last norm."""
        return 2 * self.vocabulary * self.width + self.width

    @property
    def projector_parameters(self) -> int:
        """Two linear layers with biases (mlp2x_gelu)."""
        return self.tower_width * self.width + self.width**2 + 2 * self.width

    @property
    def tower_parameters(self) -> int:
        width, inner = self.tower_width, self.tower_intermediate
        block = 4 * (width**2 + width) + 2 * width * inner + inner + 5 * width
        return self.tower_layers * block + (self.patches + 1) * width + 3 * 14 * 14 * width + 5 * width


def shape_of(model: str) -> ModelShape:
    """The shape of a checkpoint folder, or of a public checkpoint by name (with or without its owner).

    Raises:
        ValueError: neither, or a config that lacks a size.
    """
    name = Path(model).name
    if (Path(model) / "config.json").is_file():
        config = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
    elif name in KNOWN:
        config = KNOWN[name]
    else:
        raise ValueError(f"--model {model} is no checkpoint folder and none of {', '.join(KNOWN)}")
    if "mm_vision_tower" not in config:
        raise ValueError(f"--model {model}: its config names no mm_vision_tower, so it is no LLaVA checkpoint")
    tower = _tower(str(config["mm_vision_tower"]), Path(model))
    side = int(tower["image_size"])
    tiles = 1
    if is_tiled(config.get("image_aspect_ratio")):
        tiles = most_tiles(config["image_grid_pinpoints"], side)
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    return ModelShape(
        layers=config["num_hidden_layers"],
        width=config["hidden_size"],
        intermediate=config["intermediate_size"],
        kv_width=config["hidden_size"] // heads * kv_heads,
        vocabulary=config["vocab_size"],
        tower_layers=tower["num_hidden_layers"],
        tower_width=tower["hidden_size"],
        tower_intermediate=tower["intermediate_size"],
        patches=(side // tower["patch_size"]) ** 2,
        max_tiles=tiles,
    )


def _tower(name: str, checkpoint: Path) -> dict[str, Any]:
    for folder in (Path(name), checkpoint.parent / Path(name).name):
        if (folder / "config.json").is_file():
            config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            return config.get("vision_config", config)
    if Path(name).name in KNOWN_TOWERS:
        return KNOWN_TOWERS[Path(name).name]
    raise ValueError(f"mm_vision_tower {name} is no folder here and none of {', '.join(KNOWN_TOWERS)}")
