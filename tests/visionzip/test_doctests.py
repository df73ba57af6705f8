from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import visionzip

MODULES = sorted(info.name for info in pkgutil.walk_packages(visionzip.__path__, "visionzip."))
WITH_EXAMPLES = {"visionzip.core.budget", "visionzip.core.merge", "visionzip.core.select", "visionzip.registry"}


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name: str) -> None:
    if name.endswith("_triton"):
        pytest.importorskip("triton")
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0
    assert result.attempted > 0 or name not in WITH_EXAMPLES
