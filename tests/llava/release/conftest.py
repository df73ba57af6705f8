"""Tiny checkpoints, written and exported once for all release tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from llava.release.to_hf import to_hf
from tests.tiny_release import ZIP, write_checkpoint


@pytest.fixture(scope="session")
def v15(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A v1.5 checkpoint whose config names a compressor; its tower beside it."""
    return write_checkpoint(tmp_path_factory.mktemp("v15"), mm_compressor=ZIP)


@pytest.fixture(scope="session")
def exported(v15: Path) -> Path:
    """The same in transformers' layout."""
    return to_hf(str(v15), v15.parent / "exported", shard_gb=1e-4)
