"""The questions of one benchmark with the pictures they are about, whatever file format both came in."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image

from llava.eval.records import Question, read_questions
from llava.mm_utils import load_image, load_image_from_base64

_SHOWN = 5


class Pictures(Protocol):
    """Where a question's `image` is found by name. Both methods raise ValueError naming a picture that is not there."""

    def open(self, name: str) -> Image.Image:
        """The decoded picture, in RGB."""
        ...

    def digest(self, names: Iterable[str]) -> str:
        """Changes when one of these pictures does; all must be there."""
        ...


@dataclass(frozen=True)
class Folder:
    """Picture files below a folder. obtain: where missing ones come from, for the message."""

    path: Path
    obtain: str = ""

    def open(self, name: str) -> Image.Image:
        return load_image(self.path / name)

    def digest(self, names: Iterable[str]) -> str:
        """By name and size: reading tens of thousands of files would take longer than answering."""
        digest = hashlib.sha256()
        wanted = sorted(set(names))
        missing: list[str] = []
        for name in wanted:
            file = self.path / name
            if file.is_file():
                digest.update(f"{name}:{file.stat().st_size}\n".encode())
            else:
                missing.append(name)
        if missing:
            shown = ", ".join([*missing[:_SHOWN], *(["..."] if len(missing) > _SHOWN else [])])
            raise ValueError(
                f"{len(missing)} of {len(wanted)} pictures are not in {self.path}: {shown}"
                f"{f'; {self.obtain}' if self.obtain else ''}"
            )
        return digest.hexdigest()


@dataclass(frozen=True)
class Embedded:
    """Pictures that lie in the question file as base64 text, as in MMBench's tables."""

    encoded: Mapping[str, str]

    def open(self, name: str) -> Image.Image:
        if name not in self.encoded:
            raise ValueError(f"picture {name!r} is not in the question file")
        return load_image_from_base64(self.encoded[name]).convert("RGB")

    def digest(self, names: Iterable[str]) -> str:
        digest = hashlib.sha256()
        for name in sorted(set(names)):
            digest.update(f"{name}:{self.encoded.get(name, 'missing')}\n".encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class QuestionSet:
    """Questions in the order of their file, and their pictures."""

    questions: tuple[Question, ...]
    pictures: Pictures

    def first(self, limit: int | None) -> "QuestionSet":
        """Only the first so many questions; all for None.

        Raises:
            ValueError: a limit below 1.
        """
        if limit is not None and limit < 1:
            raise ValueError(f"expected a limit of at least 1, got {limit}")
        return QuestionSet(self.questions[:limit], self.pictures)

    def picture_digest(self) -> str:
        """Changes when a picture of these questions does.

        Raises:
            ValueError: pictures that are not there: how many, the first names, the folder and where to get them.
        """
        return self.pictures.digest(question.image for question in self.questions if question.image is not None)


def read_question_set(question_file: str | Path, image_folder: str | Path, obtain: str = "") -> QuestionSet:
    """A JSON-lines question file and a folder of pictures.

    Args:
        obtain: where missing pictures come from.

    Raises:
        ValueError: see `read_questions`.
    """
    return QuestionSet(tuple(read_questions(question_file)), Folder(Path(image_folder), obtain))
