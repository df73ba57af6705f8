"""Shards: their union is the whole, and small files do not break them."""

import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava.eval.shards import Shard, launched_shard, part_files, process_start


@given(st.integers(0, 40), st.integers(1, 12))
def test_the_union_of_the_shards_is_the_whole_in_order(n, count):
    items = list(range(n))
    assert [item for index in range(count) for item in Shard(index, count).take(items)] == items


def test_more_shards_than_items_leaves_the_last_ones_empty():
    assert [Shard(i, 4).take([1, 2, 3, 4, 5]) for i in range(4)] == [[1, 2], [3, 4], [5], []]


@pytest.mark.parametrize(("index", "count"), [(2, 2), (-1, 2), (0, 0)])
def test_an_index_outside_is_refused(index, count):
    with pytest.raises(ValueError, match=f"got index {index} of {count}"):
        Shard(index, count)


def test_the_launcher_says_the_shard():
    assert launched_shard({}) is None
    assert launched_shard({"RANK": "0", "WORLD_SIZE": "1"}) is None
    assert launched_shard({"RANK": "1", "WORLD_SIZE": "3"}) == Shard(1, 3)
    with pytest.raises(ValueError, match="RANK and WORLD_SIZE"):
        launched_shard({"RANK": "x", "WORLD_SIZE": "3"})


def test_a_process_knows_when_it_began():
    before = time.time()
    program = "import time; time.sleep(0.5); from llava.eval.shards import process_start; print(process_start())"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert before - 0.1 <= float(said.stdout) <= before + 0.4
    assert process_start() < before


def test_part_files_are_found_whatever_the_number_of_ranks(tmp_path):
    target = tmp_path / "a.jsonl"
    for shard in (Shard(0, 2), Shard(1, 3)):
        shard.part_file(target).touch()
    (tmp_path / "b.part0of2.jsonl").touch()
    (tmp_path / "a.part0of2.jsonl.settings.json").touch()
    assert [p.name for p in part_files(target)] == ["a.part0of2.jsonl", "a.part1of3.jsonl"]
    assert part_files(tmp_path / "none" / "a.jsonl") == []
