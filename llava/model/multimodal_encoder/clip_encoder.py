"""CLIP as LLaVA's vision tower.

T tiles, S = 1 + N tokens (CLS first, N patches row by row), C tower width.

The tower walks transformers' blocks itself and stops at the selected one: blocks after it are never run, no layer
needs eager attention, and nothing is left on the model between two passes.
"""

from __future__ import annotations

import logging
import pickle
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel

from visionzip.core.stages import stage
from visionzip.core.types import Compressor, Resizer, VisionEvidence, VisionTokens
from visionzip.taps import QKTap

logger = logging.getLogger(__name__)

Feature = Literal["patch", "cls_patch"]


class CLIPBody(nn.Module):
    """transformers' CLIP vision model under the name `vision_model`.

    LLaVA's files name the weights `model.vision_tower.vision_tower.vision_model.*`. transformers dropped the last
    level; holding the model under that name keeps keys in memory equal to keys on disk, however a file is written.
    """

    def __init__(self, vision_model: CLIPVisionModel) -> None:
        super().__init__()
        self.vision_model = vision_model

    @property
    def config(self) -> CLIPVisionConfig:
        """The CLIP vision config."""
        return self.vision_model.config

    @property
    def dtype(self) -> torch.dtype:
        """dtype of the weights."""
        return self.vision_model.dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.vision_model.device

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """All of CLIP, as transformers runs it."""
        return self.vision_model(*args, **kwargs)


