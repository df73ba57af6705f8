"""Records as tables: one renderer for the terminal and for the pages.

Absolute times are shown for a GPU only. A CPU's say more about the machine, and what else it did, than about the
method; its ratios, taken side by side in one run, do not.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llava.bench.sheet import (
    SOUND_FIT,
    Record,
    Sheet,
    circumstances,
    counted,
    megabytes,
    milliseconds,
    on_gpu,
    same_path_cells,
    spread_cell,
)
from llava.bench.show_latency import latency_sheets, tokens_cell

HELD = ("weights", "activations", "cache_at_peak", "cache", "other", "peak", "steady")
SELDOM = ("reserved", "offloaded")  # shown where a row has any


def encoder_sheets(record: Record) -> list[Sheet]:
    """Ways to encode beside the blocks that must run."""
    gpu, cases = on_gpu(record), record["cases"]
    rows = [
        [
            row["way"],
            str(row["tiles"]),
            *([milliseconds(row["seconds"]["total"])] if gpu else []),
            spread_cell(row["times_the_blocks"], 3),
            spread_cell(row["times_official"], 3),
            megabytes(row["peak_bytes"]),
        ]
        for row in cases
    ]
    time = ["time, ms"] if gpu else []
    columns = ["way", "tiles", *time, "times the blocks", "times official style", "peak activations, MB"]
    note = (
        f"VisionZip at {record['budget']} tokens a tile. Times: median of paired ratios [p10-p90], below 1 is faster. "
        f"{circumstances(record, cases[0]['seconds']['total']['n'])}"
    )
    return [Sheet("The encoder alone", columns, rows, note)]


def memory_sheets(record: Record) -> list[Sheet]:
    """Bytes of one answer by what holds them."""
    cases = record["cases"]
    held = [part for part in HELD if part != "cache_at_peak" or "cache_at_peak_bytes" in cases[0]]  # older: not read
    parts = [*held, *(part for part in SELDOM if any(row[f"{part}_bytes"] for row in cases))]
    rows = [[row["case"], tokens_cell(row), *(megabytes(row[f"{part}_bytes"]) for part in parts)] for row in cases]
    words = [f"{part.replace('_', ' ')}, MB" for part in parts]
    note = (
        f"MB of 10^6 bytes; {counted(record['tiles'], 'tile')}, {record['text_tokens']} text tokens, "
        f"{record['new_tokens']} new ones; {cases[0]['how']}. {circumstances(record)}"
    )
    return [Sheet("Memory of one answer", ["case", "visual tokens", *words], rows, note)]


def throughput_sheets(record: Record) -> list[Sheet]:
    """Short answers to many pictures, by batch size."""
    gpu = on_gpu(record)
    same = same_path_cells(record["cases"], "speedup")
    rows = [
        [
            row["case"],
            str(row["batch"]),
            *([f"{row['questions_per_second']:.2f}"] if gpu else []),
            spread_cell(row["speedup"], 2, unit="x"),
            *same[number : number + 1],
        ]
        for number, row in enumerate(record["cases"])
    ]
    more = ["the same over dense on its path"] if same else []
    columns = ["case", "questions together", *(["questions a second"] if gpu else []), "speed-up", *more]
    note = (
        f"{record['questions']} JPEG files, {record['new_tokens']} new tokens each, {record['workers']} loading "
        f"processes; from file to answer. Speed-up over the first case at the same size, paired, median [p10-p90]. "
        f"{circumstances(record, record['cases'][0]['speedup']['n'])}"
    )
    return [Sheet("Many pictures, short answers", columns, rows, note)]


def train_sheets(record: Record) -> list[Sheet]:
    """A projector-only training step."""
    gpu, first = on_gpu(record), record["cases"][0]
    rows = [
        [
            row["case"],
            *([milliseconds(row["seconds"])] if gpu else []),
            spread_cell(row["speedup"], 2, unit="x"),
            megabytes(row["peak_bytes"]),
        ]
        for row in record["cases"]
    ]
    columns = ["case", *(["step, ms"] if gpu else []), "speed-up", "peak above the weights, MB"]
    note = (
        f"{first['rows']} rows of {first['text_tokens']} text tokens and a picture, {record['supervised']} of them "
        f"supervised; projector trained, rest frozen, gradient checkpointing. "
        f"{circumstances(record, first['speedup']['n'])}"
    )
    return [Sheet("A training step of the projector", columns, rows, note)]


def kernel_sheets(record: Record) -> list[Sheet]:
    """Received attention: ways to compute it, by size. A way whose map does not fit says so."""
    gpu, cases = on_gpu(record), record["cases"]
    chunked = {_size(row): row["seconds"]["median"] for row in cases if row["way"] == "chunked"}
    rows, notes = [], []
    for row in cases:
        begin = [row["way"], _size(row)]
        if "not_measured" in row:
            rows.append([*begin, *["not measured"] * (3 + gpu)])
            notes.append(f"{row['way']} at {_size(row)}: {row['not_measured']}.")
            continue
        error = row["max_relative_error"]
        rows.append([
            *begin,
            *([milliseconds(row["seconds"])] if gpu else []),
            f"{row['seconds']['median'] / chunked[_size(row)]:.2f}",
            megabytes(row["peak_bytes"]),
            "no reference" if error is None else f"{error:.1e}",
        ])
    time = ["time, ms"] if gpu else []
    columns = ["way", "tiles x patches, heads x width", *time, "time / chunked", "peak, MB", "largest error"]
    counts = sorted({row["rounds"] for row in cases})
    rounds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    note = (
        "Time ratios are of medians; peak beyond the inputs; error as a share of the largest value, against the map in "
        f"float64. {' '.join([*notes, ''])}{circumstances(record, rounds)}"
    )
    return [Sheet("Attention received, without keeping the map", columns, rows, note)]


def _size(row: Mapping[str, Any]) -> str:
    return f"{row['tiles']} x {row['patches']}, {row['heads']} x {row['width']}"


def scaling_sheets(record: Record) -> list[Sheet]:
    """Exponents of cost = a * size^exponent, and how well that fits."""
    curves = record["curves"]
    rows = [
        [
            curve["of"],
            curve["over"],
            ", ".join(map(str, curve["sizes"])),
            f"{curve['exponent']:.2f}" if curve["r2"] >= SOUND_FIT else f"({curve['exponent']:.2f})",
            f"{curve['r2']:.3f}",
        ]
        for curve in curves
    ]
    loose = any(curve["r2"] < SOUND_FIT for curve in curves)
    doubt = f"In brackets, with an R^2 below {SOUND_FIT}: no power law fits. " if loose else ""
    note = (
        f"Least squares on logarithms of median times; 1 is proportional, 2 quadratic. {doubt}"
        f"{circumstances(record, curves[0]['seconds'][0]['n'])}"
    )
    return [Sheet("How cost grows", ["time of", "against", "sizes", "exponent", "R^2"], rows, note)]


# In the order of a page, where the encoder stands before the answers it is a part of.
SHEETS: Mapping[str, Callable[[Record], list[Sheet]]] = {
    "encoder": encoder_sheets,
    "latency": latency_sheets,
    "memory": memory_sheets,
    "throughput": throughput_sheets,
    "train": train_sheets,
    "kernels": kernel_sheets,
    "scaling": scaling_sheets,
}


def read_record(file: Path) -> dict[str, Any]:
    """A record of `visionzip bench`. Raises: ValueError naming the file when it is none."""
    try:
        record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{file}: no record of visionzip bench: {error}") from error
    if not isinstance(record, dict) or record.get("kind") not in SHEETS:
        raise ValueError(f"{file}: no record of visionzip bench: expected a `kind` of {', '.join(SHEETS)}")
    return record


def sheets(file: Path) -> list[Sheet]:
    """The tables of a record. Raises: ValueError naming file and key where it lacks one."""
    record = read_record(file)
    try:
        return SHEETS[record["kind"]](record)
    except (KeyError, IndexError) as error:
        raise ValueError(
            f"{file}: the record lacks {error}; it is of another version: delete it and measure again"
        ) from error
