"""The page of results: table, picture, how to read it, what failed and where it comes from."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from llava.eval.beside import FIGURE_TOLERANCE
from llava.eval.bootstrap import DRAWS
from llava.eval.cells import ANSWERED, COMPLETE, FAILED, Record
from llava.eval.compare import Row, complete, why_no_average
from llava.eval.judge.benchmarks import BENCHMARKS
from llava.eval.results_table import Publication, make_table, tasks_of, title_of
from llava.eval.server_scores import ENTERED
from llava.utils import listed

PICTURE = "![average against visual tokens]({})"
_COMMIT, _COMMAND = 12, 160  # letters shown of each
_NAMES, _COMMANDS = 4, 12  # shown of a list, then how many more


def render_report(
    rows: Sequence[Row],
    name: str,
    over: Sequence[str],
    publication: Publication | None = None,
    picture: str | None = None,
) -> str:
    """The page.

    Args:
        over: see `build_rows`.
        picture: where `draw` put it, from the page; None where there was nothing to draw.
    """
    done = [record for row in rows for record in row.records.values() if record.status == COMPLETE]
    parts = [
        f"# Results: {name}",
        make_table(rows, publication).to_markdown(),
        *([] if picture is None else [PICTURE.format(picture)]),
        "## How to read it",
        _reading(rows, over),
    ]
    if publication is not None:
        parts.append(_about_published(publication))
    everything = [record for row in rows for record in row.records.values()]
    waiting = [
        f"- `{record.name}`: send `{record.figures['submission']}` to {record.server}, "
        f"then `--server {record.name}=SCORE`"
        for record in everything
        if record.status == ANSWERED
    ]
    if waiting:
        parts += ["## Waiting for a server", "\n".join(waiting)]
    failed: dict[str, list[str]] = {}
    for record in everything:
        if record.status == FAILED:
            failed.setdefault(str(record.error), []).append(f"`{record.name}`")
    if failed:
        parts += ["## Failed", "\n".join(f"- {listed(names, _NAMES)}: {error}" for error, names in failed.items())]
    if done:
        parts += ["## Where it comes from", _origin(done)]
    return "\n\n".join(parts) + "\n"


def _reading(rows: Sequence[Row], over: Sequence[str]) -> str:
    columns = []
    for task in tasks_of(rows):
        record = next((found for row in rows if (found := complete(row, task))), None)
        asked = "not measured" if record is None else f"{record.n} questions"
        only = "" if record is None or record.part is None else f", the {record.part} only"
        metric = f"{BENCHMARKS[task].metric}; " if task in BENCHMARKS else "by lmms-eval; "
        columns.append(f"{title_of(task)} ({metric}{asked}{only})")
    guests = ", ".join(dict.fromkeys(row.guest for row in rows if row.guest))
    served = [one for row in rows for one in row.records.values() if one.status == COMPLETE and one.server]
    sources = "; ".join(dict.fromkeys(f"{title_of(one.task)} by {one.server}" for one in served))
    lacking = why_no_average(rows, over)
    return (
        f"- Columns: {'; '.join(columns)}.\n"
        "- *Tokens*: visual tokens that entered the language model, counted at its input, mean over all images.\n"
        "- *Average*: mean over exactly these benchmarks of figure / dense figure: "
        f"{', '.join(map(title_of, over))}. A row that lacks one has no average.\n"
        f"- *95% interval*: bootstrap over pictures ({DRAWS} draws), dense drawn along.\n"
        "- *vs VisionZip*: difference of the averages at the same budget in points, with the interval of the paired "
        "bootstrap; an interval without 0 is a difference these questions can show. It says nothing about another "
        "training run.\n"
        "- VisionZip‡: projector tuned with the compressor in place. The other methods keep as many tokens in simpler "
        "ways, untuned: they are the controls. Scoring follows the benchmarks' official rules, faults included."
        + (f"\n- There are {lacking}." if lacking else "")
        + (f"\n- Rows of {guests}: another model, asked the same; relative to the dense row." if guests else "")
        + (f"\n- {ENTERED}, so without items and interval: {sources}." if served else "")
    )


def _about_published(publication: Publication) -> str:
    table = publication.table
    lines = [
        f"- *published* rows are not ours: {table.source}. Their average is taken anew over the same benchmarks as "
        "ours, and is left out where they lack one.",
        f"- *vs published*: our average minus that, in points; pass within {publication.tolerance:g}, and no figure of "
        f"the set more than {FIGURE_TOLERANCE:g}% from the published one; *partial*: asked a part of the questions, "
        "so not judged.",
    ]
    notes = {beside.title: beside.row.note for beside in publication.cells.values() if beside.row.note}
    return "\n".join([*lines, *(f"- {title} ({publication.table.title}): {note}" for title, note in notes.items())])


def _origin(done: Sequence[Record]) -> str:
    """When, by which commits, on what and by which commands the records were made; each with how many, if several."""
    stamps = [record.stamp for record in done]
    commits = _counted(_commit(stamp) for stamp in stamps)
    dates = sorted(_minute(stamp["date"]) for stamp in stamps if stamp.get("date"))
    made = f", made {' to '.join(dict.fromkeys((dates[0], dates[-1])))} (UTC)" if dates else ""
    lines = [f"{len(done)} records{made}, of commit {', '.join(commits)}.", "; ".join(_counted(map(_setting, stamps)))]
    commands = _counted((_shortened(str(stamp.get("command"))) for stamp in stamps if stamp.get("command")), first=True)
    if commands:
        more = [f"... and {len(commands) - _COMMANDS} other commands"] if len(commands) > _COMMANDS else []
        lines.append("The commands, with how many of the records each made:")
        lines.append("\n".join(f"    {line}" for line in [*commands[:_COMMANDS], *more]))
    return "\n\n".join(lines)


def _commit(stamp: Mapping[str, Any]) -> str:
    return f"`{str(stamp.get('commit'))[:_COMMIT]}`{' with local changes' if stamp.get('dirty') else ''}"


def _setting(stamp: Mapping[str, Any]) -> str:
    python = stamp.get("python")
    parts = [stamp.get("device"), stamp.get("dtype"), python and f"python {python}"]
    versions = [f"{key} {value}" for key, value in (stamp.get("versions") or {}).items()]
    return ", ".join(filter(None, [*parts, *versions])) or "device and versions not told"


def _minute(date: str) -> str:
    """A stamp's date, ours (ISO) or lmms-eval's (20260102_030405), to the minute."""
    try:
        read = datetime.strptime(date, "%Y%m%d_%H%M%S") if "_" in date else datetime.fromisoformat(date)
    except ValueError:
        return date
    return f"{read:%Y-%m-%d %H:%M}"


def _counted(values: Iterable[str], first: bool = False) -> list[str]:
    """Distinct values, the most frequent first, with how often each comes: behind it if there are several, or always
    before it."""
    found = Counter(values).most_common()
    if first:
        return [f"{count:>4}  {value}" for value, count in found]
    return [value if len(found) == 1 else f"{value} ({count})" for value, count in found]


def _shortened(text: str) -> str:
    return text if len(text) <= _COMMAND else f"{text[: _COMMAND - 4]} ..."
