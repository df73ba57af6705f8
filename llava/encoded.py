"""Images as a frozen tower left them: what a feature cache holds and a model takes in place of pixels."""

from collections.abc import Sequence
from typing import TypedDict

import torch
from torch import Tensor


class EncodedImages(TypedDict):
    """The tokens of several images, tile after tile; a plain dict, so that a trainer moves its tensors.

    features: [sum T, K, C], the tower's output before the projector, compressed or dense.
    positions: [sum T, K] int64, see `visionzip.VisionTokens`.
    tiles: [I] int64, the number of tiles T of every image.
    has_cls: row 0 of every tile is the CLS token.
    """

    features: Tensor
    positions: Tensor
    tiles: Tensor
    has_cls: bool


def join_images(images: Sequence[EncodedImages]) -> EncodedImages:
    """Several batches as one, in order. Raises: ValueError when there is none, or they differ in K, C or has_cls."""
    if not images:
        raise ValueError("expected at least one encoded image, got none")
    kinds = {(tuple(image["features"].shape[1:]), image["has_cls"]) for image in images}
    if len(kinds) > 1:
        raise ValueError(f"encoded images of different kinds, (tokens, width) and has_cls: {sorted(kinds)}")
    return {
        "features": torch.cat([image["features"] for image in images]),
        "positions": torch.cat([image["positions"] for image in images]),
        "tiles": torch.cat([image["tiles"] for image in images]),
        "has_cls": images[0]["has_cls"],
    }
