"""Rows of the LLaVA instruction format: reading and checking them.

A file is a JSON list, or JSON lines (`.jsonl`), of rows such as

    {"id": "000000033471", "image": "coco/train2017/000000033471.jpg",
     "conversations": [{"from": "human", "value": "<image>\\nWhat is this?"}, {"from": "gpt", "value": "A bus."}]}

`image` is absent in text-only rows and may be a list. Other keys are ignored. `id` may be absent (the row index stands
in) and need not be unique: the public 665K mix repeats ids, so a row is known by its index, and messages name both.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llava.constants import DEFAULT_IMAGE_TOKEN

logger = logging.getLogger(__name__)

Row = dict[str, Any]

ROLES = ("human", "gpt")
TEXT_STRATUM = "text"
ROOT_STRATUM = "(root)"


def read_rows(path: str | Path) -> list[Row]:
    """Every row of a LLaVA JSON or JSON-lines file, all of them sound. Raises: as `scan_rows`."""
    return scan_rows(path)[0]


def scan_rows(path: str | Path, max_bad_rows: int = 0) -> tuple[list[Row], dict[int, str]]:
    """Read a LLaVA JSON or JSON-lines file and check every row.

    Args:
        path: the file.
        max_bad_rows: so many rows may break the format; each is logged.

    Returns:
        (all rows, what is wrong with the bad ones by index).

    Raises:
        ValueError: the file is missing or not JSON, or more rows are bad; names file, row index, id and key.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"data file {path} does not exist; check --data_path")
    rows = _read_lines(path) if path.suffix == ".jsonl" else _read_list(path)
    if not rows:
        raise ValueError(f"{path} holds no rows")
    bad: dict[int, str] = {}
    for index, row in enumerate(rows):
        try:
            check_row(row, index, path)
        except ValueError as error:
            bad[index] = str(error)
            if len(bad) > max_bad_rows:
                hint = f" ({len(bad)} bad rows so far, max_bad_rows is {max_bad_rows})" if max_bad_rows else ""
                raise ValueError(f"{error}{hint}") from error
            logger.warning("left out: %s", error)
    repeated = len(rows) - len({row_id(row, index) for index, row in enumerate(rows)})
    if repeated:
        logger.info("%s: %d of %d rows repeat an id; rows are told apart by index", path, repeated, len(rows))
    return rows, bad


def _read_list(path: Path) -> list[Row]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}; a file of JSON lines must be called .jsonl") from error
    if not isinstance(rows, list):
        raise ValueError(f"{path}: expected a JSON list of rows, got {type(rows).__name__}")
    return rows


def _read_lines(path: Path) -> list[Row]:
    rows: list[Row] = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise ValueError(f"{path} line {number} is not JSON: {error}") from error
    return rows


def check_row(row: object, index: int, path: str | Path) -> None:
    """Raise ValueError unless `row` follows the format described in this module."""
    if not isinstance(row, dict):
        raise ValueError(f"{path} row {index}: expected an object, got {type(row).__name__}")
    where = f"{path} row {index} (id {row_id(row, index)})"
    images = _checked_images(row, where)
    turns = _checked_turns(row, where)
    placeholders = sum(turn["value"].count(DEFAULT_IMAGE_TOKEN) for turn in turns)
    if placeholders != len(images):
        raise ValueError(
            f"{where}: key 'conversations' holds {placeholders} {DEFAULT_IMAGE_TOKEN} but key 'image' names "
            f"{len(images)} image(s); write one {DEFAULT_IMAGE_TOKEN} per image"
        )


def _checked_images(row: Row, where: str) -> list[str]:
    if "image" not in row:
        return []
    images = row["image"] if isinstance(row["image"], list) else [row["image"]]
    if not images or not all(isinstance(image, str) and image for image in images):
        raise ValueError(
            f"{where}: key 'image' must be a path or a list of paths, got {row['image']!r}; leave it out for text"
        )
    return images


def _checked_turns(row: Row, where: str) -> list[dict[str, str]]:
    if "conversations" not in row:
        raise ValueError(f"{where}: key 'conversations' is missing")
    turns = row["conversations"]
    if not isinstance(turns, list) or not turns:
        raise ValueError(f"{where}: key 'conversations' must be a list with at least one turn")
    for number, turn in enumerate(turns):
        if not isinstance(turn, dict) or not {"from", "value"} <= turn.keys():
            raise ValueError(f"{where}: turn {number} of 'conversations' needs keys 'from' and 'value', got {turn!r}")
        if turn["from"] not in ROLES:
            raise ValueError(f"{where}: turn {number} has 'from': {turn['from']!r}; known roles are {', '.join(ROLES)}")
        if not isinstance(turn["value"], str):
            raise ValueError(f"{where}: turn {number} has a {type(turn['value']).__name__} as 'value', expected text")
    # A conversation may open with an answer (shared chats do); that turn is dropped before training, as LLaVA does.
    first = 0 if turns[0]["from"] == "human" else 1
    for number, turn in enumerate(turns[first:]):
        if turn["from"] != ROLES[number % 2]:
            raise ValueError(f"{where}: turn {number + first} is from {turn['from']!r}; human and gpt must alternate")
        if turn["from"] == "gpt" and not turn["value"]:
            raise ValueError(f"{where}: turn {number + first} (gpt) is empty, so nothing could be learned from it")
    if len(turns) - first < 2:
        raise ValueError(f"{where}: 'conversations' needs a human turn and an answer to it")
    return turns


def row_id(row: object, index: int) -> str:
    """The row's id as text; the index where it has none."""
    return str(row.get("id", index)) if isinstance(row, dict) else str(index)


def images_of(row: Row) -> list[str]:
    """Image paths of a row as written in the file, empty for text-only rows."""
    if "image" not in row:
        return []
    image = row["image"]
    return image if isinstance(image, list) else [image]


def stratum_of(row: Row) -> str:
    """Where a row comes from: the first folder of its (first) image path (coco, gqa, vg, ...), or 'text'."""
    images = images_of(row)
    if not images:
        return TEXT_STRATUM
    folder, slash, _ = images[0].lstrip("./").partition("/")
    return folder if slash else ROOT_STRATUM


def word_count(row: Row) -> int:
    """Whitespace-separated words over all turns, at least 1: the cheap length the sampler groups by."""
    return max(1, sum(len(turn["value"].split()) for turn in row["conversations"]))


def word_counts(rows: Sequence[Row]) -> list[int]:
    return [word_count(row) for row in rows]
