"""Question files and answer files: one JSON object a line, joined by question id, never by place.

Question line: {"question_id", "image" (path below an image folder; absent = text only), "text"[, "category"]}.
Answer line: {"question_id", "prompt", "text", "answer_id", "model_id", "metadata"}.
Ids may be numbers or strings; they are compared as strings (`1` and `"1"` are one id). The public files of MME and
TextVQA ask several questions under one id, the picture's: there the text of the question tells them apart. A line that
stands there twice is asked, answered and counted twice, as the public programs do: its copies are numbered.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from llava.utils import write_text

logger = logging.getLogger(__name__)

Row = Mapping[str, Any]
ANSWER_KEYS = ("question_id", "prompt", "text", "answer_id", "model_id", "metadata")
COPY = "copy"  # in an answer's metadata: which of the equal lines it answers
_SHOWN = 5


@dataclass(frozen=True)
class Question:
    """One line of a question file. `text` carries the benchmark's own suffix; `image` is None for a text-only
    question; `shares_id`: other questions of the file have the same id; `copy`: 1, 2, ... where the same line stands
    there more than once."""

    question_id: str | int
    text: str
    image: str | None = None
    category: str | None = None
    shares_id: bool = False
    copy: int | None = None

    @property
    def key(self) -> str:
        """What answers are joined by: the id, the text where the id is shared, the number of a second copy."""
        return _numbered(_key(self.question_id, self.text, self.shares_id), self.copy)


@dataclass(frozen=True)
class Answer:
    """One line of an answer file."""

    question_id: str | int
    prompt: str
    text: str
    model_id: str
    metadata: dict[str, Any] = field(default_factory=dict)

    def to_row(self) -> dict[str, Any]:
        """The JSON line; `answer_id` is a hash of model, id, prompt and text, so equal runs write equal files."""
        answer_id = hashlib.sha256(
            f"{self.model_id}\n{self.question_id}\n{self.prompt}\n{self.text}".encode()
        ).hexdigest()[:22]
        return {
            "question_id": self.question_id,
            "prompt": self.prompt,
            "text": self.text,
            "answer_id": answer_id,
            "model_id": self.model_id,
            "metadata": self.metadata,
        }


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """All lines of a JSON-lines file; blank lines are skipped.

    Raises:
        ValueError: no such file, or a line that is not a JSON object (file and line are named).
    """
    file = Path(path)
    return [_parse_line(file, number, line) for number, line in _lines(file)]


def read_questions(path: str | Path) -> list[Question]:
    """A question file in its own order.

    Raises:
        ValueError: missing file, malformed line, missing or mistyped field, or two questions that only their picture
        or category tells apart; file, line and id are named.
    """
    file = Path(path)
    questions: list[Question] = []
    seen: dict[tuple[str, str], tuple[int, Question]] = {}
    for number, line in _lines(file):
        question = _question(file, number, _parse_line(file, number, line))
        first, former = seen.setdefault((str(question.question_id), question.text), (number, question))
        if (former.image, former.category) != (question.image, question.category):
            raise ValueError(
                f"{file} line {number}: question_id {question.question_id!r} was used on line {first} already, for the "
                f"same text and another picture or category; answers are joined by id and text, so give every question "
                f"its own id"
            )
        questions.append(question)
    if not questions:
        raise ValueError(f"{file}: expected at least one question, found none")
    return tell_apart(questions)


def tell_apart(questions: Sequence[Question]) -> list[Question]:
    """The same questions, so marked that each has a key of its own: ids that several share, and copies of one line."""
    texts: dict[str, Counter[str]] = {}
    for question in questions:
        texts.setdefault(str(question.question_id), Counter())[question.text] += 1
    given: Counter[tuple[str, str]] = Counter()
    told = []
    for question in questions:
        identity = str(question.question_id)
        given[identity, question.text] += 1
        copy = given[identity, question.text] if texts[identity][question.text] > 1 else None
        told.append(replace(question, shares_id=len(texts[identity]) > 1, copy=copy))
    return told


def read_answers(path: str | Path) -> list[Answer]:
    """An answer file in its own order. A last line torn by a kill is not accepted here, see `recover_answers`.

    Raises:
        ValueError: missing file, malformed line or missing field; file, line and id are named.
    """
    file = Path(path)
    return [_answer(file, number, _parse_line(file, number, line)) for number, line in _lines(file)]


def recover_answers(path: str | Path, repair: bool = False) -> list[Answer]:
    """The answers a former, perhaps killed, run left behind; none if there is no such file.

    A kill tears the last line at most. A last line that is cut short is dropped (its question is then asked again),
    and with `repair` the file itself is cut back to whole lines so that it can be appended to.

    Raises:
        ValueError: a line before the last is malformed (file and line are named).
    """
    file = Path(path)
    if not file.exists():
        return []
    data = file.read_bytes()
    lines = data.split(b"\n")
    tail = lines.pop()
    whole = len(data) - len(tail)
    torn = bool(tail)
    answers: list[Answer] = []
    for number, raw in enumerate(lines, start=1):
        if not raw.strip():
            continue
        try:
            answers.append(_answer(file, number, _parse_line(file, number, raw.decode("utf-8", errors="replace"))))
        except ValueError:
            if number != len(lines) or torn:
                raise
            torn, whole = True, whole - len(raw) - 1
    if torn and repair:
        logger.warning("%s: the last line is cut short (a killed run); it is dropped and asked again", file)
        with file.open("r+b") as stream:
            stream.truncate(whole)
    return answers


def key_answers(questions: Sequence[Question], answers: Iterable[Answer]) -> Iterator[tuple[str, Answer]]:
    """Answers with the key of the question each belongs to, whether or not that is one of these.

    Answers to copies of one question say which they are for; where they do not (a public program wrote them), the first
    is for the first copy.
    """
    shared = {str(question.question_id) for question in questions if question.shares_id}
    copied = {str(question.question_id) for question in questions if question.copy is not None}
    given: Counter[str] = Counter()
    for answer in answers:
        identity = str(answer.question_id)
        key = _key(answer.question_id, answer.prompt, identity in shared)
        if identity in copied:
            given[key] += 1
            key = _numbered(key, answer.metadata.get(COPY, given[key]))
        yield key, answer


def merge_answers(questions: Sequence[Question], parts: Iterable[Sequence[Answer]]) -> list[Answer]:
    """The shards' answers as one list in the order of the questions, joined by id.

    Raises:
        ValueError: a question without an answer, an answer without a question, or two answers to one question that
        differ.
    """
    merged: dict[str, Answer] = {}
    for part in parts:
        for key, answer in key_answers(questions, part):
            former = merged.setdefault(key, answer)
            if former.text != answer.text:
                raise ValueError(
                    f"question_id {answer.question_id!r} was answered twice and differently: {former.text!r} and "
                    f"{answer.text!r}; delete one of the answer files"
                )
    check_ids([question.key for question in questions], list(merged))
    return [merged[question.key] for question in questions]


def check_ids(expected: Sequence[str], came: Sequence[str], what: str = "answers") -> None:
    """Both hold the same ids, each once.

    Raises:
        ValueError: naming the first few missing, unexpected and repeated ids.
    """
    want, have = set(expected), set(came)
    repeated = sorted(key for key, count in Counter(came).items() if count > 1)
    problems = [
        f"{title} {len(ids)} ({', '.join(ids[:_SHOWN])}{', ...' if len(ids) > _SHOWN else ''})"
        for title, ids in (
            ("missing", sorted(want - have)),
            ("without a question", sorted(have - want)),
            ("repeated", repeated),
        )
        if ids
    ]
    if problems:
        raise ValueError(
            f"expected {len(want)} {what}, one for each question id, got {len(came)}: {'; '.join(problems)}"
        )


def told_tokens(mean: float | None) -> str:
    """Visual tokens an image in words, None where there were no images."""
    return "no images" if mean is None else f"{mean:.1f} visual tokens an image"


def write_lines(path: str | Path, rows: Iterable[Row]) -> None:
    """Write a JSON-lines file whole or not at all (through a temporary file beside it)."""
    write_text(path, "".join(dump_line(row) for row in rows))


def dump_line(row: Row) -> str:
    """One JSON line with its newline."""
    return json.dumps(dict(row), ensure_ascii=False) + "\n"


def _key(identity: str | int, text: str, shared: bool) -> str:
    return f"{identity}: {text}" if shared else str(identity)


def _numbered(key: str, copy: int | None) -> str:
    return key if copy is None or copy == 1 else f"{key} (copy {copy})"


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Line numbers from 1 and the lines that are not blank. Only a newline ends a line: answers may hold U+2028 and
    its like."""
    if not file.is_file():
        raise ValueError(
            f"{file}: expected a JSON-lines file, found {'a folder' if file.is_dir() else 'nothing'} there"
        )
    for number, raw in enumerate(file.read_bytes().split(b"\n"), start=1):
        if not raw.strip():
            continue
        try:
            yield number, raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{file} line {number}: expected UTF-8 text ({error.reason} at byte {error.start})"
            ) from error


