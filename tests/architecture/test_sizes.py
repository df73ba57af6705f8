"""Files and functions stay readable: 400 lines a file at most, and a function above 60 says why."""

from __future__ import annotations

import pytest

from tests.architecture.rules import MAX_FILE_LINES, MAX_FUNCTION_LINES, Source, library, size_violations


@pytest.mark.parametrize("source", library(), ids=lambda source: source.path)
def test_sizes(source: Source) -> None:
    found = size_violations(source)
    assert not found, "\n".join(["", *found])


def function(lines: int, above: str = "", beside: str = "") -> Source:
    body = "\n".join("    x = 1" for _ in range(lines - 1))
    return Source("llava.x", "llava/x.py", f"import a\n{above}\ndef f():{beside}\n{body}\n")


def test_the_size_rules_catch() -> None:
    assert size_violations(Source("llava.x", "llava/x.py", "x = 1\n" * (MAX_FILE_LINES + 1)))
    assert size_violations(function(MAX_FUNCTION_LINES + 1))
    assert size_violations(function(MAX_FUNCTION_LINES + 1, above="# a comment"))


def test_the_size_rules_allow() -> None:
    assert not size_violations(Source("llava.x", "llava/x.py", "x = 1\n" * MAX_FILE_LINES))
    assert not size_violations(function(MAX_FUNCTION_LINES))
    assert not size_violations(function(MAX_FUNCTION_LINES + 1, above="# long: one table, read top to bottom"))
    assert not size_violations(function(MAX_FUNCTION_LINES + 1, beside="  # long: one table"))
    assert not size_violations(function(MAX_FUNCTION_LINES + 1, above="# long: a table\n@decorated(1)"))
