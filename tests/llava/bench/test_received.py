"""The benchmark of attention received: rows that hold what they say, and a reason where there is no figure."""

from __future__ import annotations

import pytest
import torch

from llava.bench import received
from llava.bench.received import GIB, GPU_SIZES, Size, map_bytes, measure

SMALL = Size(2, 300, heads=3, width=9, rounds=3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_of_a_cpu(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(received, "_chunked", lambda q, k: received.received_chunked(q, k, 9**-0.5, block=30 * 900))
    rows = {row["way"]: row for row in measure("cpu", dtype, [SMALL])}
    assert list(rows) == ["materialised", "chunked"]
    for row in rows.values():
        assert (row["tiles"], row["patches"], row["heads"], row["width"]) == (2, 300, 3, 9)
        assert 0 < row["seconds"]["p10"] <= row["seconds"]["median"] <= row["seconds"]["p90"]
        assert row["seconds"]["n"] == 3
    assert rows["chunked"]["max_relative_error"] < 1e-5
    # the plain way rounds its scores to the inputs' precision
    assert rows["materialised"]["max_relative_error"] < (1e-5 if dtype == torch.float32 else 0.1)
    needed = map_bytes(SMALL, dtype)
    assert 0.6 * needed < rows["materialised"]["peak_bytes"] < 1.1 * needed
    assert rows["chunked"]["peak_bytes"] < needed / 4


def test_a_map_too_large_is_a_row_that_says_so() -> None:
    materialised, chunked = measure("cpu", torch.float32, [SMALL], map_limit=3 << 20)
    assert "seconds" not in materialised
    assert materialised["not_measured"].startswith("needs 0.00 GiB")
    assert chunked["max_error"] < 1e-7  # the reference goes head by head and still fits
    _, chunked = measure("cpu", torch.float32, [SMALL], map_limit=1 << 20)
    assert chunked["max_error"] is None and chunked["seconds"]["n"] == 3


def test_the_error_is_against_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(received, "_chunked", lambda q, k: received.materialised(q, k) + 1e-3)
    rows = measure("cpu", torch.float32, [SMALL])
    assert rows[0]["max_error"] < 1e-6
    assert rows[1]["max_error"] == pytest.approx(1e-3, rel=1e-3)


def test_bytes_of_a_map() -> None:
    assert map_bytes(Size(1, 16384), torch.float32) == 32 * GIB
    assert map_bytes(Size(1, 16384), torch.bfloat16) == 40 * GIB
    assert {size.patches for size in GPU_SIZES} == {729, 4096, 16384}


@pytest.mark.gpu
def test_rows_of_a_gpu() -> None:
    rows = {row["way"]: row for row in measure("cuda", torch.bfloat16, [Size(1, 729, rounds=3)])}
    assert rows["triton"]["max_relative_error"] < 2e-5
    assert rows["triton"]["peak_bytes"] < rows["materialised"]["peak_bytes"] / 20
