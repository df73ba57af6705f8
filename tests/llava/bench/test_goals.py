"""A goal's verdict follows the record's numbers."""

from __future__ import annotations

from typing import Any

import pytest

from llava.bench.goals import GOALS, goal_sheet
from tests import bench_records as made

BLOCKS, FACE, OFFICIAL, MEMORY, FIRST, FLOOR, LOOP, LARGER = (goal.what for goal in GOALS)


def verdicts(goal: str, *records: dict[str, Any]) -> list[tuple[str, str]]:
    """(measured, verdict) of one goal."""
    return [(row[2], row[3]) for row in goal_sheet(records).rows if row[0] == goal]


def encoder_row(record: dict[str, Any], way: str, tiles: int = 5) -> dict[str, Any]:
    (row,) = (row for row in record["cases"] if (row["way"], row["tiles"]) == (way, tiles))
    return row


def case_row(record: dict[str, Any], case: str) -> dict[str, Any]:
    (row,) = (row for row in record["cases"] if row["case"] == case and row.get("batch", 1) == 1)
    return row


def test_without_records_nothing_is_measured() -> None:
    rows = goal_sheet([]).rows
    assert [row[0] for row in rows] == [goal.what for goal in GOALS]
    assert {(row[2], row[3]) for row in rows} == {("-", "not measured")}


def test_encoder_goals() -> None:
    record = made.encoder()
    assert verdicts(BLOCKS, record) == [("1.020x", "met")] * 2  # one and five tiles
    assert verdicts(FACE, record) == [("0.927x", "met")] * 2  # 1.02 / 1.1
    assert verdicts(MEMORY, record) == [("0.100x", "met")] * 2  # 50 / 500
    encoder_row(record, "visionzip")["times_the_blocks"] = made.spread(1.2)
    encoder_row(record, "visionzip")["peak_bytes"] = 101e6
    assert verdicts(BLOCKS, record) == [("1.020x", "met"), ("1.200x", "not met")]
    assert verdicts(FACE, record)[1] == ("1.091x", "not met")
    assert verdicts(MEMORY, record)[1] == ("0.202x", "not met")


def test_time_against_the_official_style_is_a_goal_for_gpus() -> None:
    record = made.encoder()
    assert verdicts(OFFICIAL, record) == [("0.510x", "met")] * 2
    encoder_row(record, "visionzip", 1)["times_official"] = made.spread(0.61)
    assert verdicts(OFFICIAL, record)[0] == ("0.610x", "not met")


def test_a_cpu_decides_about_memory_only() -> None:
    """Its times scatter by more than what the goals are about."""
    record = made.encoder(made.CPU)
    for goal in (OFFICIAL, BLOCKS, FACE):
        assert verdicts(goal, record) == [("-", "not measured")]
    assert verdicts(MEMORY, record) == [("0.100x", "met")] * 2


def test_encoder_goals_are_about_clip_large() -> None:
    assert verdicts(BLOCKS, made.encoder(tower_width=64)) == [("-", "not measured")]


def test_first_token_goals() -> None:
    """Each path against dense on the same path: 10 on `plain`; 0.16 / 0.0144 s on `fast`."""
    record = made.latency()
    assert verdicts(FIRST, record) == [("10.000x", "met"), ("11.111x", "met")]
    assert verdicts(FLOOR, record) == [("2.000x", "not met"), ("1.440x", "met")]
    case_row(record, "visionzip-32")["speedup_first"] = made.spread(7.9)
    case_row(record, "visionzip-32 fast")["times_floor_first"] = 1.51
    assert verdicts(FIRST, record)[0] == ("7.900x", "not met")
    assert verdicts(FLOOR, record)[1] == ("1.510x", "not met")


@pytest.mark.parametrize(
    "record",
    [made.latency(made.CPU), made.latency(bits=4), made.latency(name=f"{made.NEXT_7B} (reduced)")],
    ids=["CPU", "4 bits", "reduced"],
)
def test_first_token_goals_are_about_the_whole_model_on_a_gpu(record: dict[str, Any]) -> None:
    assert verdicts(FIRST, record) == verdicts(FLOOR, record) == [("-", "not measured")]


def test_loop_goal() -> None:
    record = made.throughput()
    assert verdicts(LOOP, record) == [("5.000x", "met")]
    case_row(record, "visionzip-32")["speedup"] = made.spread(3.99)
    assert verdicts(LOOP, record) == [("3.990x", "not met")]


def test_larger_model_goal() -> None:
    small, large = made.latency(), made.latency(name=made.NEXT_13B)
    large["cases"] = [
        made.case("dense", None, 0.35, tokens=2880),
        made.case("visionzip", 128, 0.15, tokens=640),
    ]
    assert verdicts(LARGER, small, large) == [("0.750x", "met")]  # 0.15 / 0.2 s
    large["cases"][1] = made.case("visionzip", 128, 0.25, tokens=640)
    assert verdicts(LARGER, small, large) == [("1.250x", "not met")]
    large["stamp"]["device"] = "another GPU"
    assert verdicts(LARGER, small, large) == [("-", "not measured")]
