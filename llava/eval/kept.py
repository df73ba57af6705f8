"""Which patches of a picture a cell's kept tokens stand for, drawn on the picture."""

from dataclasses import dataclass
from typing import Any, Self

import torch
from PIL import Image
from torch import Tensor

from llava.eval.answerer import prepare_pixels
from llava.eval.cells import Record
from llava.eval.loading import load_model
from llava.eval.methods import apply_method
from visionzip import Budget

DIM = 0.25  # what is left of the light of a dropped patch


@dataclass(frozen=True)
class KeptTokens:
    """A checkpoint with a cell's method attached."""

    model: Any
    image_processor: Any

    @classmethod
    def of(cls, record: Record, device: str | None = None, model: str | None = None) -> Self:
        """The model the record was made with, opened again.

        Args:
            model: where the checkpoint lies; None as the record says (it names no folder outside the repository).

        Raises:
            ValueError: the checkpoint cannot be loaded, or was tuned for another budget.
        """
        loaded = load_model(model or str(record.model["path"]), record.model.get("base"), device)
        budget = record.budget
        chosen = None if budget is None else Budget(budget["dominant"], budget["contextual"])
        apply_method(loaded.model, record.method, chosen, record.order)
        return cls(loaded.model, loaded.image_processor)

    def draw(self, pictures: list[Image.Image]) -> list[Image.Image]:
        """The pictures as the tower sees them (of several tiles the first, the overview), dropped patches darkened.

        Methods whose tokens have no place (pool, downsample) keep the whole picture light.
        """
        return [self._draw(picture) for picture in pictures]

    def _draw(self, picture: Image.Image) -> Image.Image:
        (pixels,) = prepare_pixels([picture], self.image_processor, self.model.config)
        tile = pixels[0] if pixels.dim() == 4 else pixels
        tower = self.model.get_vision_tower()
        with torch.inference_mode():
            tokens = tower.encode(tile[None].to(device=self.model.device, dtype=self.model.dtype))
        placed = tokens.positions[0][tokens.positions[0] >= 0]
        light = torch.full((tower.num_patches,), DIM if len(placed) else 1.0)
        light[placed.cpu()] = 1.0
        side = tower.num_patches_per_side
        return shade(self._visible(tile), light.view(side, side))

    def _visible(self, tile: Tensor) -> Tensor:
        """Normalised pixels [3, S, S] as light, 0..1."""
        mean = torch.tensor(self.image_processor.image_mean)[:, None, None]
        std = torch.tensor(self.image_processor.image_std)[:, None, None]
        return (tile.float().cpu() * std + mean).clamp(0, 1)


def shade(light: Tensor, patches: Tensor) -> Image.Image:
    """A picture [3, S, S] times a factor for each patch [rows, columns]."""
    size = light.shape[-1] // patches.shape[-1]
    factors = patches.repeat_interleave(size, dim=0).repeat_interleave(size, dim=1)
    shaded = (light[:, : factors.shape[0], : factors.shape[1]] * factors * 255).round().to(torch.uint8)
    return Image.fromarray(shaded.permute(1, 2, 0).numpy())