class CLIPVisionTower(nn.Module):
    """Pixel tiles [T, 3, S, S] to the tokens LLaVA's projector reads.

    `compressor` is the slot for token compression: None gives the dense grid. It belongs to this instance only.

    Gradients flow through a tower whose parameters (or input) require them. A frozen tower runs under no_grad and keeps
    no activations, even when gradient checkpointing of the whole model marks its embeddings as requiring grad.
    """

    def __init__(self, vision_tower: str, args: Any, delay_load: bool = False) -> None:
        """
        Args:
            vision_tower: folder or hub id of a CLIP model.
            args: config or arguments with mm_vision_select_layer (default -2), mm_vision_select_feature (default
                patch) and unfreeze_mm_vision_tower.
            delay_load: do not read weights now. The tower is then built from its config if its weights come with the
                LLaVA checkpoint (unfreeze_mm_vision_tower), and else stays empty until `load_model`.

        Raises:
            ValueError: unknown mm_vision_select_feature, or the tower cannot be read.
        """
        super().__init__()
        self.is_loaded = False
        self.compressor: Compressor | None = None
        self.vision_tower_name = vision_tower
        layer = getattr(args, "mm_vision_select_layer", None)
        self.select_layer: int = -2 if layer is None else layer
        self.select_feature: Feature = getattr(args, "mm_vision_select_feature", None) or "patch"
        if self.select_feature not in ("patch", "cls_patch"):
            raise ValueError(f"Unknown mm_vision_select_feature {self.select_feature!r}; known: patch, cls_patch")
        self._config: CLIPVisionConfig | None = None
        if not delay_load:
            self.load_model()
        elif getattr(args, "unfreeze_mm_vision_tower", False):
            self._build_from_config()

    def load_model(self, device_map: Any = None, dtype: torch.dtype | None = None) -> None:
        """Read weights and image processor from `vision_tower_name`; a loaded tower is left as it is.

        Args:
            device_map: as in transformers' from_pretrained.
            dtype: of the weights; None means float32, whatever the file holds.

        Raises:
            ValueError: nothing readable is there, or weights are missing in it.
        """
        if self.is_loaded:
            logger.info("vision tower %s is already loaded", self.vision_tower_name)
            return
        patches = self.num_patches  # a broken config.json is told before the weights are blamed
        try:
            loaded: Any = CLIPVisionModel.from_pretrained(
                self.vision_tower_name,
                device_map=device_map,
                dtype=dtype or torch.float32,
                output_loading_info=True,
            )
        except OSError as error:
            raise ValueError(self._unreadable(error)) from error
        except torch.OutOfMemoryError:
            raise
        except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
            reason = next((line for line in str(error).splitlines() if line.strip()), "")
            raise ValueError(
                f"mm_vision_tower: the weights in {self.vision_tower_name!r} are damaged, unsafe, or do not fit its "
                f"config.json of {patches} patches ({type(error).__name__}: {reason[:200]}); "
                "download or copy both again"
            ) from error
        model, info = loaded
        if info["missing_keys"]:
            missing = sorted(info["missing_keys"])
            raise ValueError(
                f"mm_vision_tower {self.vision_tower_name!r} lacks {len(missing)} weights, first {missing[0]!r}; "
                "the download or copy is incomplete"
            )
        self._install(model)

    def _build_from_config(self) -> None:
        """Build without weights: they come with the LLaVA checkpoint."""
        self._install(CLIPVisionModel(self.config))

    def _install(self, model: CLIPVisionModel) -> None:
        try:
            self.image_processor = CLIPImageProcessorPil.from_pretrained(self.vision_tower_name)
        except OSError as error:
            raise ValueError(self._unreadable(error)) from error
        self.vision_tower = CLIPBody(model)
        self.vision_tower.requires_grad_(False)
        self.is_loaded = True

    @property
    def _not_loaded(self) -> str:
        return f"vision tower {self.vision_tower_name!r} is not loaded: call load_model() first"

    def _unreadable(self, error: OSError) -> str:
        return f"mm_vision_tower: cannot read a CLIP tower from {self.vision_tower_name!r}: {error}"

    def encode(self, images: Tensor) -> VisionTokens:
        """Tiles [T, 3, S, S] to tokens with places, features in the dtype of `images`.

        With a compressor: its tokens. Without: the dense grid, positions 0..N-1; `cls_patch` puts CLS first (-1).

        Raises:
            ValueError: the tower is not loaded, or the selected layer does not exist.
        """
        if not self.is_loaded:
            raise ValueError(self._not_loaded)
        if not images.is_floating_point() or images.dim() != 4:
            raise ValueError(
                f"expected preprocessed pixels, float [T, 3, S, S], got {images.dtype} {list(images.shape)}; "
                "run llava.mm_utils.process_images on the pictures"
            )
        # The walk over all parameters takes longer than a block does on a GPU: only where a gradient is wanted at all.
        with torch.set_grad_enabled(torch.is_grad_enabled() and (images.requires_grad or self._trainable())):
            tokens = self._encode(images.to(device=self.device, dtype=self.dtype))
        return VisionTokens(tokens.features.to(images.dtype), tokens.positions, tokens.has_cls)

    def _trainable(self) -> bool:
        return any(parameter.requires_grad for parameter in self.vision_tower.parameters())

    def _encode(self, pixels: Tensor) -> VisionTokens:
        depth = self.depth
        blocks = self.vision_tower.vision_model.encoder.layers
        if self.compressor is None:
            with stage("vision"):
                hidden = self._embed(pixels)
                for block in blocks[:depth]:
                    hidden = block(hidden, None)
            return self._dense(hidden)
        if depth == 0:
            raise ValueError(
                f"A compressor reads the attention of the selected layer, but mm_vision_select_layer "
                f"{self.select_layer} is the embedding, before any layer"
            )
        with stage("vision"):
            hidden = self._embed(pixels)
            for block in blocks[: depth - 1]:
                hidden = block(hidden, None)
            hidden, query, keys = _run_tapped(blocks[depth - 1], hidden)
        return self.compressor(VisionEvidence(hidden, query, keys, has_cls=True))

    def _embed(self, pixels: Tensor) -> Tensor:
        """Tiles to the first block's input, smaller where the compressor wants smaller tiles. -> [T, S, C]"""
        model = self.vision_tower.vision_model
        if isinstance(self.compressor, Resizer):
            small = self.compressor.resize(pixels, self.image_size // self.num_patches_per_side)
            embedded = model.embeddings(small, interpolate_pos_encoding=True)
        else:
            embedded = model.embeddings(pixels)
        hidden: Tensor = model.pre_layrnorm(embedded)
        return hidden

    @property
    def depth(self) -> int:
        """Number of blocks to run: `select_layer` counts hidden states, the first of which is the embedding."""
        layers = self.config.num_hidden_layers
        depth = self.select_layer if self.select_layer >= 0 else layers + 1 + self.select_layer
        if not 0 <= depth <= layers:
            raise ValueError(
                f"mm_vision_select_layer {self.select_layer} does not exist: {self.vision_tower_name!r} has "
                f"{layers + 1} hidden states"
            )
        return depth

    def _dense(self, hidden: Tensor) -> VisionTokens:
        """Hidden states [T, S, C] to the grid as the config selects it."""
        positions = torch.arange(-1, hidden.shape[1] - 1, device=hidden.device).expand(hidden.shape[:2])  # [T, S]
        if self.select_feature == "cls_patch":
            return VisionTokens(hidden, positions, has_cls=True)
        return VisionTokens(hidden[:, 1:], positions[:, 1:])

    def forward(self, images: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
        """Features only: [T, 3, S, S] -> [T, K, C]; a list of images [3, S, S] -> a list of [1, K, C]."""
        if isinstance(images, list):
            return [self.encode(image[None] if image.dim() == 3 else image).features for image in images]
        return self.encode(images).features

    def feature_select(self, image_forward_outs: Any) -> Tensor:
        """Pick the configured layer and rows from transformers' output with hidden_states. -> [T, K, C]"""
        return self._dense(image_forward_outs.hidden_states[self.select_layer]).features

    @property
    def config(self) -> CLIPVisionConfig:
        """The CLIP vision config, read from `vision_tower_name` when the tower is not loaded yet."""
        if self.is_loaded:
            return self.vision_tower.config
        if self._config is None:
            folder = Path(self.vision_tower_name)
            if folder.is_dir() and not (folder / "config.json").is_file():  # transformers would make up a CLIP
                raise ValueError(
                    f"mm_vision_tower: cannot read a CLIP tower from {str(folder)!r}: no config.json there"
                )
            try:
                self._config = CLIPVisionConfig.from_pretrained(self.vision_tower_name)
            except OSError as error:
                raise ValueError(self._unreadable(error)) from error
        return self._config

    @property
    def dtype(self) -> torch.dtype:
        """dtype of the weights. Raises: ValueError before `load_model`."""
        if not self.is_loaded:
            raise ValueError(self._not_loaded)
        return self.vision_tower.dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights. Raises: ValueError before `load_model`."""
        if not self.is_loaded:
            raise ValueError(self._not_loaded)
        return self.vision_tower.device

    @property
    def hidden_size(self) -> int:
        """C."""
        return int(self.config.hidden_size)

    @property
    def image_size(self) -> int:
        """S: pixels along one edge of a tile."""
        size: Any = self.config.image_size
        return int(size)

    @property
    def num_patches_per_side(self) -> int:
        """Patches along one edge of a tile."""
        patch: Any = self.config.patch_size
        return self.image_size // int(patch)

    @property
    def num_patches(self) -> int:
        """N."""
        return self.num_patches_per_side**2

    @property
    def dummy_feature(self) -> Tensor:
        """Zeros [1, C]."""
        return torch.zeros(1, self.hidden_size, device=self.device, dtype=self.dtype)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _run_tapped(block: Any, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Run one block and return (hidden [T, S, C], query, keys [T, H, S, d]).

    Kept out of compiled graphs: a graph traced once would not notice that hooks come and go.
    """
    with QKTap(block.self_attn) as tap:
        hidden = block(hidden, None)
    return hidden, tap.query, tap.keys
