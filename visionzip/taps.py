"""QKTap: read q and k of one attention module while it runs, whatever attention kernel it uses."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

_HEAD_COUNTS = ("num_heads", "num_attention_heads", "n_heads")


class QKTap:
    """Record q and k of one attention module during one forward.

        with QKTap(block.self_attn) as tap:
            hidden = block(hidden)
        tap.query, tap.keys  # [T, H, S, d]

    The module needs layers `q_proj` and `k_proj`, or a fused `qkv` whose output is laid out as (3, heads, head width),
    and `num_heads` or `head_dim`. Values are the raw projections: bias included, before scaling and rotation, still on
    the autograd graph. Hooks live only inside the `with`, also when it ends by an exception, so the model stays
    picklable and recomputation under gradient checkpointing is not recorded. Several taps may watch one module, also
    from several threads: each records its own thread. torch.compile of a whole tower breaks the graph at the tap and
    records; a block compiled on its own before does not run hooks and ends in the error below.

    Raises: ValueError when the module has no such layers, or when not exactly one forward ran inside the `with`.
    """

    def __init__(self, attention: nn.Module) -> None:
        self._attention = attention
        self._layers = _projections(attention)
        self._outputs: dict[str, list[Tensor]] = {}
        self._handles: list[RemovableHandle] = []
        self._thread: int | None = None  # None: whichever runs; a traced graph does not know its thread

    def __enter__(self) -> QKTap:
        if self._handles:
            raise ValueError("this QKTap is already recording; use a second QKTap for a nested forward")
        self._outputs = {name: [] for name in self._layers}
        self._thread = None if torch.compiler.is_compiling() else threading.get_ident()
        for name, layer in self._layers.items():
            self._handles.append(layer.register_forward_hook(self._recorder(name)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        if kind is not None:
            self._outputs = {}
            return
        for name in self._layers:
            self._only(name)

    @property
    def query(self) -> Tensor:
        """[T, H, S, d] raw query projection of the one recorded forward."""
        return self._heads("q_proj", 0)

    @property
    def keys(self) -> Tensor:
        """[T, H, S, d] raw key projection of the one recorded forward."""
        return self._heads("k_proj", 1)

    def _recorder(self, name: str) -> Any:
        def record(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            if self._thread is None or torch.compiler.is_compiling() or threading.get_ident() == self._thread:
                self._outputs[name].append(output)

        return record

    def _only(self, name: str) -> Tensor:
        calls = self._outputs.get(name, [])
        if len(calls) != 1:
            raise ValueError(
                f"QKTap on {type(self._attention).__name__}: expected exactly one forward of {name} inside the `with`, "
                f"got {len(calls)}. Run the block once inside the `with`, read the tap after it; a block compiled on "
                "its own hides its layers: compile the tower instead"
            )
        return calls[0]

    def _heads(self, name: str, part: int) -> Tensor:
        if "qkv" in self._layers:
            flat = self._only("qkv").chunk(3, dim=-1)[part]
        else:
            flat = self._only(name)
        if flat.ndim == 2:  # towers that pack all tiles into one [S, H * d] sequence
            flat = flat.unsqueeze(0)
        heads = flat.reshape(*flat.shape[:2], *_head_shape(self._attention))  # [T, S, H, d]
        return heads.transpose(1, 2)


def _projections(attention: nn.Module) -> dict[str, nn.Module]:
    """The layers to watch, by name. Raises: ValueError naming the module's type and what it holds instead."""
    for names in (("q_proj", "k_proj"), ("qkv",)):
        layers = {name: getattr(attention, name, None) for name in names}
        found = {name: layer for name, layer in layers.items() if isinstance(layer, nn.Module)}
        if len(found) == len(names):
            _head_shape(attention)
            return found
    children = ", ".join(name for name, _ in attention.named_children()) or "none"
    raise ValueError(
        f"QKTap found neither q_proj and k_proj nor qkv in {type(attention).__name__} (its layers: {children}); "
        "pass the attention module of one block, for CLIP `encoder.layers[i].self_attn`"
    )


def _head_shape(attention: nn.Module) -> tuple[int, int]:
    """(heads, head width) with -1 for what is left to derive. Raises: ValueError when the module states neither."""
    for name in _HEAD_COUNTS:
        heads = getattr(attention, name, None)
        if isinstance(heads, int):
            return heads, -1
    width = getattr(attention, "head_dim", None)
    if isinstance(width, int):
        return -1, width
    raise ValueError(
        f"QKTap: {type(attention).__name__} has none of {', '.join(_HEAD_COUNTS)}, head_dim, so its heads are unknown"
    )
