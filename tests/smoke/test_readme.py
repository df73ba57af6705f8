"""The pages tell the truth: commands name what exists, flags are known, Python blocks run, the file list is current.

Pages: README.md, CONTRIBUTING.md, playground/**/README.md, docs/*.md. In them, a fenced `bash` block holds commands to
type at the repository root, a fenced `python` block is a program (skipped when it starts with "# needs:"), and results
stand between markers written by llava.eval.report.
"""

from __future__ import annotations

import functools
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.smoke import layout

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *ROOT.glob("playground/*.md"),
    *ROOT.glob("playground/data/*.md"),
]
PAGES += sorted((ROOT / "docs").glob("*.md"))
PLAIN = {"git", "cd", "source", "less", "ls", "mkdir", "unzip", "cp", "hf"}  # ordinary tools: not checked further
OURS = ("llava", "visionzip", "tests", "configs", "scripts", "requirements", "playground/miniature", "docs")
BEHIND = {  # the program a script passes its flags to
    "scripts/train/": "llava.train.train",
    "scripts/eval/reproduce": "llava.eval.grid",
    "scripts/eval/grid": "llava.eval.grid",
    "scripts/eval/miniature": "llava.eval.grid",
    "scripts/eval/": "llava.eval.run_benchmark",
}
MINIATURE = ROOT / "playground" / "miniature" / "llava-mini-v1.5"


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str, text: str) -> list[Block]:
    """The fenced blocks of a page."""
    found = []
    for match in re.finditer(r"^( *)```(\w+)\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL):
        line = text[: match.start()].count("\n") + 1
        body = "\n".join(row.removeprefix(match[1]) for row in match[3].splitlines())
        found.append(Block(page, line, match[2], body))
    return found


def commands(block: Block) -> list[list[str]]:
    """The words of each command of a bash block; continued lines joined, comments and leading VAR=value dropped."""
    found = []
    for line in re.sub(r"\\\n\s*", " ", block.text).splitlines():
        for part in re.split(r"\s+(?:&&|\|)\s+", line):
            words = shlex.split(part, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words.pop(0)
            if words:
                found.append(words)
    return found


@functools.cache
def help_of(*command: str) -> str:
    """What a program of ours prints for --help."""
    environment = {**os.environ, "COLUMNS": "240", "TERM": "dumb", "NO_COLOR": "1"}
    run = subprocess.run([*command, "--help"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, f"{' '.join(command)} --help fails:\n{run.stderr[-2000:]}"
    return run.stdout


def unknown_flags(words: list[str], known: str) -> list[str]:
    flags = [word.split("=")[0] for word in words if re.match(r"--[a-z]", word)]
    return [flag for flag in flags if not re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", known)]


def command_faults(words: list[str]) -> list[str]:
    """What in a command does not exist: program, script, module, flag, or a file it takes from this repository."""
    program, *rest = words
    faults = [f"no file {word}" for word in rest if is_ours(word) and not (ROOT / word).exists()]
    if program == "bash" and rest:
        if not (ROOT / rest[0]).is_file():
            return [f"no script {rest[0]}"]
        if rest[0] != "scripts/test.sh":  # its flags are pytest's
            known = help_of("bash", rest[0])
            behind = next((module for prefix, module in BEHIND.items() if rest[0].startswith(prefix)), None)
            if behind is not None and unknown_flags(rest[1:], known):
                known += help_of(sys.executable, "-m", behind)
            faults += [f"{rest[0]} has no {flag}" for flag in unknown_flags(rest[1:], known)]
    elif program == "python" and rest[:1] == ["-m"]:
        module = rest[1]
        if module.split(".")[0] in ("llava", "visionzip", "tests"):
            place = ROOT / module.replace(".", "/")
            if not (place.with_suffix(".py").is_file() or (place / "__main__.py").is_file()):
                return [f"no module {module}"]
            sub = [word for word in rest[2:3] if re.fullmatch(r"[a-z]+(-[a-z]+)*", word)]
            known = help_of(sys.executable, "-m", module, *sub)
            faults += [f"{module} has no {flag}" for flag in unknown_flags(rest[2:], known)]
        elif module not in ("lmms_eval", "pytest", "mkdocs", "pip", "venv"):
            faults.append(f"unknown module {module}")
    elif program == "visionzip" and rest:
        names = rest[:2] if rest[0] in ("eval", "bench") else rest[:1]
        known = help_of(sys.executable, "-m", "llava.cli", *names)
        faults += [f"visionzip {' '.join(names)} has no {flag}" for flag in unknown_flags(rest[1:], known)]
    elif program == "make":
        targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
        faults += [f"no make target {word}" for word in rest if word not in targets]
    elif program.startswith((".", "scripts/")):
        if not program.startswith(".venv/") and not os.access(ROOT / program, os.X_OK):
            faults.append(f"no program {program}")
    elif program not in PLAIN | {"pip", "uv"}:
        faults.append(f"unknown program {program}; add it to PLAIN if it is an ordinary tool")
    return faults


def is_ours(word: str) -> bool:
    """A path that this repository should hold (no pattern, no placeholder)."""
    return word.startswith(tuple(f"{name}/" for name in OURS)) and not re.search(r"[*<>{}$]", word)


BLOCKS = [
    b for page in PAGES if page.is_file() for b in blocks(page.relative_to(ROOT).as_posix(), page.read_text("utf-8"))
]


def test_pages_and_blocks_are_found() -> None:
    assert (ROOT / "README.md").is_file()
    assert {block.language for block in BLOCKS} <= {"bash", "python", "text", "json", "yaml"}
    assert any(block.page == "README.md" and block.language == "bash" for block in BLOCKS)


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "bash"], ids=str)
def test_commands(block: Block) -> None:
    faults = [f"{' '.join(words)}\n    {fault}" for words in commands(block) for fault in command_faults(words)]
    assert not faults, "\n".join(["", *faults])


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "python"], ids=str)
def test_python_blocks_run(block: Block) -> None:
    """In a fresh interpreter, on the miniature."""
    compile(block.text, str(block), "exec")
    if block.text.startswith("# needs:"):
        return
    if "playground/miniature" in block.text and not MINIATURE.is_dir():
        pytest.skip("the miniature model is not there")
    run = subprocess.run([sys.executable, "-c", block.text], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-3000:]


def test_the_tuning_commands_fill_the_folders_the_grids_look_in() -> None:
    """One rule for names: a page has a command for each tuned cell of the paper's grids: recipe, budget and folder."""
    from llava.eval.grid_config import read_config

    tuned: dict[str, tuple[str, int, int]] = {}
    for words in (words for block in BLOCKS if block.language == "bash" for words in commands(block)):
        if words[:2] == ["bash", "scripts/train/zip_tune.sh"]:
            recipe = yaml.safe_load((ROOT / words[2]).read_text("utf-8"))
            flags = dict(zip(words[3::2], words[4::2], strict=False))
            kept = [int(flags.get(f"--{key}", recipe[key])) for key in ("zip_dominant", "zip_contextual")]
            tuned[flags["--output_dir"]] = (recipe["model_name_or_path"], kept[0], kept[1])
    grids = [read_config(file) for file in (ROOT / "configs" / "eval").glob("table*.yaml")]
    cells = [cell for grid in grids for cell in grid.cells() if cell.method == "visionzip-tuned"]
    assert len(cells) == 9
    for cell in cells:
        assert cell.budget is not None and cell.source.path in tuned, f"no command on a page fills {cell.source.path}"
        assert tuned[cell.source.path] == (cell.source.base, cell.budget.dominant, cell.budget.contextual)


def test_readme_lists_every_file() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    silent = [name for name, line in layout.entries().items() if not line]
    assert not silent, (
        f"these say nothing about themselves (docstring, first comment, or OTHERS in layout.py): {silent}"
    )
    assert layout.render() in text, "README.md's file list is out of date: run `make fix`"


def test_readme_names_the_two_commands_and_marks_its_results() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert "bash scripts/quickstart.sh" in text
    assert "bash scripts/test.sh" in text
    assert text.count("<!-- results:miniature:start -->") == text.count("<!-- results:miniature:end -->") == 1


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.is_file()], ids=lambda page: page.relative_to(ROOT).as_posix()
)
def test_links_lead_somewhere(page: Path) -> None:
    """Links inside the repository point at files that are there."""
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text("utf-8"))
    dead = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert not dead, f"{page.relative_to(ROOT)}: dead links {dead}"


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        ("bash scripts/nothing.sh", "no script"),
        ("bash scripts/quickstart.sh --fast", "has no --fast"),
        ("python -m llava.nothing", "no module"),
        ("python -m tests.smoke.layout --wrote", "has no --wrote"),
        ("python -m tests.smoke.layout --writ", "has no --writ"),
        ("python -m nonsense", "unknown module"),
        ("make nothing", "no make target"),
        ("visionzip plan --gpuz 24", "has no --gpuz"),
        ("visionzip eval report --recordz x", "visionzip eval report has no --recordz"),
        ("bash scripts/eval/pope.sh ckpt --dominant 5 --kontextual 2", "has no --kontextual"),
        ("frobnicate", "unknown program"),
        ("LLAVA_VENV=x bash scripts/nothing.sh", "no script"),
        ("git status && bash scripts/nothing.sh", "no script"),
        ("cp configs/nothing.yaml x", "no file"),
        ("bash scripts/test.sh \\\n  tests/nothing", "no file"),
    ],
)
def test_the_command_check_catches(command: str, fault: str) -> None:
    (block,) = blocks("x.md", f"text\n```bash\n{command}\n```\n")
    assert any(fault in found for words in commands(block) for found in command_faults(words))


@pytest.mark.parametrize(
    "command",
    ["bash scripts/test.sh -m 'not slow'", "python -m tests.smoke.layout --write", "make fix check", "# a comment"],
)
def test_the_command_check_allows(command: str) -> None:
    (block,) = blocks("x.md", f"```bash\n{command}\n```\n")
    assert not [fault for words in commands(block) for fault in command_faults(words)]
