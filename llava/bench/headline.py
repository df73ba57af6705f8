"""README's two tables of a folder: the encoder, and one model's cases."""

from collections.abc import Mapping
from typing import Any

from llava.bench.sheet import Record, Sheet, circumstances, counted, milliseconds, on_gpu, same_path_cells, spread_cell
from llava.bench.show_latency import answer_rounds, tokens_cell


def encoder_headline(record: Record) -> Sheet:
    """A row per way to encode; a group of columns per number of tiles."""
    by_way: dict[str, list[Mapping[str, Any]]] = {}
    for row in record["cases"]:
        by_way.setdefault(row["way"], []).append(row)
    official = {row["tiles"]: row["peak_bytes"] for row in by_way["official"]}
    columns, rows = ["encoder"], []
    for row in by_way["official"]:
        word = counted(row["tiles"], "tile")
        columns += [f"{word}: time / bare blocks", f"{word}: time / official style", f"{word}: memory / official style"]
    for way, found in by_way.items():
        cells = [
            [
                f"{row['times_the_blocks']['median']:.2f}",
                f"{row['times_official']['median']:.2f}",
                f"{row['peak_bytes'] / official[row['tiles']]:.2f}",
            ]
            for row in found
        ]
        rows.append([way, *(cell for group in cells for cell in group)])
    note = (
        f"VisionZip at {record['budget']} tokens a tile; memory: peak of activations. "
        f"{circumstances(record, record['cases'][0]['seconds']['total']['n'])}"
    )
    return Sheet("Encoder", columns, rows, note)


def first_token_headline(record: Record, loop: Record | None) -> Sheet:
    """A row per case: image to first token with the tower, an answer, and many pictures where that was measured."""
    gpu, cases = on_gpu(record), record["cases"]
    loops = {row["case"]: row["speedup"] for row in (loop["cases"] if loop else []) if row["batch"] == 1}
    same = same_path_cells(cases, "first")
    rows = [
        [
            row["case"],
            tokens_cell(row),
            *([milliseconds(row["first"]["total"])] if gpu else []),
            spread_cell(row["speedup_first"], 2, unit="x"),
            *same[number : number + 1],
            f"{row['times_floor_first']:.2f}",
            spread_cell(row["speedup_answer"], 2, unit="x"),
            *([spread_cell(loops[row["case"]], 2, unit="x") if row["case"] in loops else "-"] if loops else []),
        ]
        for number, row in enumerate(cases)
    ]
    columns = [
        "case",
        "visual tokens",
        *(["first token, ms"] if gpu else []),
        "speed-up to the first token",
        *(["the same over dense on its path"] if same else []),
        "measured / floor",
        f"speed-up of {record['settings'].get('new_tokens', 'all')} new tokens",
        *(["speed-up, many pictures one by one"] if loops else []),
    ]
    rounds, of = answer_rounds(cases[0])
    if loop and loops:
        of += f", {loop['cases'][0]['speedup']['n']} of many pictures"
    note = (
        f"From picture to first token, tower included; {counted(record['tiles'], 'tile')}, {record['text_tokens']} "
        f"text tokens; speed-ups over {record['compared_with']}, paired, median [p10-p90]. "
        f"{circumstances(record, rounds, of)}"
    )
    return Sheet("Answers", columns, rows, note)
