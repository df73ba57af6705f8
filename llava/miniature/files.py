"""Writing the miniature's files: whole or not at all, and pictures by several processes."""

import base64
import io
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from llava.miniature.world import Scene, render
from llava.utils import write_text

logger = logging.getLogger(__name__)

JPEG_QUALITY = 92


def write_json(path: Path, value: Any) -> None:
    """JSON, one blank a level."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """JSON lines."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def paint(pictures: Iterable[tuple[Path, Scene]], workers: int) -> None:
    """Write each scene as a picture: PNG where the name ends so, else JPEG; folders are made."""
    jobs = list(pictures)
    for folder in {path.parent for path, _ in jobs}:
        folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(workers) as pool:
        for done, _ in enumerate(pool.map(_paint, jobs, chunksize=64)):
            if done and done % 2000 == 0:
                logger.info("painted %d of %d pictures", done, len(jobs))


def encode(scenes: Sequence[Scene], workers: int) -> list[str]:
    """Each scene as base64 text of a JPEG, as tables hold pictures."""
    with ProcessPoolExecutor(workers) as pool:
        return list(pool.map(_encode, scenes, chunksize=16))


def _paint(job: tuple[Path, Scene]) -> None:
    path, scene = job
    if path.suffix == ".png":
        render(scene).save(path, "PNG")
    else:
        render(scene).save(path, "JPEG", quality=JPEG_QUALITY)


def _encode(scene: Scene) -> str:
    written = io.BytesIO()
    render(scene).save(written, "JPEG", quality=JPEG_QUALITY)
    return base64.b64encode(written.getvalue()).decode("ascii")
