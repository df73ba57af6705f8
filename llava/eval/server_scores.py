"""Scores that only a server can give, entered by hand into the records of the answers it was sent."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from llava.eval.cells import COMPLETE, read_record, record_file, write_record

ENTERED = "from the server, entered by hand"


def enter_score(folders: Sequence[Path], entry: str) -> None:
    """Complete a record by a score in percent. It stays with the record, and so is lost when other answers replace it.

    Args:
        folders: of records; one of them has the record.
        entry: "<cell>/<benchmark>=<score>"

    Raises:
        ValueError: not of that form, no such record or several, or one that no server scores.
    """
    name, _, text = entry.rpartition("=")
    cell, _, task = name.rpartition("/")
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not cell or not task or not 0 <= score <= 100:
        raise ValueError(f"--server: expected CELL/BENCHMARK=SCORE with a score in percent; got {entry!r}")
    found = [folder for folder in folders if record_file(folder, cell, task).is_file()]
    if not found:
        where = ", ".join(map(str, folders)) or "--records"
        raise ValueError(f"--server {entry}: no record {name} in {where}; answer the benchmark first")
    if len(found) > 1:
        where = ", ".join(map(str, found))
        raise ValueError(f"--server {entry}: {where} each have a record {name}; enter it with one of them alone")
    (folder,) = found
    record = read_record(record_file(folder, cell, task))
    if record.server is None:
        raise ValueError(f"--server {entry}: {name} is {record.status} and no server scores it")
    figures = {**record.figures, "source": ENTERED}
    write_record(folder, replace(record, status=COMPLETE, headline=score, figures=figures))
