"""Tables from evaluation records, and from nothing else."""

import json
from pathlib import Path

import pytest

from llava.release.results import read_results, render_results

ROOT = Path(__file__).resolve().parents[3]


def write_record(folder: Path, cell: str, total: int | None, **keys: object) -> None:
    record = {
        "cell": cell,
        "method": cell.split("-")[0],
        "status": "complete",
        "model": {"path": "x"},
        "budget": None if total is None else {"total": total},
        "tokens_per_image": float(total or 144),
        "tasks": {"pope": {"accuracy": 81.25, "n": 8, "f1": 80.0}, "gqa": {"accuracy": 50.0, "n": 4}},
        "average": 65.625,
        "stamp": {"commit": "c0ffee", "date": "2026-01-01"},
    } | keys
    (folder / "cells").mkdir(parents=True, exist_ok=True)
    (folder / "cells" / f"{cell}.json").write_text(json.dumps(record))


def test_a_table_of_records(tmp_path: Path) -> None:
    write_record(tmp_path, "visionzip-16", 16)
    write_record(tmp_path, "visionzip-48", 48)
    write_record(tmp_path, "dense", None)
    write_record(tmp_path, "pool-16", 16, status="failed", tasks={}, average=None, tokens_per_image=None)
    rows = read_results(tmp_path)
    assert [row["cell"] for row in rows] == ["dense", "visionzip-48", "pool-16", "visionzip-16"]
    assert rows[0]["tasks"]["pope"] == {"accuracy": 81.25, "n": 8} and rows[0]["commit"] == "c0ffee"
    assert render_results(rows).splitlines() == [
        "| Method | Visual tokens | GQA | POPE | Average |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| dense | 144 | 50 | 81.2 | 65.6 |",
        "| visionzip | 48 | 50 | 81.2 | 65.6 |",
        "| pool | - | failed | failed | - |",
        "| visionzip | 16 | 50 | 81.2 | 65.6 |",
    ]


def test_the_tracked_records_are_read() -> None:
    folder = ROOT / "results" / "miniature"
    rows = read_results(folder)
    assert rows[0]["method"] == "dense" and len(rows) == len(list((folder / "cells").glob("*.json")))
    assert f"| {rows[0]['average']:.1f} |" in render_results(rows)


def test_no_records_and_broken_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no records in .*cells; make them with python -m llava\.eval\.grid"):
        read_results(tmp_path)
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "a.json").write_text('{"cell": "a"}')
    with pytest.raises(ValueError, match=r"a\.json is no record of an evaluation: it has no method"):
        read_results(tmp_path)
