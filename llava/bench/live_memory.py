"""Bytes of tensors alive at one time, counted instead of read from an allocator.

    with LivePeak() as live:
        loss.backward()
    live.peak   # bytes of the tensors made inside the block, at the worst moment

Works on every device and, under FakeTensorMode, for models no machine here could hold. What an allocator adds (blocks,
fragments, the CUDA context) is not counted; on a GPU `torch.cuda.max_memory_allocated` measures that.
"""

import weakref
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LivePeak(TorchDispatchMode):  # type: ignore[misc, unused-ignore]
    """Counts storages from the operation that made them to their end. `now` and `peak` are in bytes.

    Operations see a tensor when torch calls them, so what an operation uses inside itself is not counted. Tensors that
    came into being before the block are not counted either.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {_identity(leaf) for leaf in tree_leaves((args, kwargs or {})) if isinstance(leaf, Tensor)}
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and _identity(leaf) not in before:
                self._count(leaf)
        return out

    def restart(self) -> int:
        """The peak so far, in bytes; the next one begins with what is alive now."""
        peak, self.peak = self.peak, self.now
        return peak

    def _count(self, tensor: Tensor) -> None:
        identity = _identity(tensor)
        if identity in self._known:
            return
        storage = tensor.untyped_storage()
        size = storage.nbytes()
        self._known.add(identity)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._end, identity, size)

    def _end(self, identity: int, size: int) -> None:
        self._known.discard(identity)
        self.now -= size


def _identity(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
