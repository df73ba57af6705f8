"""RoPE settings in a saved config as the public LLaVA tree, on transformers 4, reads them."""

from __future__ import annotations

from typing import Any


class PublicRope:
    """Mixin for configs. Transformers 5 writes `rope_parameters`; version 4 knows `rope_theta` and `rope_scaling` only
    and falls back to its defaults without them: a model with another base would load there and answer nonsense.

    Both are written; version 5 reads the file back to the same config.
    """

    def to_diff_dict(self) -> dict[str, Any]:
        """What config.json holds: the differences to the defaults, and RoPE under its older names."""
        values: dict[str, Any] = super().to_diff_dict()  # type: ignore[misc]
        rope = getattr(self, "rope_parameters", None) or {}
        if "rope_theta" in rope:
            values["rope_theta"] = rope["rope_theta"]
            kind = rope.get("rope_type", "default")
            values["rope_scaling"] = (
                {"type": kind, "factor": float(rope["factor"])} if kind in ("linear", "dynamic") else None
            )
        return values
