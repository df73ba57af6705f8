"""The data manifest: which rows of an instruction file a run trains on.

VisionZip tunes on a tenth of LLaVA's 665K mix; which tenth was never published (arXiv 2412.04467). Here it is a file:

    python -m llava.data.subset make --data llava_v1_5_mix665k.json --fraction 0.1 --seed 0 --out mix665k_tenth.json
    python -m llava.data.subset check --data llava_v1_5_mix665k.json --manifest mix665k_tenth.json

A manifest holds `source` (file name), `sha256` of that file, `fraction`, `seed`, `text_only` ("kept" or "left_out"),
`strata` (`{"coco": {"available": n, "chosen": k}, ...}`) and `ids`, a list of "index:id". The index identifies a row,
because ids repeat in the public file; the id behind it is for reading and is checked as well.

The choice depends on nothing but seed, index and id: within each stratum the rows with the smallest
sha256("seed:index:id") are taken, so every platform and version chooses the same rows, and a larger fraction contains a
smaller one up to rounding. Strata get their share by largest remainder. Text-only rows give the projector no gradient,
so a projector-only tune may leave them out; the manifest says so.
"""

import hashlib
import json
import logging
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated

import typer

from llava.data.rows import TEXT_STRATUM, Row, row_id, scan_rows, stratum_of
from llava.provenance import sha256_file
from llava.utils import write_json

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Subset:
    """A manifest in memory; field names equal the keys of the file."""

    source: str
    sha256: str
    fraction: float
    seed: int
    text_only: str
    strata: dict[str, dict[str, int]]
    ids: list[str]

    @classmethod
    def load(cls, path: str | Path) -> "Subset":
        """Read a manifest. Raises ValueError naming the file and the key when it is not one."""
        path = Path(path)
        if not path.is_file():
            raise ValueError(f"subset manifest {path} does not exist; make it with: python -m llava.data.subset make")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"subset manifest {path} is not JSON: {error}") from error
        expected = set(cls.__dataclass_fields__)
        if not isinstance(content, dict) or set(content) != expected:
            found = sorted(content) if isinstance(content, dict) else type(content).__name__
            raise ValueError(f"subset manifest {path}: expected the keys {sorted(expected)}, got {found}")
        return cls(**content)

    def save(self, path: str | Path) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, asdict(self), indent=1)

    def apply(self, rows: Sequence[Row], data_path: str | Path) -> list[int]:
        """Indices of the chosen rows, after checking that `data_path` is the very file the manifest was made from.

        Raises:
            ValueError: another file (both hashes named), or an entry that does not match its row.
        """
        actual = sha256_file(data_path)
        if actual != self.sha256:
            raise ValueError(
                f"{data_path} has sha256 {actual}, but the subset manifest was made from {self.source} with sha256 "
                f"{self.sha256}; use that file or make a new manifest"
            )
        return [self._checked_index(entry, rows) for entry in self.ids]

    def _checked_index(self, entry: str, rows: Sequence[Row]) -> int:
        index_text, _, identity = entry.partition(":")
        index = int(index_text) if index_text.isdigit() else -1
        if not 0 <= index < len(rows) or row_id(rows[index], index) != identity:
            raise ValueError(
                f"subset manifest entry {entry!r} does not match {self.source}: expected 'index:id' of one of its "
                f"{len(rows)} rows"
            )
        return index


def allocate(available: dict[str, int], fraction: float) -> dict[str, int]:
    """Share round(fraction * total) rows among strata in proportion to their size, by largest remainder.

    Ties go to the alphabetically first stratum. Exact: fractions, not floats.
    """
    exact = Fraction(str(fraction))
    quotas = {name: exact * count for name, count in available.items()}
    chosen = {name: int(quota) for name, quota in quotas.items()}
    total = int(exact * sum(available.values()) + Fraction(1, 2))
    by_remainder = sorted(quotas, key=lambda name: (chosen[name] - quotas[name], name))
    for name in by_remainder[: total - sum(chosen.values())]:
        chosen[name] += 1
    return chosen


