"""MMBench's tables: one row a question (or a rotation of its options), the picture in base64; the prompts made of it,
and the workbook the server takes."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import pandas as pd
from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

from llava.eval.question_set import Embedded, QuestionSet
from llava.eval.records import Answer, Question
from llava.utils import write_bytes

OPTIONS = "ABCD"
LETTER_SUFFIX = {
    "en": "Answer with the option's letter from the given choices directly.",
    "cn": "请直接回答选项字母。",
}
_NEEDED = ("index", "question", "A", "B", "image")
_NOT_SUBMITTED = ("hint", "category", "source", "image", "comment", "l2-category")
_PREDICTION = 6  # place of the answer's column in the workbook
_LONGEST_NUMBER = 20  # an image cell up to this long that is a number names another row
# What LLaVA's program takes for an empty cell: the words pandas reads as missing, and any spelling of two of them.
_MISSING = frozenset(
    ";#N/A;#N/A N/A;#NA;-1.#IND;-1.#QNAN;-NaN;-nan;1.#IND;1.#QNAN;<NA>;N/A;NA;NULL;NaN;None;n/a;nan;null".split(";")
)


@dataclass(frozen=True)
class Asked:
    """A row as it is asked. options: in the order shown. letters: the letter each has in the row. round_id: how often
    the options were turned."""

    question: Question
    options: tuple[str, ...]
    letters: tuple[str, ...]
    round_id: int = 0


def read_questions(file: Path, lang: str = "en", single_pred_prompt: bool = True) -> QuestionSet:
    """A table as questions, one a row, and its pictures.

    Raises:
        ValueError: see `read_asked`.
    """
    asked, pictures = read_asked(file, lang, single_pred_prompt)
    return QuestionSet(tuple(row.question for row in asked), pictures)


def read_asked(
    file: Path, lang: str = "en", single_pred_prompt: bool = True, all_rounds: bool = False
) -> tuple[list[Asked], Embedded]:
    """Every row with its prompt, and the pictures.

    Args:
        lang: language of the suffix, en or cn.
        single_pred_prompt: ask for the letter alone.
        all_rounds: ask each row once for each turn of its options; the rounds share the row's id.

    Raises:
        ValueError: missing or malformed table, unknown language, a row without options or picture; row named.
    """
    if lang not in LETTER_SUFFIX:
        raise ValueError(f"unknown language {lang!r}; known: {', '.join(LETTER_SUFFIX)}")
    suffix = f"\n{LETTER_SUFFIX[lang]}" if single_pred_prompt else ""
    rows = _table(file).to_dict("records")
    names, pictures = _pictures(file, rows)
    asked: list[Asked] = []
    for row in rows:
        options = _options(file, row)
        for turn in range(max(1, len(options)) if all_rounds else 1):
            asked.append(_ask(row, options, turn, names[row["index"]], suffix, shared=all_rounds and len(options) > 1))
    return asked, pictures


def read_letters(file: Path) -> dict[str, str]:
    """The right letter of each row by index; "" where the table has none (a test split).

    Raises:
        ValueError: missing or malformed table.
    """
    table = _table(file, ("index", "answer"))
    return dict(zip(table["index"], table.get("answer", [""] * len(table)), strict=True))


def write_submission(file: Path, answers: Sequence[Answer], target: Path) -> Path:
    """Write the server's workbook: the table without the columns it does not want, and the answers as `prediction`.
    Rows without an answer stay empty, as the server allows. Control characters, which no workbook can hold, become �.

    Raises:
        ValueError: an answer to a row that is not there, or two to one row.
    """
    table = _table(file)
    said = {str(answer.question_id): ILLEGAL_CHARACTERS_RE.sub("�", answer.text) for answer in answers}
    unknown = sorted(said.keys() - set(table["index"]))
    if unknown or len(said) != len(answers):
        raise ValueError(
            f"expected one answer to a row of {file}; got {len(answers)} to {len(said)} rows, {len(unknown)} of them "
            f"not there {unknown[:5]}"
        )
    sheet = table.drop(columns=[name for name in _NOT_SUBMITTED if name in table.columns])
    sheet = sheet.mask(sheet == "", None)
    sheet.insert(min(_PREDICTION, len(sheet.columns)), "prediction", [said.get(key) for key in table["index"]])
    sheet["index"] = sheet["index"].astype(int)
    stream = io.BytesIO()
    sheet.to_excel(stream, index=False, engine="openpyxl")
    write_bytes(target, stream.getvalue())
    return target


def _table(file: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """All cells as text, an empty one as "": pandas would turn words and numbers into values."""
    if not file.is_file():
        raise ValueError(f"{file}: expected a table of tab-separated values, found nothing there")
    wanted = None if columns is None else lambda name: name in columns
    try:
        table = pd.read_csv(file, sep="\t", dtype=str, keep_default_na=False, usecols=wanted)
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: expected a table of tab-separated values: {error}") from error
    lacking = [name for name in (_NEEDED if columns is None else _NEEDED[:1]) if name not in table.columns]
    if lacking or table.empty:
        raise ValueError(f"{file}: expected rows with the columns {', '.join(_NEEDED)}; lacking {lacking or 'rows'}")
    wrong = [key for key, times in table["index"].value_counts().items() if times > 1 or not key.isdigit()]
    if wrong:
        raise ValueError(f"{file}: expected every row to have its own whole number as index, got {wrong[:5]}")
    return table


def _pictures(file: Path, rows: Sequence[Mapping[str, str]]) -> tuple[dict[str, str], Embedded]:
    """Name of each row's picture, and the pictures. Equal pictures have one name, so that the rotations of a question
    are seen to be about one picture."""
    cells = {row["index"]: row["image"] for row in rows}
    names: dict[str, str] = {}
    owner: dict[str, str] = {}  # base64 -> index of its first row
    for index, cell in cells.items():
        content = cell
        if len(cell) <= _LONGEST_NUMBER and cell.isdigit():
            content = cells.get(cell, "")
        if len(content) <= _LONGEST_NUMBER:
            raise ValueError(
                f"{file}: row {index}: expected a picture in base64 or the index of a row with one: {cell!r}"
            )
        names[index] = owner.setdefault(content, index)
    return names, Embedded({index: content for content, index in owner.items()})


def _options(file: Path, row: Mapping[str, str]) -> tuple[str, ...]:
    """The options up to the first missing one, as the public program shows them: it drops an option `None` and all
    after it, even the first, and so asks some questions without their right answer."""
    if not row.get("A"):
        raise ValueError(f"{file}: row {row['index']} has no option A")
    cells = [row.get(letter) for letter in OPTIONS]
    return tuple(str(cell) for cell in takewhile(lambda cell: not _is_missing(cell), cells))


def _is_missing(cell: str | None) -> bool:
    return cell is None or cell in _MISSING or cell.lower() in ("none", "nan")


def _ask(row: Mapping[str, Any], options: tuple[str, ...], turn: int, image: str, suffix: str, shared: bool) -> Asked:
    turned = options[turn:] + options[:turn]
    letters = OPTIONS[: len(options)]
    shown = [f"{letter}. {option}" for letter, option in zip(letters, turned, strict=True)]
    words = [*([] if _is_missing(row.get("hint")) else [row["hint"]]), row["question"], *shown]
    return Asked(
        Question(int(row["index"]), "\n".join(words) + suffix, image, row.get("category") or None, shared),
        turned,
        tuple(letters[turn:] + letters[:turn]),
        turn,
    )
