"""Words that have no place: device and print habits in library code, private paths and package hosts anywhere."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.architecture.rules import ROOT, Source, library, library_word_violations

# The device is an argument there: the evaluation harness passes it by this name.
DEVICE_DOORS = ("llava/eval/lmms_plugin.py",)

# Written in two pieces so that this file does not contain them.
PRIVATE = {
    "a path of one machine": re.compile("/" + r"(?:work|root|workspace)/|/" + r"home/\w|/" + "tmp/"),
    "a package index host": re.compile("pypi" + r"\.org|python" + r"hosted\.org|download\." + r"pytorch\.org"),
    "an index option": re.compile("--(?:extra-)?index" + "-url|--find" + "-links"),
}
# lines that show such a path on purpose, as (file, piece of the line)
ON_PURPOSE = (("tests/llava/test_provenance.py", "/" + "home/"),)


@pytest.mark.parametrize("source", library(), ids=lambda source: source.path)
def test_library_words(source: Source) -> None:
    found = library_word_violations(source, DEVICE_DOORS)
    assert not found, "\n".join(["", *found])


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("model.cuda()", 1),
        ("x = images.half().cuda()", 2),
        ('device = "cuda:0"', 1),
        ('def f(device="cuda:0"): ...', 1),
        ("print(1)", 1),
        ("from a import *", 1),
        ('"""Not "cuda:0" and not print(1)."""', 0),
        ('"""cuda:0"""', 0),
        ("x.to(device)  # never .cuda()", 0),
        ("import torch\ntorch.cuda.is_available()", 0),
    ],
)
def test_the_word_rule_catches(text: str, count: int) -> None:
    assert len(library_word_violations(Source("llava.x", "llava/x.py", text))) == count


def test_a_device_door_may_name_the_device() -> None:
    assert not library_word_violations(Source("llava.x", "llava/x.py", 'device = "cuda:0"'), ("llava/x.py",))


def private_words(path: str, text: str) -> list[str]:
    """Lines of one tracked file that name a private path or a package host."""
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        if any(path == file and piece in line for file, piece in ON_PURPOSE):
            continue
        found += [
            f"{path}:{number}: {what}: {line.strip()[:120]}" for what, word in PRIVATE.items() if word.search(line)
        ]
    return found


def test_tracked_files_name_no_private_place() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    found = []
    for path in filter(None, listed.stdout.split("\0")):
        file = ROOT / path
        if file.is_file():
            data = file.read_bytes()
            if b"\0" not in data[:8192]:
                found += private_words(path, data.decode("utf-8", errors="replace"))
    assert not found, "\n".join(["", *found])


@pytest.mark.parametrize(
    "line",
    [
        "cd /" + "work/main",
        "out=/" + "tmp/x.json",
        "data: /" + "home/me/coco",
        "pip install --extra-index" + "-url x",
        "https://download." + "pytorch.org/whl",
    ],
)
def test_the_private_rule_catches(line: str) -> None:
    assert len(private_words("README.md", f"first\n{line}\n")) == 1


@pytest.mark.parametrize("line", ["a/workable/b", "the work/main split", "tmp/x", "mktemp -d"])
def test_the_private_rule_allows(line: str) -> None:
    assert private_words("README.md", line) == []