def _parse_line(file: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{file} line {number}: not JSON ({error.msg} at column {error.colno}): {line[:80]!r}"
        ) from error
    if not isinstance(row, dict):
        raise ValueError(f"{file} line {number}: expected a JSON object, got {type(row).__name__}")
    return row


def _identify(file: Path, number: int, row: Row) -> str | int:
    identity = row.get("question_id")
    if not isinstance(identity, str | int) or isinstance(identity, bool):
        raise ValueError(
            f"{file} line {number}: expected question_id to be a string or a whole number, got {identity!r}"
        )
    return identity


def _string(file: Path, number: int, row: Row, key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        raise ValueError(
            f"{file} line {number}, question_id {row.get('question_id')!r}: expected {key!r} to be a string, "
            f"got {value!r}"
        )
    return value


def _question(file: Path, number: int, row: Row) -> Question:
    identity = _identify(file, number, row)
    image = None if row.get("image") is None else _string(file, number, row, "image")
    category = None if row.get("category") is None else str(row["category"])
    return Question(identity, _string(file, number, row, "text"), image, category)


def _answer(file: Path, number: int, row: Row) -> Answer:
    identity = _identify(file, number, row)
    metadata = row.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise ValueError(
            f"{file} line {number}, question_id {identity!r}: expected 'metadata' to be an object, got {metadata!r}"
        )
    return Answer(
        question_id=identity,
        prompt=str(row.get("prompt", "")),
        text=_string(file, number, row, "text"),
        model_id=str(row.get("model_id", "")),
        metadata=metadata,
    )
