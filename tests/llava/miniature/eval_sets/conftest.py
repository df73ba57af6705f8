"""One small set of twins for all tests."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llava.miniature.eval_sets import write_eval

QUESTIONS = 40


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that mirrors playground/data/eval."""
    out = tmp_path_factory.mktemp("twins")
    write_eval(out, QUESTIONS, workers=1)
    return out / "eval"


@pytest.fixture(scope="session")
def lines(root: Path) -> Callable[[str], list[dict[str, Any]]]:
    """JSON lines of a file below the root."""
    return lambda name: [json.loads(line) for line in (root / name).read_text().splitlines()]


@pytest.fixture(scope="session")
def whole(root: Path) -> Callable[[str], Any]:
    """A JSON file below the root."""
    return lambda name: json.loads((root / name).read_text())
