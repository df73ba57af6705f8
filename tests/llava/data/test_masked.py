"""Rows whose labels cannot be made: a count over all workers, names in the log, an error above the cap."""

import json
import logging
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch

from llava.constants import IGNORE_INDEX
from llava.data.dataset import LazySupervisedDataset
from llava.data.masked import MaskedRows
from llava.model.tokenizer import load_tokenizer
from tests.tiny_data import write_data
from tests.tiny_text import build_sentencepiece


def dataset(tmp_path: Path, bad: int, allowed: int) -> LazySupervisedDataset:
    """Captions, of which the first `bad` have two rounds: the plain template cannot mask those."""
    data = write_data(tmp_path, rows=6, text_rows=0)
    content: list[dict[str, Any]] = json.loads(data.read_text())
    for row in content[:bad]:
        row["conversations"] += [{"from": "human", "value": "And?"}, {"from": "gpt", "value": "Red."}]
    data.write_text(json.dumps(content))
    tokenizer = load_tokenizer(build_sentencepiece(tmp_path / "tokenizer"))
    return LazySupervisedDataset(data, tokenizer, version="plain", max_bad_rows=allowed, **_tower(tmp_path))


def _tower(tmp_path: Path) -> dict[str, Any]:
    from tests.tiny import tiny_image_processor

    return {"image_folder": tmp_path, "image_processor": tiny_image_processor()}


def test_within_the_cap_a_row_is_named_counted_and_teaches_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = dataset(tmp_path, bad=2, allowed=2)
    with caplog.at_level(logging.WARNING):
        samples = [rows[position] for position in (1, 0, 1, 5)]
    assert [bool((sample["labels"] != IGNORE_INDEX).any()) for sample in samples] == [False, False, False, True]
    assert all(len(sample["images"]) == 1 and len(sample["labels"]) == 1 for sample in samples[:3])
    assert len(caplog.records) == 2  # a row counts once
    for word in ("1 of at most 2", "mix.json row 1 (id 1)", "plain template"):
        assert word in caplog.text
    assert rows.masked.positions() == [0, 1]


def test_above_the_cap_the_run_stops_with_the_count(tmp_path: Path) -> None:
    rows = dataset(tmp_path, bad=3, allowed=2)
    rows[0], rows[1]
    with pytest.raises(ValueError, match=r"row 2 .id 2.*plain template.*3 rows without labels.*max_bad_rows allows 2"):
        rows[2]


def test_without_a_cap_the_first_one_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"row 0 .id 0.: the plain template takes"):
        dataset(tmp_path, bad=1, allowed=0)[0]


def test_workers_share_the_count() -> None:
    rows = MaskedRows(4, allowed=2)
    context = multiprocessing.get_context("fork")
    for position in (3, 1):
        worker = context.Process(target=rows.add, args=(position, "no", "row"))
        worker.start()
        worker.join()
    assert rows.positions() == [1, 3]
    with pytest.raises(ValueError, match="3 rows without labels"):
        rows.add(0, "no", "row")


def test_what_other_processes_found_counts() -> None:
    rows = MaskedRows(4, allowed=2)
    rows.add(0, "no", "row")
    rows.include(torch.tensor([True, False, True, False]))
    assert rows.positions() == [0, 2]
    with pytest.raises(ValueError, match="3 rows without labels over all processes, max_bad_rows allows 2"):
        rows.include(torch.tensor([False, True, False, False]))


def test_a_checkpoint_keeps_the_list(tmp_path: Path) -> None:
    rows = MaskedRows(4, allowed=2)
    rows.save(tmp_path)
    assert not list(tmp_path.iterdir())
    MaskedRows(7, allowed=0).restore(tmp_path)
    for position in (3, 1):
        rows.add(position, "no", "row")
    rows.save(tmp_path)
    resumed = MaskedRows(4, allowed=2)
    resumed.restore(tmp_path)
    assert resumed.positions() == [1, 3]
    with pytest.raises(ValueError, match="3 rows without labels"):
        resumed.add(0, "no", "row")
    with pytest.raises(ValueError, match="was trained on 4 rows, this run has 5"):
        MaskedRows(5, allowed=2).restore(tmp_path)
