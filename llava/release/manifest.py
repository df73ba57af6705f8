"""manifest.json: what a release folder holds, where it comes from, and what it must answer when it is loaded back."""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llava.model.weight_files import listed, read_json
from llava.provenance import sha256_file, stamp, without_machine_paths
from llava.release.folders import MANIFEST, read_run, write_json
from llava.release.probe import check_probe, record_probe
from llava.release.results import read_results

logger = logging.getLogger(__name__)

FORMAT = 1


def write_manifest(
    folder: Path,
    base: str | None = None,
    base_model: str | None = None,
    results: Path | None = None,
    dtype: str = "float32",
    device: str = "cpu",
) -> Path:
    """Hash every file of a release, run the probe, and write manifest.json.

    Args:
        folder: of the release; its run.json, if there is one, says base model, data and recipe.
        base: folder or hub id of the base, needed to load a projector or LoRA release.
        base_model: name of the model this was trained on; default: as run.json has it.
        results: folder of evaluation records; those of these weights are the metrics.
        dtype, device: of the probe.

    Raises:
        ValueError: the folder does not load, or run.json or a record is broken, or no record is of these weights.
    """
    run = read_run(folder)
    arguments = run.get("arguments") or {}
    record: dict[str, Any] = {
        "format": FORMAT,
        "files": describe_files(folder),
        "base_model": base_model or recorded_base(run),
        "data": run.get("data"),
        "recipe": {"stage": run.get("stage"), "trained_parts": run.get("trained_parts"), "arguments": arguments},
        "compressor": run.get("compressor"),
        "training": run.get("stamp"),
        "metrics": None if results is None else asdict(read_results(results, folder)),
        "probe": record_probe(folder, base, dtype, device),
        "stamp": stamp(dtype=dtype),
    }
    write_json(folder / MANIFEST, without_machine_paths(record))
    logger.info("%s: %d files", folder / MANIFEST, len(record["files"]))
    return folder / MANIFEST


def verify(folder: Path, base: str | None = None, device: str = "cpu") -> dict[str, Any]:
    """Compare every file with the manifest, load the release back and run its probe again; returns the manifest.

    Raises:
        ValueError: a file is missing, changed or not listed; the release does not load; a logit differs.
    """
    manifest = read_json(folder / MANIFEST)
    if manifest.get("format") != FORMAT or not manifest.get("files") or not manifest.get("probe"):
        raise ValueError(
            f"{folder / MANIFEST} is no manifest of format {FORMAT}; write it with python -m llava.release manifest"
        )
    _check_files(folder, manifest["files"])
    worst = check_probe(manifest["probe"], folder, base, device)
    logger.info("%s: %d files as listed, logits within %.3g", folder, len(manifest["files"]), worst)
    return manifest


def describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Relative name -> sha256 and bytes of every file, the manifest itself and names that start with a dot left out."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in files}
    return {
        name: {"sha256": sha256_file(path), "bytes": path.stat().st_size}
        for name, path in names.items()
        if name != MANIFEST and not any(part.startswith(".") for part in name.split("/"))
    }


def recorded_base(run: dict[str, Any]) -> str | None:
    """The model a run started from, as its run.json has it."""
    model = (run.get("arguments") or {}).get("model") or {}
    name: str | None = model.get("model_name_or_path")
    return name


def _check_files(folder: Path, promised: dict[str, dict[str, Any]]) -> None:
    found = describe_files(folder)
    problems = {
        "missing": sorted(promised.keys() - found.keys()),
        "not listed": sorted(found.keys() - promised.keys()),
        "changed": sorted(name for name in promised.keys() & found.keys() if promised[name] != found[name]),
    }
    said = [f"{what}: {listed(names)}" for what, names in problems.items() if names]
    if said:
        raise ValueError(
            f"{folder} is not what its {MANIFEST} lists ({'; '.join(said)}). Get the files again, or, if the change is "
            f"meant, write the manifest anew: python -m llava.release manifest {folder}"
        )
