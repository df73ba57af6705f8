"""What a benchmark runs on: a model from a folder or from a shape alone, and the request it is asked.

A shape builds random weights on the device: speed and memory do not depend on what a weight is, answers do, so a random
model's text is never looked at and never ends early.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessorPil, GenerationConfig

from llava.bench.shapes import KNOWN_TOWERS, TOWER, ModelShape, known_config, shape_of_config
from llava.constants import IMAGE_TOKEN_INDEX
from llava.mm_utils import get_model_name_from_path, process_images
from llava.model.builder import MODELS, load_pretrained_model
from llava.model.placement import quantization
from llava.model.sources import family_of

BASE = {"mm_projector_type": "mlp2x_gelu", "mm_vision_select_layer": -2, "mm_vision_select_feature": "patch"}


@dataclass(frozen=True)
class Subject:
    """A loaded model. name: of the checkpoint or the shape. weights: "random" or "checkpoint". bits: 16 stands for the
    model's own dtype, 8 and 4 for a quantised language model."""

    name: str
    model: Any
    image_processor: Any
    weights: str
    bits: int = 16

    @cached_property
    def shape(self) -> ModelShape:
        """Sizes, from the model's own config."""
        tower = self.model.get_vision_tower().config.to_dict()
        return shape_of_config(self.model.config.to_dict(), tower)

    @property
    def device(self) -> torch.device:
        """Where the embeddings are."""
        device: torch.device = self.model.device
        return device

    def describe(self) -> dict[str, Any]:
        """For a record: what it is, without a path."""
        config, shape = self.model.config, self.shape
        return {
            "name": self.name,
            "weights": self.weights,
            "bits": self.bits,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "attention": config._attn_implementation,
            "layers": shape.layers,
            "width": shape.width,
            "tower_layers": shape.tower_layers,
            "tower_width": shape.tower_width,
            "patches": shape.patches,
            "merge": getattr(config, "mm_patch_merge_type", "flat"),
        }


def from_shape(
    name: str,
    device: str | torch.device,
    dtype: torch.dtype,
    *,
    sizes: Mapping[str, Any] | None = None,
    tower: Mapping[str, int] | None = None,
    bits: int = 16,
    attention: str = "sdpa",
    seed: int = 0,
) -> Subject:
    """A model of a public shape with random weights, made on `device`. Nothing is downloaded.

    Args:
        name: a public checkpoint, as `llava.bench.shapes.KNOWN` lists them.
        sizes: config keys laid over the shape's, e.g. {"num_hidden_layers": 4}; the name then says so.
        tower: the same for CLIP-L/14 at 336, e.g. {"num_hidden_layers": 4}.
        bits: 8 or 4 quantises the language model with bitsandbytes as the builder does.
        attention: of the language model, as transformers calls it. The tower's is sdpa.

    Raises: ValueError for a shape that is not known; what transformers raises where it cannot have that attention.
    """
    config = {**BASE, **known_config(name), **dict(sizes or {})}
    if "anyres" in str(config.get("image_aspect_ratio", "")):
        config.setdefault("mm_patch_merge_type", "spatial_unpad")
    config.setdefault("image_aspect_ratio", "pad")
    family = family_of({"model_type": "llava", **config}, name, Path(name))
    config_class, model_class = MODELS[family]
    vision = KNOWN_TOWERS[TOWER] | dict(tower or {})
    with _tower_folder(vision) as folder, torch.random.fork_rng():
        torch.manual_seed(seed)
        built = config_class(
            **config | {"mm_vision_tower": str(folder), "mm_hidden_size": vision["hidden_size"]},
            unfreeze_mm_vision_tower=True,  # the tower is built from its config, there are no files to read
        )
        with torch.device(device):
            model: Any = model_class._from_config(built, dtype=dtype, attn_implementation=attention)
        if bits != 16:
            state = model.state_dict()
            model = model_class.from_pretrained(
                None,
                config=built,
                state_dict=state,
                dtype=dtype,
                attn_implementation=attention,
                device_map={"": torch.device(device)},
                quantization_config=quantization(bits == 8, bits == 4, dtype),
            )
    model.config.mm_vision_tower = TOWER
    named = get_model_name_from_path(name) + (" (reduced)" if sizes or tower else "")
    return Subject(named, _endless(model), model.get_vision_tower().image_processor, "random", bits)