def make_subset(
    data_path: str | Path, fraction: float, seed: int = 0, exclude_text_only: bool = False, max_bad_rows: int = 0
) -> Subset:
    """Choose `fraction` of the rows of `data_path`, stratified by image source; bad rows (`scan_rows`) do not count.

    Raises:
        ValueError: a fraction outside (0, 1], a broken data file, or nothing to choose from.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must lie in (0, 1], got {fraction}")
    rows, bad = scan_rows(data_path, max_bad_rows)
    members: dict[str, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        if index not in bad:
            members[stratum_of(row)].append(index)
    available = {name: len(indices) for name, indices in sorted(members.items())}
    eligible = {name: count for name, count in available.items() if not (exclude_text_only and name == TEXT_STRATUM)}
    chosen = allocate(eligible, fraction)
    picked: list[int] = []
    for name, count in chosen.items():
        picked += sorted(members[name], key=lambda index: rank(seed, index, rows[index]))[:count]
    if not picked:
        raise ValueError(f"{fraction} of {sum(eligible.values())} eligible rows in {data_path} is no row at all")
    return Subset(
        source=Path(data_path).name,
        sha256=sha256_file(data_path),
        fraction=fraction,
        seed=seed,
        text_only="left_out" if exclude_text_only else "kept",
        strata={name: {"available": count, "chosen": chosen.get(name, 0)} for name, count in available.items()},
        ids=[f"{index}:{row_id(rows[index], index)}" for index in sorted(picked)],
    )


def rank(seed: int, index: int, row: Row) -> bytes:
    """The place of a row in the draw of its stratum: the smallest are taken, on every platform the same."""
    return hashlib.sha256(f"{seed}:{index}:{row_id(row, index)}".encode()).digest()


def check_subset(manifest: str | Path, data_path: str | Path) -> Subset:
    """Check a manifest against its data: hash, rows, no repetition, and counts per stratum.

    Raises:
        ValueError: whatever does not hold, with both values.
    """
    subset = Subset.load(manifest)
    rows, _ = scan_rows(data_path, max_bad_rows=sys.maxsize)
    indices = subset.apply(rows, data_path)
    if len(set(indices)) != len(indices):
        raise ValueError(f"{manifest}: {len(indices) - len(set(indices))} rows are listed twice")
    found = Counter(stratum_of(rows[index]) for index in indices)
    stated = {name: counts["chosen"] for name, counts in subset.strata.items() if counts["chosen"]}
    if dict(found) != stated:
        raise ValueError(f"{manifest}: states {stated} rows per stratum, but its ids give {dict(found)}")
    return subset


app = typer.Typer(help="Make and check data manifests.", no_args_is_help=True, add_completion=False)


def _report(subset: Subset) -> None:
    for name, counts in subset.strata.items():
        typer.echo(f"{name:>12}: {counts['chosen']:>7,} of {counts['available']:>8,}")
    text_only = subset.text_only.replace("_", " ")
    typer.echo(f"{'total':>12}: {len(subset.ids):>7,}   text-only rows {text_only}, seed {subset.seed}")


@app.command()
def make(
    data: Annotated[Path, typer.Option(help="LLaVA JSON or JSON-lines file")],
    out: Annotated[Path, typer.Option(help="manifest to write")],
    fraction: Annotated[float, typer.Option(help="share of the rows")] = 0.1,
    seed: Annotated[int, typer.Option(help="seed of the choice")] = 0,
    exclude_text_only: Annotated[bool, typer.Option("--exclude-text-only", help="choose image rows only")] = False,
    max_bad_rows: Annotated[int, typer.Option(help="so many rows may break the format")] = 0,
) -> None:
    """Choose rows, stratified by image source, and write the manifest."""
    try:
        subset = make_subset(data, fraction, seed, exclude_text_only, max_bad_rows)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    subset.save(out)
    _report(subset)
    typer.echo(f"wrote {out}")


@app.command()
def check(
    data: Annotated[Path, typer.Option(help="the file the manifest was made from")],
    manifest: Annotated[Path, typer.Option(help="manifest to check")],
) -> None:
    """Check a manifest against its data file."""
    try:
        subset = check_subset(manifest, data)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    _report(subset)
    typer.echo(f"{manifest} fits {data}")


if __name__ == "__main__":
    app()
