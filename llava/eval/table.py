"""A table of text cells, and the three forms it is written in."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

_EMPTY = re.compile(r"(?<=& )-(?= [&\\])")  # a cell that is "-"
_MINUS = re.compile(r"(?<![\w.])-(?=\d)")  # a hyphen that stands for a minus


@dataclass(frozen=True)
class Table:
    """head: one title a column. rows: text cells. sections: index of a row -> heading above it. The first column is
    left-aligned, the others right."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    sections: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.head) for row in self.rows), "a row does not fit the head"

    def to_markdown(self) -> str:
        """GitHub's form; a section heading is a row of its own."""
        lines = [_line(self.head), _line(["---", *["---:"] * (len(self.head) - 1)])]
        for index, row in enumerate(self.rows):
            if index in self.sections:
                lines.append(_line([f"**{self.sections[index]}**", *[""] * (len(self.head) - 1)]))
            lines.append(_line(row))
        return "\n".join(lines) + "\n"

    def to_csv(self) -> str:
        """One line a row, without section headings."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerows([self.head, *self.rows])
        return stream.getvalue()

    def to_latex(self) -> str:
        """A `tabular` with booktabs rules, special characters escaped, minus signs and dashes as such; sections are
        separated by a rule."""
        frame = pd.DataFrame(self.rows, columns=list(self.head))
        text = frame.to_latex(index=False, escape=True, column_format="l" + "r" * (len(self.head) - 1))
        text = _MINUS.sub("$-$", _EMPTY.sub("---", text))
        lines = text.replace("‡", r"$\ddagger$").splitlines()
        first = lines.index(r"\midrule") + 1
        for index in sorted(self.sections, reverse=True):
            if index > 0:
                lines.insert(first + index, r"\midrule")
        return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
