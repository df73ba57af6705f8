"""Judgements that were paid for, kept: one JSON line each, appended as it comes.

A kill loses nothing but the call under way. Several programs may append to one file: every line is one write.
"""

import json
import logging
import os
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llava.eval.judge.client import Request, Said

logger = logging.getLogger(__name__)


class Cache:
    """Judgements of a file by `Request.digest`. The first of two under one digest counts; threads may share it."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._lock = threading.Lock()
        self._said, self._whole = _load(file)

    def __len__(self) -> int:
        return len(self._said)

    def get(self, request: Request, attempt: int) -> Said | None:
        """What was said to this attempt, None if it was never asked."""
        return self._said.get(request.digest(attempt))

    def add(self, request: Request, attempt: int, said: Said) -> Said:
        """Keep what was said -> what counts from now on."""
        digest = request.digest(attempt)
        row = {
            "digest": digest,
            "task": request.task,
            "question_id": request.key,
            "judge": request.model,
            "temperature": request.at(attempt),
            "attempt": attempt,
            **asdict(said),
        }
        with self._lock:
            self._append(json.dumps(row, ensure_ascii=False) + "\n")
            return self._said.setdefault(digest, said)

    def _append(self, line: str) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        text = line if self._whole else "\n" + line  # a torn line stays alone
        place = os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(place, text.encode())
        finally:
            os.close(place)
        self._whole = True


def _load(file: Path) -> tuple[dict[str, Said], bool]:
    """(judgements, whether the file ends in a whole line). A line that a kill cut short is asked again: that is all it
    costs."""
    if not file.exists():
        return {}, True
    data = file.read_bytes()
    said: dict[str, Said] = {}
    torn = 0
    for line in data.split(b"\n"):
        if not line.strip():
            continue
        try:
            digest, one = _parse(json.loads(line))
        except (ValueError, KeyError, TypeError):
            torn += 1
            continue
        said.setdefault(digest, one)
    if torn:
        logger.warning("%s: %d line(s) cut short (a killed run); they are asked again", file, torn)
    return said, data.endswith(b"\n") or not data


def _parse(row: dict[str, Any]) -> tuple[str, Said]:
    if not isinstance(row["text"], str):
        raise ValueError(f"expected 'text' to be a string, got {row['text']!r}")
    said = Said(
        row["text"],
        str(row["served_by"]),
        row.get("prompt_tokens"),
        row.get("completion_tokens"),
        tuple(row.get("unsent", ())),
    )
    return str(row["digest"]), said
