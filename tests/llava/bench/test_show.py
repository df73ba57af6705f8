"""Tables show the record's figures, and no absolute time of a CPU."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from llava.bench.headline import first_token_headline
from llava.bench.sheet import Sheet, on_gpu
from llava.bench.show import SHEETS, sheets
from llava.bench.show_latency import stages_of
from tests import bench_records as made

KINDS = {
    "encoder": made.encoder,
    "latency": made.latency,
    "memory": made.memory,
    "throughput": made.throughput,
    "train": made.train,
    "kernels": made.kernels,
    "scaling": made.scaling,
}


def page(folder: Path, record: dict[str, Any]) -> str:
    return "\n\n".join(sheet.to_markdown() for sheet in sheets(made.write(folder, record)))


def cells(sheet: Sheet, first: str) -> dict[str, str]:
    """The row that begins with `first`, by column."""
    (row,) = (row for row in sheet.rows if row[0] == first)
    return dict(zip(sheet.columns, row, strict=True))


def slower(value: Any, key: str = "") -> Any:
    """A record whose machine takes three times as long for everything; ratios, bytes and counts are the same."""
    if key in ("seconds", "first", "answer", "decode_step", "preprocess", "seconds_per_question", "floor_first"):
        return times_three(value)
    if key in ("flops_per_s", "bytes_per_s", "questions_per_second"):
        return value / 3
    if isinstance(value, dict):
        return {name: slower(item, name) for name, item in value.items()}
    return [slower(item) for item in value] if isinstance(value, list) else value


def times_three(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: item if name == "n" else times_three(item) for name, item in value.items()}
    return [times_three(item) for item in value] if isinstance(value, list) else 3 * value


def test_every_kind_is_tried() -> None:
    assert KINDS.keys() == SHEETS.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_no_absolute_time_of_a_cpu(kind: str, tmp_path: Path) -> None:
    """A CPU three times as slow gives the same page; a GPU does not, where a kind has times."""
    cpu, gpu = KINDS[kind](made.CPU), KINDS[kind](made.GPU)
    assert not on_gpu(cpu) and on_gpu(gpu)
    assert page(tmp_path, slower(cpu)) == page(tmp_path, cpu)
    if kind not in ("memory", "scaling"):
        assert page(tmp_path, slower(gpu)) != page(tmp_path, gpu)


@pytest.mark.parametrize("kind", KINDS)
def test_every_table_says_what_it_was_measured_on(kind: str, tmp_path: Path) -> None:
    record = KINDS[kind]()
    record["stamp"]["dirty"] = True
    for sheet in sheets(made.write(tmp_path, record)):
        for words in ("NVIDIA H200", "bfloat16", "random weights", "commit 0123456789ab with local", made.NEXT_7B):
            assert words in sheet.note
        assert ("7 rounds" in sheet.note) == (kind != "memory")
    record["subject"] |= {"weights": "checkpoint", "bits": 4}
    (sheet, *_) = sheets(made.write(tmp_path, record))
    assert "trained weights" in sheet.note and "in 4 bits" in sheet.note


def test_encoder(tmp_path: Path) -> None:
    (encoder,) = sheets(made.write(tmp_path, made.encoder()))
    assert encoder.title == "The encoder alone" and encoder.note.startswith("VisionZip at 32 tokens a tile.")
    row = cells(Sheet("", encoder.columns, encoder.rows[:5]), "visionzip")
    assert row["tiles"] == "1" and row["time, ms"] == "35.3 [33.5-37.0]"
    assert row["times the blocks"] == "1.020 [0.969-1.071]"
    assert row["times official style"] == "0.510 [0.484-0.536]"
    assert row["peak activations, MB"] == "50"


def test_answers(tmp_path: Path) -> None:
    answers, _, floor = sheets(made.write(tmp_path, made.latency()))
    row = cells(answers, "visionzip-32")
    assert row["visual tokens"] == "160" and row["first token, ms"] == "20.0 [19.0-21.0]"
    assert row["speed-up to the first token"] == "10.00x [9.50-10.50]"
    assert row["speed-up of 16 new tokens"] == "8.00x [7.60-8.40]"
    assert row["decode step, ms"].startswith("12.5") and row["step, times floor"] == "1.50"
    assert row["KV cache, MB"] == "84"
    assert cells(answers, "fastv-32")["visual tokens"] == "2880 in, 330 a layer"
    assert "55.5 [52.7-58.3] ms" in answers.note
    row = cells(floor, "visionzip-32")
    assert (row["TFLOP to the first token"], row["floor, ms"], row["measured / floor"]) == ("5", "10.00", "2.00")
    assert row["bound by"] == "compute: vision; memory: prefill"  # scoring has no work here
    assert "700 TFLOP/s and 4.00 TB/s" in floor.note


def test_stages_and_what_is_left(tmp_path: Path) -> None:
    """In ms on a GPU, in per cent of dense on a CPU; they add up to the total."""
    for device, total, vision in ((made.GPU, "20.00", "4.00"), (made.CPU, "10.0", "2.0")):
        sheet = sheets(made.write(tmp_path, made.latency(device)))[1]
        assert list(sheet.columns) == ["case", "vision", "score", "merge", "project", "rest", "total"]
        row = cells(sheet, "visionzip-32")
        assert (row["total"], row["vision"]) == (total, vision)
        parts = [float(row[name]) for name in ("vision", "score", "merge", "project", "rest")]
        assert sum(parts) == pytest.approx(float(total))
        assert cells(sheet, "dense")["score"] == "-"
        graph = cells(sheet, "visionzip-32 fast")
        assert graph["rest"] == graph["total"] and graph["vision"] == "-"


def test_rest_and_steps_are_what_the_record_says_or_doubted(tmp_path: Path) -> None:
    record = made.latency()
    record["cases"][0]["first"] |= {"prefill": made.spread(0.15)}  # with the other stages, more than the total
    assert "A rest below 0" in sheets(made.write(tmp_path, record))[1].note
    record["cases"][1]["times_floor_decode"] = 0.22  # an older record's noise
    answers = sheets(made.write(tmp_path, record))[0]
    row = cells(answers, "visionzip-32")
    assert row["step, times floor"] == row["decode step, ms"] == "-" and "-: no step could be told" in answers.note
    record["cases"][0]["first"] |= {"rest": made.spread(0.003)}
    record["cases"][2] |= {"decode_step": None, "times_floor_decode": None}
    answers, stages, _ = sheets(made.write(tmp_path, record))
    assert cells(stages, "dense")["rest"] == "3.00" and "A rest below 0" not in stages.note
    assert cells(answers, "fastv-32")["step, times floor"] == "-"


def test_rounds_of_answers_are_their_own(tmp_path: Path) -> None:
    record = made.latency()
    record["cases"][0]["answer"]["total"]["n"] = 3
    answers, stages, _ = sheets(made.write(tmp_path, record))
    assert "; 7 rounds to the first token, 3 of answers;" in answers.note and "; 7 rounds;" in stages.note
    loop = made.throughput()
    loop["cases"][0]["speedup"]["n"] = 2
    note = first_token_headline(record, loop).note
    assert "; 7 rounds to the first token, 3 of answers, 2 of many pictures;" in note


def test_a_named_prefill_and_unknown_stages_have_columns(tmp_path: Path) -> None:
    record = made.latency()
    record["cases"][0]["first"] |= {"upload": made.spread(0.001), "prefill": made.spread(0.1)}
    sheet = sheets(made.write(tmp_path, record))[1]
    assert list(sheet.columns[-4:]) == ["prefill", "upload", "rest", "total"]
    assert stages_of(record["cases"][0])["rest"] == pytest.approx(0.2 - 0.04 - 0.02 - 0.1 - 0.001)


def test_the_other_kinds(tmp_path: Path) -> None:
    (memory,) = sheets(made.write(tmp_path, made.memory()))
    row = cells(memory, "visionzip-32")
    expected = {"weights": "14100", "activations": "400", "cache": "84", "peak": "14684", "reserved": "20000"}
    assert {name: row[f"{name}, MB"] for name in expected} == expected
    assert "offloaded, MB" not in memory.columns and "counted so" in memory.note
    (counted,) = sheets(made.write(tmp_path, made.memory(made.CPU)))
    assert "reserved, MB" not in counted.columns
    (loop,) = sheets(made.write(tmp_path, made.throughput()))
    assert [row[:3] for row in loop.rows if row[0] == "visionzip-32"] == [
        ["visionzip-32", "1", "20.00"],
        ["visionzip-32", "8", "20.00"],
    ]
    assert loop.rows[1][3] == "5.00x [4.75-5.25]"
    (train,) = sheets(made.write(tmp_path, made.train()))
    assert train.rows[1] == ["visionzip-32", "155.4 [147.6-163.2]", "5.00x [4.75-5.25]", "3000"]
    (scaling,) = sheets(made.write(tmp_path, made.scaling()))
    assert scaling.rows[1] == ["prefill", "tokens", "1, 2, 4, 8", "1.21", "0.998"]


def test_kernels_say_what_did_not_fit(tmp_path: Path) -> None:
    for device, time in ((made.GPU, ["8.880 [8.436-9.324]"]), (made.CPU, [])):
        record = made.kernels(device)
        (sheet,) = sheets(made.write(tmp_path, record))
        rows = {(row[0], row[1]): list(row[2:]) for row in sheet.rows}
        assert rows["triton", "1 x 729, 16 x 72"] == [*time, "0.20", "1.0", "3.0e-06"]
        assert rows["materialised", "1 x 729, 16 x 72"][-3] == "1.20"
        assert rows["triton", "1 x 16384, 16 x 72"][-1] == "no reference"
        assert set(rows["materialised", "1 x 16384, 16 x 72"]) == {"not measured"}
        assert "needs 48.00 GiB" in sheet.note and "7 rounds" in sheet.note
        record["cases"][-1]["rounds"] = 50
        assert "7 to 50 rounds" in sheets(made.write(tmp_path, record))[0].note


def test_the_terminal_shows_the_same_cells(tmp_path: Path) -> None:
    """Brackets, which rich would read as styles, included."""
    file = made.write(tmp_path, made.latency())
    out = io.StringIO()
    console = Console(file=out, width=250)
    for table in (sheet.to_rich() for sheet in sheets(file)):
        assert isinstance(table, Table)
        console.print(table)
    shown = " ".join(out.getvalue().split())
    for sheet in sheets(file):
        assert sheet.title in shown and sheet.note in shown
        for row in sheet.rows:
            assert all(cell in shown for cell in row)
    assert "[p10-p90]" in shown


def test_the_terminal_takes_no_cell_for_a_style() -> None:
    console = Console(file=io.StringIO(), width=80)
    console.print(Sheet("[bold]", ["[red]"], [["[dim]"]], "[blue]").to_rich())
    assert all(word in console.file.getvalue() for word in ("[bold]", "[red]", "[dim]", "[blue]"))


def test_markdown() -> None:
    text = Sheet("Title", ["a", "b"], [["x|y", "1"]], "Note.").to_markdown()
    assert text == "**Title**\n\n| a | b |\n| --- | ---: |\n| x\\|y | 1 |\n\nNote."


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"kind": "speed"}', "{"])
def test_what_is_no_record_is_named(text: str, tmp_path: Path) -> None:
    file = tmp_path / "x.latency.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"x\.latency\.json: no record"):
        sheets(file)


def test_a_record_of_another_version_is_named(tmp_path: Path) -> None:
    file = made.write(tmp_path, made.latency())
    record = json.loads(file.read_text(encoding="utf-8"))
    del record["cases"][0]["kv_bytes"]
    file.write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"{made.NEXT_7B}\.latency\.json: the record lacks 'kv_bytes'"):
        sheets(file)


def test_a_loose_fit_is_called_one(tmp_path: Path) -> None:
    record = made.scaling()
    assert "no power law fits" not in page(tmp_path, record)
    record["curves"][1]["r2"] = 0.38
    assert "In brackets, with an R^2 below 0.9: no power law fits" in page(tmp_path, record)
    assert f"({record['curves'][1]['exponent']:.2f})" in page(tmp_path, record)
