"""The tables of a latency record: answers, stages, and the distance to the floor."""

from collections.abc import Mapping, Sequence
from typing import Any

from llava.bench.sheet import (
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

STAGES = ("encode", "vision", "score", "merge", "project", "pack", "splice", "prefill")
"""Names of stages in the order of the data's way; others come behind them. encode: vision to project as one graph."""
REST = "rest"


def latency_sheets(record: Record) -> list[Sheet]:
    """Answers, stages, floor."""
    return [answer_sheet(record), stage_sheet(record), floor_sheet(record)]


def tokens_cell(row: Mapping[str, Any]) -> str:
    """Visual tokens that enter the language model, and their mean over its layers where some leave inside."""
    entering = row["visual_tokens"]
    mean = row.get("visual_tokens_per_layer", entering)  # of memory it is not in older records
    return str(entering) if mean == entering else f"{entering} in, {mean:.0f} a layer"


def answer_sheet(record: Record) -> Sheet:
    """Time to the first token and of an answer, case by case."""
    gpu, cases, new_tokens = on_gpu(record), record["cases"], record["settings"].get("new_tokens")
    firsts, answers = same_path_cells(cases, "first"), same_path_cells(cases, "answer")
    rows = []
    for number, row in enumerate(cases):
        absolute = [milliseconds(row["first"]["total"])] if gpu else []
        step, times = _step_cells(row)
        rows.append([
            row["case"],
            tokens_cell(row),
            *absolute,
            spread_cell(row["speedup_first"], 2, unit="x"),
            *firsts[number : number + 1],
            spread_cell(row["speedup_answer"], 2, unit="x"),
            *answers[number : number + 1],
            *([step] if gpu else []),
            times,
            megabytes(row["kv_bytes"]),
        ])
    columns = [
        "case",
        "visual tokens",
        *(["first token, ms"] if gpu else []),
        "speed-up to the first token",
        *(["the same over dense on its path"] if firsts else []),
        f"speed-up of {new_tokens} new tokens" if new_tokens else "speed-up of the answer",
        *(["the same over dense on its path"] if answers else []),
        *(["decode step, ms"] if gpu else []),
        "step, times floor",
        "KV cache, MB",
    ]
    untold = " -: no step could be told from scatter." if any(_step_cells(row)[1] == "-" for row in cases) else ""
    preprocess = f" Preprocessing (not in it): {milliseconds(record['preprocess'])} ms." if gpu else ""
    note = (
        f"Tower included, {counted(record['tiles'], 'tile')}, {record['text_tokens']} text tokens; speed-ups are "
        f"paired ratios to {record['compared_with']}, median [p10-p90].{untold}{preprocess} "
        f"{circumstances(record, *answer_rounds(cases[0]))}"
    )
    return Sheet("From picture to first token, and whole answers", columns, rows, note)


def _step_cells(row: Mapping[str, Any]) -> tuple[str, str]:
    """A decoding step in ms and over its floor. Older records hold noise as steps of less than the floor."""
    step, times = row["decode_step"], row["times_floor_decode"]
    if step is None or (REST not in row["first"] and times < 1):
        return "-", "-"
    return milliseconds(step), f"{times:.2f}"


def answer_rounds(row: Mapping[str, Any]) -> tuple[int, str]:
    """Rounds to the first token, and the words that go behind: whole answers are measured in fewer."""
    return row["first"]["total"]["n"], f" to the first token, {row['answer']['total']['n']} of answers"


def stages_of(row: Mapping[str, Any]) -> dict[str, float]:
    """Median seconds by stage of a run to the first token, in the order of STAGES; REST is what no stage names.

    Older records lack REST: there it is a difference of medians, which are of different runs, and may fall below 0.
    """
    medians = {name: spread["median"] for name, spread in row["first"].items() if name != "total"}
    named = {name: medians.pop(name) for name in STAGES if name in medians} | medians
    rest = named.pop(REST, None)
    return {**named, REST: row["first"]["total"]["median"] - sum(named.values()) if rest is None else rest}


def stage_names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Stages that any case has, in order, REST last."""
    found = dict.fromkeys(name for row in rows for name in stages_of(row))
    known = [name for name in STAGES if name in found]
    return [*known, *(name for name in found if name not in STAGES and name != REST), REST]


def stage_sheet(record: Record) -> Sheet:
    """Where the time to the first token goes: ms on a GPU, per cent of the first case's time on a CPU."""
    gpu, cases = on_gpu(record), record["cases"]
    names = stage_names(cases)
    scale, digits = (1e3, 2) if gpu else (100 / cases[0]["first"]["total"]["median"], 1)
    rows = []
    for row in cases:
        own = stages_of(row)
        cells = [f"{own[name] * scale:.{digits}f}" if name in own else "-" for name in names]
        rows.append([row["case"], *cells, f"{row['first']['total']['median'] * scale:.{digits}f}"])
    unit = "ms" if gpu else f"per cent of {record['compared_with']}'s time"
    below = any(stages_of(row)[REST] < 0 for row in cases)
    doubt = " A rest below 0: the medians it is the difference of are of different runs." if below else ""
    note = (
        f"Medians, {unit}; {REST} is the total less the stages, and holds the prefill where none is named; encode is "
        f"the stages up to projecting as one replayed graph.{doubt} "
        f"{circumstances(record, cases[0]['first']['total']['n'])}"
    )
    return Sheet("Where the time to the first token goes", ["case", *names, "total"], rows, note)


def floor_sheet(record: Record) -> Sheet:
    """Work to the first token, the least time it takes on this device, and the measured multiple of it."""
    gpu = on_gpu(record)
    rows = [
        [
            row["case"],
            f"{row['flops_first'] / 1e12:.3g}",
            *([f"{row['floor_first'] * 1e3:.2f}"] if gpu else []),
            f"{row['times_floor_first']:.2f}",
            _bounds(row["work"]),
        ]
        for row in record["cases"]
    ]
    ceilings = record["ceilings"]
    flops, moved = ceilings["flops_per_s"] / 1e12, ceilings["bytes_per_s"] / 1e12
    rates = f"{flops:.0f} TFLOP/s and {moved:.2f} TB/s: " if gpu else ""
    note = (
        f"A multiply-add is 2 FLOPs. Ceilings measured in the same run: {rates}{ceilings['how']}. "
        f"{circumstances(record, record['cases'][0]['first']['total']['n'])}"
    )
    floor = ["floor, ms"] if gpu else []
    columns = ["case", "TFLOP to the first token", *floor, "measured / floor", "bound by"]
    return Sheet("Distance to the floor", columns, rows, note)


def _bounds(work: Mapping[str, Mapping[str, Any]]) -> str:
    """Stages of the first token by what bounds them; a stage without work is in neither list."""
    stages = {name: part for name, part in work.items() if name != "decode"}
    lists = {
        kind: [name for name, part in stages.items() if part["flops"] and part["bound"] == kind]
        for kind in ("compute", "memory")
    }
    return "; ".join(f"{kind}: {', '.join(names)}" for kind, names in lists.items() if names)
