"""The file list of README.md, made from what the files say about themselves.

`python -m tests.smoke.layout --write` (part of `make fix`) rewrites the block between the markers; test_readme.py fails
when the block is out of date. A Python file is described by the first line of its docstring, a script or YAML by its
first comment line, anything else by OTHERS.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import typer

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
START, END = "<!-- layout:start (written by `make fix`) -->", "<!-- layout:end -->"
LISTED = ("visionzip", "llava", "scripts", "configs")  # one line per file; everything else one line per top-level entry

OTHERS = {
    "CITATION.cff": "How to cite this software and the paper",
    "CONTRIBUTING.md": "The daily loop, how to add things, how tracked results are refreshed",
    "LICENSE": "Apache-2.0",
    "configs/bench/expected_counts.json": "Counts of the speed guard, written by python -m llava.bench.counts --update",
    "LOG.md": "What was tried and measured, with numbers, failures included",
    "Makefile": "setup, fix, check, test, smoke, docs, lock",
    "NOTICE": "The works this builds on",
    "README.md": "This page",
    "docs": "The pages of the documentation site (mkdocs)",
    "mkdocs.yml": "Table of contents of docs/",
    "playground": "The miniature base model (tracked) and where data goes (not tracked)",
    "pyproject.toml": "Package metadata and the settings of pytest, ruff and mypy",
    "requirements": "lock.txt: every version; overrides.txt: what the resolver must be told",
    "results": "Measured records and the tables and plots rendered from them",
    "tests": "Mirror of the tree, plus contract/, architecture/ and smoke/",
    ".ci": "run: what continuous integration runs",
    ".gitignore": "What git leaves out",
    ".pre-commit-config.yaml": "Local hooks: ruff, mypy, architecture",
}


def tracked() -> list[str]:
    """Paths git knows or would add, relative to the repository root, sorted."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return sorted(name for name in set(names) if name and (ROOT / name).is_file())


def describe(path: Path) -> str:
    """One line on what a file is for; "" if the file does not say."""
    text = path.read_text("utf-8", errors="replace")
    if path.suffix == ".py":
        docstring = ast.get_docstring(ast.parse(text)) or ""
        return re.sub(r"\s+", " ", docstring.split("\n\n")[0]).strip()
    comments = [
        line.lstrip("# ").rstrip() for line in text.splitlines()[:3] if line.startswith("#") and line[1:2] != "!"
    ]
    return comments[0] if comments else ""


def first_sentence(text: str) -> str:
    """The first sentence, without its full stop."""
    return re.split(r"(?<=[.;])\s", text, maxsplit=1)[0].rstrip(".;")


def entries() -> dict[str, str]:
    """Path -> description, in reading order. Empty __init__.py and markers such as py.typed are left out."""
    found: dict[str, str] = {}
    names = tracked()
    for folder in LISTED:
        for name in (n for n in names if n.startswith(f"{folder}/")):
            path = ROOT / name
            if path.suffix == ".json":
                found[name] = OTHERS.get(name, json_line(name))
            elif path.suffix in (".py", ".sh", ".yaml", ".yml") and not (
                path.name == "__init__.py" and not describe(path)
            ):
                found[name] = first_sentence(describe(path))
    for top in sorted({name.split("/")[0] for name in names}):
        if top not in LISTED:
            found[top] = OTHERS.get(top, "")
    return found


def json_line(name: str) -> str:
    """JSON holds no comments: DeepSpeed files are described by their name."""
    stem = Path(name).stem
    return f"DeepSpeed settings: {stem.replace('_', ' ')}" if "deepspeed" in name else ""


def render() -> str:
    """The block for README.md, markers included."""
    rows = entries()
    width = max(len(name) for name in rows)
    lines = [f"{name:<{width}}  {text}".rstrip() for name, text in rows.items()]
    return "\n".join([START, "```text", *lines, "```", END])


def main(write: bool = typer.Option(False, "--write", help="Rewrite the block in README.md.")) -> None:
    """Show README.md's file list as it should be, or write it."""
    if not write:
        typer.echo(render())
        return
    text = README.read_text("utf-8")
    pattern = re.compile(re.escape(START) + ".*?" + re.escape(END), re.DOTALL)
    if not pattern.search(text):
        typer.echo(f"{README.name} has no {START} ... {END} block", err=True)
        sys.exit(1)
    README.write_text(pattern.sub(lambda _: render(), text), "utf-8")


if __name__ == "__main__":
    typer.run(main)
