"""Tables from evaluation records of the weights at hand, and from nothing else."""

import json
from pathlib import Path

import pytest

from llava.provenance import sha256_file
from llava.release.origin import ORIGIN, read_origins, write_origin
from llava.release.results import NO_HASH, OTHER_WEIGHTS, Results, read_results, render_results

ROOT = Path(__file__).resolve().parents[3]


def write_record(folder: Path, release: Path, cell: str, total: int | None, **keys: object) -> None:
    """Records of two benchmarks of a cell, measured on the weights in `release`."""
    hashes = {f"model/{path.name}": sha256_file(path) for path in release.glob("*.*") if path.suffix != ".md"}
    for task, headline, n in (("pope", 81.25, 8), ("gqa", 50.0, 4)):
        record = {
            "cell": cell,
            "task": task,
            "method": cell.split("-")[0],
            "status": "complete",
            "model": {"path": "x"},
            "budget": None if total is None else {"total": total},
            "tokens_per_image": float(total or 144),
            "headline": headline,
            "n": n,
            "inputs": {"weights": hashes},
            "stamp": {"commit": "c0ffee", "date": "2026-01-01"},
        } | keys
        (folder / "cells" / cell).mkdir(parents=True, exist_ok=True)
        (folder / "cells" / cell / f"{task}.json").write_text(json.dumps(record))


def weights(folder: Path, content: str, name: str = "mm_projector.bin") -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    (folder / name).write_text(content)
    (folder / "config.json").write_text("{}")
    return folder


def cells(results: Results) -> list[str]:
    return [row["cell"] for row in results.rows]


def test_a_table_of_records(tmp_path: Path) -> None:
    release = weights(tmp_path / "release", "a")
    write_record(tmp_path, release, "visionzip-16", 16)
    write_record(tmp_path, release, "visionzip-48", 48, headline=40.625)
    write_record(tmp_path, release, "dense", None)
    write_record(tmp_path, release, "pool-16", 16, status="failed", headline=None, tokens_per_image=None)
    results = read_results(tmp_path, release)
    assert cells(results) == ["dense", "visionzip-48", "pool-16", "visionzip-16"] and not results.left_out
    assert results.rows[0]["tasks"]["pope"] == {"figure": 81.25, "n": 8, "status": "complete"}
    assert results.rows[0]["commits"] == ["c0ffee"]
    assert render_results(results.rows).splitlines() == [
        "| Method | Visual tokens | GQA | POPE | of dense |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| dense | 144 | 50 | 81.2 | 100.0% |",
        "| visionzip | 48 | 40.6 | 40.6 | 65.6% |",
        "| pool | - | failed | failed | - |",
        "| visionzip | 16 | 50 | 81.2 | 100.0% |",
    ]


def test_records_of_other_weights_are_left_out_and_counted(tmp_path: Path) -> None:
    """Same method, same budget, same path, other weights; and a hub id, which says nothing of the bits."""
    release, other = weights(tmp_path / "release", "a"), weights(tmp_path / "other", "b")
    write_record(tmp_path, release, "visionzip-16", 16)
    write_record(tmp_path, other, "visionzip-tuned-16", 16)
    write_record(tmp_path, other, "dense", None)
    write_record(tmp_path, release, "hub-16", 16, inputs={"weights": {"model": "org/name"}})
    results = read_results(tmp_path, release)
    assert cells(results) == ["visionzip-16"] and results.left_out == {OTHER_WEIGHTS: 4, NO_HASH: 2}
    with pytest.raises(ValueError, match=r"none of its 8 records was measured on .*none.*leave --results"):
        read_results(tmp_path, weights(tmp_path / "none", "c"))


@pytest.mark.parametrize("by_name", [False, True])
def test_a_merge_is_measured_by_its_tuned_part_beside_the_dense_base(tmp_path: Path, by_name: bool) -> None:
    """The base of the evaluation was a folder, or a hub id: then the dense cell is the one of the same id."""
    tuned, base = weights(tmp_path / "tuned", "a"), weights(tmp_path / "base", "b", "model.safetensors")
    merged = weights(tmp_path / "merged", "ab", "model.safetensors")
    write_origin(merged, tuned, base)
    own = {"model/mm_projector.bin": sha256_file(tuned / "mm_projector.bin")}
    its_base = {"base": "org/b"} if by_name else {"base/model.safetensors": sha256_file(base / "model.safetensors")}
    of_base = {name.replace("base", "model"): value for name, value in its_base.items()}
    write_record(tmp_path, tuned, "visionzip-tuned-16", 16, inputs={"weights": own | its_base})
    write_record(tmp_path, base, "dense", None, inputs={"weights": of_base})
    write_record(tmp_path, base, "visionzip-16", 16, inputs={"weights": of_base})
    results = read_results(tmp_path, merged)
    assert cells(results) == ["dense", "visionzip-tuned-16"]
    assert [row["of_base"] for row in results.rows] == [True, False]
    assert "| dense (base) | 144 |" in render_results(results.rows)
    assert sum(results.left_out.values()) == 2


def test_the_same_projector_over_another_base_is_another_model(tmp_path: Path) -> None:
    tuned, base = weights(tmp_path / "tuned", "a"), weights(tmp_path / "base", "b", "model.safetensors")
    merged = weights(tmp_path / "merged", "ab", "model.safetensors")
    write_origin(merged, tuned, base)
    own = {"model/mm_projector.bin": sha256_file(tuned / "mm_projector.bin"), "base/model.safetensors": "0" * 64}
    write_record(tmp_path, tuned, "visionzip-16", 16, inputs={"weights": own})
    with pytest.raises(ValueError, match="none of its 2 records"):
        read_results(tmp_path, merged)


def test_an_export_passes_its_origin_on(tmp_path: Path) -> None:
    tuned, base = weights(tmp_path / "tuned", "a"), weights(tmp_path / "base", "b", "model.safetensors")
    merged = weights(tmp_path / "merged", "ab", "model.safetensors")
    write_origin(merged, tuned, base)
    exported = weights(tmp_path / "exported", "AB", "model.safetensors")
    write_origin(exported, merged)
    assert (exported / ORIGIN).read_bytes() == (merged / ORIGIN).read_bytes()
    assert read_origins(exported)[0][1] == {"mm_projector.bin": sha256_file(tuned / "mm_projector.bin")}


def test_the_tracked_records_are_read() -> None:
    """Those of the tracked base: every untuned cell, and no tuned one."""
    results = read_results(ROOT / "results" / "miniature", ROOT / "playground" / "miniature" / "llava-mini-v1.5")
    assert results.rows[0]["method"] == "dense" and {row["budget"] for row in results.rows} == {None, 48, 32, 16}
    assert not [cell for cell in cells(results) if "tuned" in cell] and results.left_out[OTHER_WEIGHTS] >= 3


def test_no_records_and_broken_ones(tmp_path: Path) -> None:
    release = weights(tmp_path / "release", "a")
    with pytest.raises(ValueError, match=r"no records in .*cells; make them with python -m llava\.eval\.grid"):
        read_results(tmp_path, release)
    (tmp_path / "cells" / "a").mkdir(parents=True)
    (tmp_path / "cells" / "a" / "gqa.json").write_text('{"cell": "a"}')
    with pytest.raises(ValueError, match=r"gqa\.json is no record of an evaluation: it has no method"):
        read_results(tmp_path, release)