def from_checkpoint(path: str, device: str, dtype: torch.dtype, bits: int = 16, attention: str = "sdpa") -> Subject:
    """A checkpoint as the builder loads it; its compressor, if it has one, is taken off. Raises: as the builder."""
    name = get_model_name_from_path(path)
    options: dict[str, Any] = {"load_8bit": bits == 8, "load_4bit": bits == 4, "device": device}
    options["attn_implementation"] = attention
    _, model, processor, _ = load_pretrained_model(path, None, name, **options, dtype=dtype)
    return Subject(name, _endless(model), processor, "checkpoint", bits)


def _endless(model: Any) -> Any:
    """Frozen, in eval mode, and without a token that ends an answer: every answer has the length that was asked for."""
    model.generation_config = GenerationConfig(pad_token_id=0)
    return model.requires_grad_(False).train(False)


@contextmanager
def _tower_folder(sizes: Mapping[str, int]) -> Iterator[Path]:
    """The config files a tower is built from, without weights."""
    side = sizes["image_size"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = {"model_type": "clip_vision_model", "hidden_act": "quick_gelu", **sizes}
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
        processor.save_pretrained(folder)
        yield folder


@dataclass(frozen=True)
class Question:
    """One question as a server gets it. ids [1, l] with the image token at its place in LLaVA's prompt; pixels
    [1, 3, S, S] or a list of one [tiles, 3, S, S]; sizes (W, H); tiles: encoded for it."""

    picture: Image.Image
    ids: Tensor
    pixels: Tensor | list[Tensor]
    sizes: list[tuple[int, int]]
    tiles: int

    @property
    def text(self) -> int:
        """Text tokens."""
        return int(self.ids.shape[1]) - 1


SYSTEM = 35  # tokens in front of the image in LLaVA's vicuna_v1 prompt


def picture_of(side: int, seed: int = 0) -> Image.Image:
    """A square picture with content at every scale; noise alone would make resizing and JPEG unlike a photograph's."""
    noise = np.random.default_rng(seed)
    layers = [Image.fromarray(noise.integers(0, 256, (size, size, 3), dtype=np.uint8)) for size in (4, 16, 64)]
    arrays = [np.asarray(layer.resize((side, side), Image.Resampling.BICUBIC), np.float32) for layer in layers]
    return Image.fromarray(np.mean(arrays, axis=0).astype(np.uint8))


def question_for(subject: Subject, text: int, seed: int = 0) -> Question:
    """A request of `text` text tokens and a square picture of twice the tower's side (five tiles where it is tiled).

    Raises: ValueError when the text is shorter than the prompt's own words.
    """
    if text <= SYSTEM:
        raise ValueError(f"--text {text}: LLaVA's prompt alone has {SYSTEM} tokens in front of the picture")
    model = subject.model
    picture = picture_of(2 * model.get_vision_tower().image_size, seed)
    pixels = to_device(process_images([picture], subject.image_processor, model.config), model)
    words = torch.randint(3, model.config.vocab_size, (1, text), generator=torch.Generator().manual_seed(seed))
    marker = torch.full((1, 1), IMAGE_TOKEN_INDEX)
    ids = torch.cat([words[:, :SYSTEM], marker, words[:, SYSTEM:]], dim=1)
    tiles = len(pixels) if isinstance(pixels, Tensor) else sum(len(image) for image in pixels)
    return Question(picture, ids.to(model.device), pixels, [picture.size], tiles)


def to_device(pixels: Tensor | Sequence[Tensor], model: Any) -> Tensor | list[Tensor]:
    """Pixels as the model takes them: its device, its dtype; a 5-D batch as a list of images."""
    if isinstance(pixels, Tensor) and pixels.dim() == 4:
        return pixels.to(model.device, model.dtype)
    return [image.to(model.device, model.dtype) for image in pixels]
