"""Keys and values in fixed buffers, for rows that are padded on the right.

B rows, Hk key/value heads, M columns, d head width, L columns of a prefill.

Row b owns the columns 0..length_b-1. A prefill writes L columns of every row at once and attends to what it was given,
not to the buffer; a step writes one column per row, at that row's own place. What lies behind a row's last column is
left over from padding or earlier rows: finite numbers that the step's mask hides.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class StaticKV:
    """The buffers, and transformers' view of them for a prefill or a step."""

    def __init__(self, config: Any, batch: int, columns: int, dtype: torch.dtype, device: torch.device) -> None:
        """
        Args:
            config: of the decoder; read are the number of layers, of key/value heads, and the head width.
            batch, columns: B and M.
        """
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        shape = (2, batch, config.num_key_value_heads, columns, width)
        # Zeros, not empty: a hidden column has weight 0, and 0 times what memory happens to hold may be NaN.
        self._buffers = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_hidden_layers)]
        self.batch, self.columns = batch, columns

    def nbytes(self) -> int:
        """Bytes of the buffers."""
        return sum(buffer.nbytes for buffer in self._buffers)

    def prefill(self, batch: int, length: int) -> StaticCache:
        """For one pass over the first `length` columns of the first `batch` rows."""
        return StaticCache([_PrefillLayer(keys, values) for keys, values in self._views(batch, length)])

    def step(self, batch: int, columns: int, position: Tensor) -> StaticCache:
        """For passes of one token a row at `position` [batch] (read at every pass), over the first `columns`."""
        return StaticCache([_StepLayer(keys, values, position) for keys, values in self._views(batch, columns)])

    def _views(self, batch: int, columns: int) -> list[tuple[Tensor, Tensor]]:
        return [(keys[:batch, :, :columns], values[:batch, :, :columns]) for keys, values in self._buffers]


class StaticCache(Cache):
    """What the decoder is given as past_key_values."""

    def __init__(self, layers: list[_Layer]) -> None:
        super().__init__(layers=layers)  # type: ignore[arg-type]


class _Layer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """keys, values: [B, Hk, n, d] views of the buffers."""

    keys: Tensor
    values: Tensor

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.keys, self.values = keys, values
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: the buffers exist."""

    def get_seq_length(self) -> int:
        """Tokens seen before: none as far as masks and positions go, which the caller gives."""
        return 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(columns, first column) a mask would have."""
        return query_length, 0

    def get_max_length(self) -> int:
        """Columns."""
        return int(self.keys.shape[2])


class _PrefillLayer(_Layer):  # type: ignore[no-untyped-call]
    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """[B, Hk, L, d] -> the same."""
        self.keys.copy_(key_states)
        self.values.copy_(value_states)
        return key_states, value_states


class _StepLayer(_Layer):  # type: ignore[no-untyped-call]
    def __init__(self, keys: Tensor, values: Tensor, position: Tensor) -> None:
        super().__init__(keys, values)
        self.position = position
        self.rows = torch.arange(len(position), device=position.device)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """[B, Hk, 1, d] -> all columns [B, Hk, M, d]."""
        self.keys[self.rows, :, self.position] = key_states[:, :, 0]
        self.values[self.rows, :, self.position] = value_states[:, :, 0]
        return self.keys, self.values
