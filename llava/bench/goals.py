"""What this project set out to reach, as numbers, and what the records say about it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llava.bench.sheet import Record, Sheet, counted, on_gpu

NEXT_7B, NEXT_13B = "llava-v1.6-vicuna-7b", "llava-v1.6-vicuna-13b"
CLIP_L = {"tower_width": 1024, "patches": 576}  # CLIP-L/14 at 336
Found = Iterator[tuple[str, float]]  # where, value


@dataclass(frozen=True)
class Goal:
    """what: in words. limit: and whether the figure must be at least or at most that. found: figures in records, each
    with the place it is from. unit: behind the figure."""

    what: str
    limit: float
    at_least: bool
    found: Callable[[Sequence[Record]], Found]
    unit: str = "x"

    def holds(self, value: float) -> bool:
        """Whether a figure meets the goal."""
        return value >= self.limit if self.at_least else value <= self.limit


def goal_sheet(records: Sequence[Record]) -> Sheet:
    """All goals; a goal that no record speaks about is not measured."""
    rows = []
    for goal in GOALS:
        wanted = f"{'>=' if goal.at_least else '<='} {goal.limit:g}{goal.unit}"
        found = list(goal.found(records))
        for place, value in found:
            verdict = "met" if goal.holds(value) else "not met"
            rows.append([goal.what, wanted, f"{value:.3f}{goal.unit}", verdict, place])
        if not found:
            rows.append([goal.what, wanted, "-", "not measured", "-"])
    return Sheet("Goals", ["goal", "wanted", "measured", "verdict", "where"], rows)


def _subject(record: Record, name: str) -> bool:
    """Whether it is the unquantised model of that name, whole, on a GPU."""
    return on_gpu(record) and record["subject"]["name"] == name and record["subject"]["bits"] == 16


def _of(records: Sequence[Record], kind: str, name: str) -> list[Record]:
    return [record for record in records if record["kind"] == kind and _subject(record, name)]


def _encoder(figure: Callable[[Mapping[str, Mapping[str, Any]]], float], gpu_only: bool = False) -> Any:
    """Figures of encoder records over CLIP-L/336, by tiles. figure: of the rows of one count, by way. gpu_only: times,
    which scatter by more than these goals on a CPU."""

    def found(records: Sequence[Record]) -> Found:
        for record in records:
            fits = all(record["subject"][key] == value for key, value in CLIP_L.items())
            if record["kind"] != "encoder" or not fits or (gpu_only and not on_gpu(record)):
                continue
            ways: dict[int, dict[str, Any]] = {}
            for row in record["cases"]:
                ways.setdefault(row["tiles"], {})[row["way"]] = row
            for tiles, rows in ways.items():
                yield f"{_place(record)}, {counted(tiles, 'tile')}", figure(rows)

    return found


def _blocks(row: Mapping[str, Any]) -> float:
    return float(row["times_the_blocks"]["median"])


def _place(record: Record) -> str:
    """The record in few words: model, device, dtype."""
    subject = record["subject"]
    bits = "" if subject["bits"] == 16 else f" in {subject['bits']} bits"
    device = str(record["stamp"]["device"]) if on_gpu(record) else "CPU"
    return f"{subject['name']}{bits}, {device}, {subject['dtype']}"


def _pairs(record: Record, method: str, tokens: int) -> Iterator[tuple[str, Any, Any]]:
    """(path, row of the method at so many tokens a tile, row of dense) for every path that has both."""
    rows = {row["case"]: row for row in record["cases"] if row.get("batch", 1) == 1}
    for path in ("", " lean", " fast", " compiled"):
        ours, dense = rows.get(f"{method}-{tokens}{path}"), rows.get(f"dense{path}")
        if ours and dense:
            yield path.strip() or "plain", ours, dense


def _first_token(records: Sequence[Record]) -> Found:
    for record in _of(records, "latency", NEXT_7B):
        for path, ours, dense in _pairs(record, "visionzip", 32):
            yield f"{_place(record)}, both {path}", _speedup(ours, dense, "first", "speedup_first")


def _speedup(ours: Mapping[str, Any], dense: Mapping[str, Any], key: str, over_first: str) -> float:
    """Over dense on the same path: paired; of older records the quotient of two medians, which were paired with another
    case."""
    if paired := ours.get("same_path"):
        return float(paired[key]["median"])
    return float(ours[over_first]["median"] / dense[over_first]["median"])


def _roofline(records: Sequence[Record]) -> Found:
    for record in _of(records, "latency", NEXT_7B):
        for path, ours, _ in _pairs(record, "visionzip", 32):
            yield f"{_place(record)}, {path}", ours["times_floor_first"]


def _loop(records: Sequence[Record]) -> Found:
    for record in _of(records, "throughput", NEXT_7B):
        for path, ours, dense in _pairs(record, "visionzip", 32):
            yield f"{_place(record)}, both {path}", _speedup(ours, dense, "speedup", "speedup")


def _larger(records: Sequence[Record]) -> Found:
    """13B zipped against 7B dense: time of short answers, else to the first token, on the same device."""
    for kind, read in (("throughput", _per_question), ("latency", _to_first)):
        for large in _of(records, kind, NEXT_13B):
            for small in _of(records, kind, NEXT_7B):
                if large["stamp"]["device"] != small["stamp"]["device"]:
                    continue
                dense = {path: row for path, _, row in _pairs(small, "visionzip", 32)}
                for path, ours, _ in _pairs(large, "visionzip", 128):
                    if path in dense:
                        where = "many pictures" if kind == "throughput" else "first token"
                        yield f"{where}, {large['stamp']['device']}, both {path}", read(ours) / read(dense[path])


def _per_question(row: Mapping[str, Any]) -> float:
    return float(row["seconds_per_question"]["median"])


def _to_first(row: Mapping[str, Any]) -> float:
    return float(row["first"]["total"]["median"])


GOALS = (
    Goal(
        "VisionZip's encoder against the blocks that must run, on a GPU",
        1.03,
        False,
        _encoder(lambda ways: _blocks(ways["visionzip"]), gpu_only=True),
    ),
    Goal(
        "VisionZip's encoder against Hugging Face's, on a GPU",
        1.0,
        False,
        _encoder(lambda ways: _blocks(ways["visionzip"]) / _blocks(ways["hugging face"]), gpu_only=True),
    ),
    Goal(
        "VisionZip's encoder against the official style, on a GPU",
        0.6,
        False,
        _encoder(lambda ways: ways["visionzip"]["times_official"]["median"], gpu_only=True),
    ),
    Goal(
        "Its peak memory of activations against the official style",
        0.2,
        False,
        _encoder(lambda ways: ways["visionzip"]["peak_bytes"] / ways["official"]["peak_bytes"]),
    ),
    Goal("First token of LLaVA-NeXT-7B at 160 tokens, five tiles, speed-up over dense", 8, True, _first_token),
    Goal("The same against its floor", 1.5, False, _roofline),
    Goal("Many pictures, short answers, at 160 tokens: speed-up over dense", 4, True, _loop),
    Goal("LLaVA-NeXT-13B at 640 tokens against 7B dense: time", 1.0, False, _larger),
)
