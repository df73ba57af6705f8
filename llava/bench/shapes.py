"""The sizes of a LLaVA model, from its config alone: no weights are read."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava.anyres import is_tiled, most_tiles

# Sizes of the public checkpoints and of the language models the recipes start from, so that a plan needs no download.
_VICUNA_7B = {"hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 11008, "num_attention_heads": 32}
_VICUNA_13B = {"hidden_size": 5120, "num_hidden_layers": 40, "intermediate_size": 13824, "num_attention_heads": 40}
_MISTRAL_7B = {**_VICUNA_7B, "intermediate_size": 14336, "num_key_value_heads": 8}
_QWEN2_7B = {
    "hidden_size": 3584,
    "num_hidden_layers": 28,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
}
TOWER = "openai/clip-vit-large-patch14-336"  # what a language model without a tower is taken to get
_LLAMA_WORDS = {"vocab_size": 32000}
_COMMON = _LLAMA_WORDS | {"mm_vision_tower": TOWER}
_NEXT = {
    "image_aspect_ratio": "anyres",
    "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
}
KNOWN: dict[str, dict[str, Any]] = {
    "liuhaotian/llava-v1.5-7b": _COMMON | _VICUNA_7B,
    "liuhaotian/llava-v1.5-13b": _COMMON | _VICUNA_13B,
    "liuhaotian/llava-v1.6-vicuna-7b": _COMMON | _VICUNA_7B | _NEXT,
    "liuhaotian/llava-v1.6-vicuna-13b": _COMMON | _VICUNA_13B | _NEXT,
    "liuhaotian/llava-v1.6-mistral-7b": _COMMON | _MISTRAL_7B | _NEXT,
    "lmsys/vicuna-7b-v1.5": _LLAMA_WORDS | _VICUNA_7B,
    "lmsys/vicuna-13b-v1.5": _LLAMA_WORDS | _VICUNA_13B,
    "mistralai/Mistral-7B-Instruct-v0.2": _LLAMA_WORDS | _MISTRAL_7B,
    "Qwen/Qwen2-7B-Instruct": _QWEN2_7B,
    "Qwen/Qwen2-7B": _QWEN2_7B,
}
KNOWN_TOWERS: dict[str, dict[str, int]] = {
    TOWER: {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "image_size": 336,
        "patch_size": 14,
    }
}


SIZES = ("hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads", "vocab_size")


@dataclass(frozen=True)
class ModelShape:
    """layers, width D, intermediate, kv_width (key or value width of all heads), vocabulary: of the language model.
    tower_layers, tower_width C, tower_intermediate, patches N per tile, max_tiles, tower_heads, patch_size (pixels on
    an edge): of the vision side. projector_layers: linear ones, from mm_projector_type.
    own_tower: whether the config names the tower, else it is taken to be TOWER. budget: dominant and contextual tokens
    per tile the checkpoint itself asks for. tied: embedding table and output head are one matrix."""

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
    own_tower: bool = True
    budget: tuple[int, int] | None = None
    tied: bool = False
    tower_heads: int = 16
    patch_size: int = 14
    projector_layers: int = 2

    @property
    def block_parameters(self) -> int:
        """Parameters of all decoder blocks: what 4-bit loading shrinks."""
        attention = 2 * self.width * (self.width + self.kv_width)
        return self.layers * (attention + 3 * self.width * self.intermediate + 2 * self.width)

    @property
    def embedding_parameters(self) -> int:
        """Embedding table, output head and last norm."""
        return (1 if self.tied else 2) * self.vocabulary * self.width + self.width

    @property
    def projector_parameters(self) -> int:
        """Linear layers with biases."""
        more = self.projector_layers - 1
        return self.tower_width * self.width + more * self.width**2 + self.projector_layers * self.width

    @property
    def tower_parameters(self) -> int:
        width, inner = self.tower_width, self.tower_intermediate
        block = 4 * (width**2 + width) + 2 * width * inner + inner + 5 * width
        return self.tower_layers * block + (self.patches + 1) * width + 3 * self.patch_size**2 * width + 5 * width


def shape_of(model: str) -> ModelShape:
    """The shape of a folder with a config.json, or of a public checkpoint by name (its owner may be left out).

    A plain language model is one that LLaVA's own tower is added to, with one tile per picture.

    Raises:
        ValueError: neither, or a config that lacks a size.
    """
    config = _config(model)
    lacking = [name for name in SIZES if name not in config]
    if lacking:
        raise ValueError(
            f"--model {model}: its config.json has no {', no '.join(lacking)}; expected that of a LLaVA checkpoint in "
            "the public layout, or of a language model"
        )
    return shape_of_config(config, _tower(str(config.get("mm_vision_tower") or TOWER), Path(model)))


def shape_of_config(config: dict[str, Any], tower: dict[str, Any]) -> ModelShape:
    """The shape two configs describe, the model's and its tower's."""
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
        own_tower=bool(config.get("mm_vision_tower")),
        budget=_budget(config),
        tied=bool(config.get("tie_word_embeddings")),
        tower_heads=tower["num_attention_heads"],
        patch_size=tower["patch_size"],
        projector_layers=_projector_layers(str(config.get("mm_projector_type") or "mlp2x_gelu")),
    )


def _projector_layers(kind: str) -> int:
    """Linear layers of a projector. Raises: ValueError for one that is not made of them."""
    if kind == "linear":
        return 1
    if match := re.fullmatch(r"mlp([1-9]\d*)x_gelu", kind):
        return int(match.group(1))
    raise ValueError(f"mm_projector_type {kind!r}: expected linear or mlpNx_gelu, whose work and bytes can be counted")


def known_config(name: str) -> dict[str, Any]:
    """The sizes of a public checkpoint by name (its owner may be left out). Raises: ValueError listing the names."""
    for known, config in KNOWN.items():
        if Path(name).name == Path(known).name:
            return dict(config)
    raise ValueError(f"no public shape is called {name!r}; known: {', '.join(KNOWN)}")


def _config(model: str) -> dict[str, Any]:
    file = Path(model) / "config.json"
    if file.is_file():
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return found
    try:
        return known_config(model)
    except ValueError as error:
        raise ValueError(f"--model {model} is no folder with a config.json: {error}") from error


def _budget(config: dict[str, Any]) -> tuple[int, int] | None:
    """Tokens per tile of a checkpoint that was trained or saved with a compressor that has such numbers."""
    compressor = config.get("mm_compressor") or {}
    if {"dominant", "contextual"} <= compressor.keys():
        return int(compressor["dominant"]), int(compressor["contextual"])
    return None


def _tower(name: str, checkpoint: Path) -> dict[str, Any]:
    for folder in (Path(name), checkpoint.parent / Path(name).name):
        if (folder / "config.json").is_file():
            config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            return config.get("vision_config", config)
    for known, sizes in KNOWN_TOWERS.items():
        if Path(name).name == Path(known).name:
            return sizes
    raise ValueError(f"mm_vision_tower {name} is no folder here and none of {', '.join(KNOWN_TOWERS)}")
