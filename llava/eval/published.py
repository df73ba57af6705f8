"""Published figures as data: the tables of configs/paper/, to set our own figures beside. Never our results.

A table is a YAML file with the keys of `PublishedTable`. Each of its rows holds `method`, `tokens`, one figure per
column (null where the source prints none), `average`, `confirmed` and, where needed, `model` and `note`:

    rows:
      - {method: visionzip, tokens: 64, gqa: 55.1, pope: 77.0, average: 94.0, confirmed: true}
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from llava.eval.methods import METHODS

RIVALS: Mapping[str, str] = {"fastv": "FastV", "sparsevlm": "SparseVLM"}
"""Methods that stand in published tables and not in `METHODS`: name -> title."""

_ROW_KEYS = ("method", "tokens", "average", "confirmed")
_ROW_OPTIONS = ("model", "note")


@dataclass(frozen=True)
class Column:
    """What one figure of a row is. title: as printed; metric: what is counted; unit: "%", "points", "s", ..."""

    title: str
    metric: str
    unit: str


@dataclass(frozen=True)
class Average:
    """What the printed average is. of: the columns it is taken over. A row may lack figures of some of them and
    have the average all the same."""

    of: tuple[str, ...]
    what: str


@dataclass(frozen=True)
class PublishedRow:
    """One method at one budget. tokens: visual tokens per image (AnyRes models: the most an image can have; video: per
    clip). figures: column -> value in the column's unit, None where none was printed. confirmed: False where the copies
    at hand leave the figures, or what they mean, in doubt; `note` says which and why. model: the table's, unless the
    row is about another one."""

    method: str
    tokens: int
    figures: Mapping[str, float | None]
    average: float | None
    confirmed: bool
    model: str
    note: str


@dataclass(frozen=True)
class PublishedTable:
    """One table. paper: arXiv id, None for what stands in no paper; source: where the figures were read; average: None
    if the table prints none; tiles: the most tiles an image has, so that tokens / tiles is the budget of a tile."""

    title: str
    paper: str | None
    table: str
    model: str
    source: str
    columns: Mapping[str, Column]
    average: Average | None
    rows: tuple[PublishedRow, ...]
    tiles: int = 1


def read_published(path: str | Path) -> PublishedTable:
    """A published table from YAML.

    Raises:
        ValueError: no file, no YAML, or a key that is unknown, missing or mistyped; file and key are named.
    """
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"{file}: expected a published table, found nothing there")
    try:
        raw = yaml.safe_load(file.read_text(encoding="utf-8"))
        return _table(raw)
    except yaml.YAMLError as error:
        raise ValueError(f"{file}: not YAML: {error}") from error
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def find_row(table: PublishedTable, method: str, tokens: int | None = None, model: str | None = None) -> PublishedRow:
    """The one row of a method.

    Args:
        tokens: None if the method has one budget only.
        model: None for the table's own.

    Raises:
        ValueError: no such row or several, listing what there is.
    """
    wanted = model or table.model
    found = [
        row
        for row in table.rows
        if row.method == method and row.model == wanted and (tokens is None or row.tokens == tokens)
    ]
    if len(found) != 1:
        asked = f"{method} at {'any' if tokens is None else tokens} tokens on {wanted}"
        there = "; ".join(f"{row.method} {row.tokens} ({row.model})" for row in table.rows)
        raise ValueError(f"{table.title}: expected one row for {asked}, found {len(found)}; rows: {there}")
    return found[0]


def relative_average(
    figures: Mapping[str, float | None], dense: Mapping[str, float | None], over: Sequence[str]
) -> float:
    """Mean of 100 * figure / dense figure over exactly the benchmarks `over`, in percent.

    The set moves the result by about a point, so a benchmark without a figure is an error and never left out.

    Raises:
        ValueError: `over` is empty or names a benchmark twice, or a figure is missing, not finite, or 0 when dense.
    """
    if not over or len(set(over)) != len(over):
        raise ValueError(f"expected benchmarks to average over, each once; got {list(over)}")
    shares = []
    for name in over:
        value, reference = (
            _figure(side, name, what) for side, what in ((figures, "figures"), (dense, "dense figures"))
        )
        if reference == 0:
            raise ValueError(f"{name}: no share of a dense figure that is 0")
        shares.append(100 * value / reference)
    return math.fsum(shares) / len(shares)


def _figure(figures: Mapping[str, float | None], name: str, what: str) -> float:
    value = figures.get(name)
    if value is None or not math.isfinite(value):
        present = ", ".join(key for key, number in figures.items() if number is not None)
        raise ValueError(f"{name}: the {what} have {value} there, so no average over it; they have: {present}")
    return value


def _table(raw: Any) -> PublishedTable:
    keys = _keys(raw, "the file", [item.name for item in fields(PublishedTable) if item.name != "tiles"], ["tiles"])
    tiles = keys.get("tiles", 1)
    if not isinstance(tiles, int) or isinstance(tiles, bool) or tiles < 1:
        raise ValueError(f"tiles: expected a whole number >= 1, got {tiles!r}")
    for name in ("title", "table", "model", "source"):
        _text(keys[name], name)
    paper = keys["paper"]
    if paper is not None and not (isinstance(paper, str) and re.fullmatch(r"\d{4}\.\d{5}", paper)):
        raise ValueError(f'paper: expected an arXiv id in quotes such as "2412.04467", or null; got {paper!r}')
    columns = _columns(keys["columns"])
    average = None if keys["average"] is None else _average(keys["average"], columns)
    if not isinstance(keys["rows"], list) or not keys["rows"]:
        raise ValueError(f"rows: expected a list of rows, got {keys['rows']!r}")
    rows = tuple(_row(row, f"rows[{i}]", columns, average, keys["model"]) for i, row in enumerate(keys["rows"]))
    names = [(row.method, row.tokens, row.model) for row in rows]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"rows: {' '.join(map(str, twice[0]))} stands there twice; tell them apart by the key 'model'")
    return PublishedTable(**{**keys, "columns": columns, "average": average, "rows": rows})


def _columns(raw: Any) -> dict[str, Column]:
    if not isinstance(raw, Mapping) or not raw:
        raise ValueError(f"columns: expected name -> title, metric, unit; got {raw!r}")
    taken = {*_ROW_KEYS, *_ROW_OPTIONS}
    columns = {}
    for name, entry in raw.items():
        where = f"columns.{name}"
        if not isinstance(name, str) or name in taken:
            raise ValueError(f"{where}: expected the name of a task or quantity, other than {', '.join(sorted(taken))}")
        keys = _keys(entry, where, [item.name for item in fields(Column)])
        columns[name] = Column(**{key: _text(value, f"{where}.{key}") for key, value in keys.items()})
    return columns


def _average(raw: Any, columns: Mapping[str, Column]) -> Average:
    keys = _keys(raw, "average", [item.name for item in fields(Average)])
    of = keys["of"]
    if not isinstance(of, list) or not of or any(not isinstance(name, str) or of.count(name) > 1 for name in of):
        raise ValueError(f"average.of: expected a list of columns, each once; got {of!r}")
    unknown = [name for name in of if name not in columns]
    if unknown:
        raise ValueError(f"average.of: {unknown[0]!r} is no column; columns: {', '.join(columns)}")
    return Average(tuple(of), _text(keys["what"], "average.what"))


def _row(raw: Any, where: str, columns: Mapping[str, Column], average: Average | None, model: str) -> PublishedRow:
    keys = _keys(raw, where, [*_ROW_KEYS, *columns], _ROW_OPTIONS)
    method, tokens, confirmed = keys["method"], keys["tokens"], keys["confirmed"]
    if not isinstance(method, str) or (method not in METHODS and method not in RIVALS):
        raise ValueError(f"{where}.method: expected one of {', '.join([*METHODS, *RIVALS])}; got {method!r}")
    if not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 1:
        raise ValueError(f"{where}.tokens: expected a whole number >= 1, got {tokens!r}")
    if not isinstance(confirmed, bool):
        raise ValueError(f"{where}.confirmed: expected true or false, got {confirmed!r}")
    printed = _number(keys["average"], f"{where}.average")
    if average is None and printed is not None:
        raise ValueError(f"{where}.average: got {printed}, but the table's key 'average' does not say what of")
    note = _text(keys["note"], f"{where}.note") if "note" in keys else ""
    if not confirmed and not note:
        raise ValueError(f"{where}.note: expected what is not confirmed, got nothing")
    return PublishedRow(
        method=method,
        tokens=tokens,
        figures={name: _number(keys[name], f"{where}.{name}") for name in columns},
        average=printed,
        confirmed=confirmed,
        model=_text(keys.get("model", model), f"{where}.model"),
        note=note,
    )


def _keys(raw: Any, where: str, needed: Sequence[str], optional: Sequence[str] = ()) -> dict[str, Any]:
    """`raw` if it is a mapping with all keys `needed` and none beyond those and `optional`."""
    if not isinstance(raw, Mapping):
        raise ValueError(f"{where}: expected keys and values, got {raw!r}")
    known = [*needed, *optional]
    unknown = [key for key in raw if key not in known]
    if unknown:
        raise ValueError(f"{where}: unknown key {unknown[0]!r}; known: {', '.join(known)}")
    missing = [key for key in needed if key not in raw]
    if missing:
        raise ValueError(f"{where}: missing key {missing[0]!r}; a figure that was not printed is null")
    return dict(raw)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where}: expected text, got {value!r}")
    return value


def _number(value: Any, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{where}: expected a number or null, got {value!r}")
    return float(value)
