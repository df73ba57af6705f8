"""Scores of LLaVA-Bench review files: the public command and flags.

    python -m llava.eval.summarize_gpt_review -f reviews/llava-v1.5-7b.jsonl

A line per category: the model's score in percent of the reference's, then both means times ten. Reviews without two
scores, which the public program writes as -1, are left out and counted.
"""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import typer

from llava.eval.judge.llavabench import summarise
from llava.eval.records import read_jsonl

VERSIONS = ("0314", "0613")  # of the two judges the public file names tell apart; the first is what a plain name means


def main(argv: Sequence[str] | None = None) -> None:
    """Print the scores of every chosen review file."""
    parser = _parser()
    options = parser.parse_args(argv)
    try:
        for file in review_files(options.dir, options.files, options.select):
            rows = read_jsonl(file)
            judges = judges_of(file, rows)
            if options.version is None or any(options.version in judge for judge in judges):
                typer.echo("\n".join(report(file, rows, judges, options.ignore)))
    except ValueError as error:
        parser.error(str(error))


def review_files(folder: Path | None, files: Sequence[str], select: Sequence[str]) -> list[Path]:
    """The named files, below `folder` if one is given; without names all of its review files by the public rule:
    *.jsonl whose name begins with gpt4_text, review_ or reviews_, or any in a folder called review...

    Raises:
        ValueError: neither folder nor files, or none is left.
    """
    if files:
        found = [Path(name) if folder is None else folder / name for name in files]
    elif folder is None:
        raise ValueError("expected --files or --dir")
    else:
        named = ("gpt4_text", "review_", "reviews_")
        found = [file for file in folder.glob("*.jsonl") if "review" in str(folder) or file.name.startswith(named)]
    chosen = sorted(file for file in found if all(part in title(file) for part in select))
    if not chosen:
        raise ValueError(f"no review files (*.jsonl) in {folder or ', '.join(files)} with {list(select)} in their name")
    return chosen


def title(file: Path) -> str:
    """A review file's name as it is shown and selected by."""
    return file.name.replace("gpt4_text_", "").removesuffix(".jsonl")


def judges_of(file: Path, rows: Iterable[dict[str, Any]]) -> list[str]:
    """Names of the judges in a review file; files of the public program hold none, there the file name tells."""
    named = sorted({row["judge"] for row in rows if "judge" in row})
    return named or [f"gpt-4-{next((one for one in reversed(VERSIONS) if one in title(file)), VERSIONS[0])}?"]


def report(file: Path, rows: Sequence[dict[str, Any]], judges: Sequence[str], ignore: Iterable[str]) -> list[str]:
    """Lines for one review file.

    Raises:
        ValueError: a review without "tuple" (or "score", its older name), or none that holds scores.
    """
    left_out = set(ignore)
    asked = [row for row in rows if str(row.get("question_id")) not in left_out]
    reviews = [{**row, "tuple": _pair(file, row)} for row in asked]
    scored = [row for row in reviews if min(row["tuple"]) >= 0]
    try:
        means = summarise(scored)
        lines = [
            f"{name} {one.percent:.1f} {10 * one.reference:.1f} {10 * one.model:.1f}" for name, one in means.items()
        ]
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    excluded = len(reviews) - len(scored)
    dropped = [f"{excluded} of {len(reviews)} reviews hold no scores and are left out"] if excluded else []
    return [f"{title(file)} (judge {', '.join(judges)})", *lines, *dropped, "=" * 33]


def _pair(file: Path, row: dict[str, Any]) -> list[float]:
    pair = row.get("tuple", row.get("score"))
    if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(value, int | float) for value in pair):
        raise ValueError(
            f"{file}, question_id {row.get('question_id')!r}: expected 'tuple' of two numbers, got {pair!r}"
        )
    return pair


def _parser() -> argparse.ArgumentParser:
    # argparse, not typer: the public flags take several words each
    parser = argparse.ArgumentParser(
        prog="python -m llava.eval.summarize_gpt_review",
        description="Scores of LLaVA-Bench review files.",
        epilog="example: python -m llava.eval.summarize_gpt_review -d reviews -s v1.5 -v 0314",
    )
    parser.add_argument("-d", "--dir", type=Path, help="folder of review files")
    parser.add_argument("-f", "--files", nargs="*", default=[], help="review files, below --dir if it is given")
    parser.add_argument("-v", "--version", help=f"only reviews of judges with this in their name, e.g. {VERSIONS[0]}")
    parser.add_argument("-s", "--select", nargs="*", default=[], help="only files with all of this in their name")
    parser.add_argument("-i", "--ignore", nargs="*", default=[], help="question ids to leave out")
    return parser


if __name__ == "__main__":
    main()
