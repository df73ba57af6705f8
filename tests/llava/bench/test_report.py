"""The tables of docs/training.md are those of the records."""

import json
from pathlib import Path

import pytest

from llava.bench.report import fill, render, speed_table

ROOT = Path(__file__).parents[3]


def test_the_page_shows_the_records() -> None:
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    assert render(page, ROOT / "results") == page, "run: python -m llava.bench.report"


def test_absolute_speed_is_shown_for_a_gpu_only() -> None:
    record = json.loads((ROOT / "results/train_speed/miniature.json").read_text())
    assert "rows/s" not in speed_table(record)
    record["stamp"]["device"] = "NVIDIA H100"
    assert "rows/s" in speed_table(record)


def test_markers() -> None:
    page = "a\n<!-- x:start -->\nold\n<!-- x:end -->\nb"
    assert fill(page, "x", "| new |") == "a\n<!-- x:start -->\n| new |\n<!-- x:end -->\nb"
    with pytest.raises(ValueError, match="once each"):
        fill("nothing", "x", "")


def test_missing_records_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"miniature\.json is missing"):
        render("", tmp_path)
