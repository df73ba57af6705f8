"""The one generation loop: questions in, an answer file out.

Every evaluation goes through `generate`: it leaves out questions answered already, decodes images, asks the answerer
batch by batch and appends each batch's answers at once, so that a killed run loses at most one batch.
What an answer is does not depend on batch size, order, sharding or interruption; the model side (padding, prompts)
is `answerer.py`.
"""

import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.data import DataLoader, Dataset

from llava.eval.question_set import QuestionSet
from llava.eval.records import (
    COPY,
    Answer,
    Question,
    dump_line,
    key_answers,
    merge_answers,
    recover_answers,
    write_lines,
)
from llava.eval.shards import Shard, launched_shard, part_files, process_start
from llava.utils import write_text

logger = logging.getLogger(__name__)

VISUAL_TOKENS = "visual_tokens"
MADE_FROM = "made_from"


@dataclass(frozen=True)
class Reply:
    """What the model said to one question, and how many visual tokens of it entered the language model (all images
    together)."""

    text: str
    visual_tokens: int = 0


class Answerer(Protocol):
    """The model side of the loop. `settings` is everything that changes answers; it is kept beside the answer
    file. `how` changes the time, and tokens by rounding at most; a record's stamp keeps it."""

    @property
    def model_id(self) -> str: ...

    @property
    def settings(self) -> Mapping[str, Any]: ...

    @property
    def how(self) -> Mapping[str, Any]: ...

    def load(self, question: Question, image: Image.Image | None) -> Any:
        """Prepare one question and its image (RGB); may run in a worker process."""
        ...

    def reply(self, batch: Sequence[Any]) -> list[Reply]:
        """Answer a batch of loaded questions, in order."""
        ...


@dataclass(frozen=True)
class Generation:
    """Outcome of a run. answers: this shard's, in question order. asked: how many were new. tokens_per_image:
    measured mean, None without images."""

    answers: list[Answer]
    asked: int
    tokens_per_image: float | None


def generate(
    answerer: Answerer,
    asked: QuestionSet,
    answers_file: str | Path,
    *,
    batch_size: int = 1,
    shard: Shard = Shard(),  # noqa: B008 - frozen
    num_workers: int = 0,
    also_done: Sequence[Path] = (),
    made_from: Mapping[str, str] | None = None,
    title: str = "",
    file_flag: str = "",
) -> Generation:
    """Answer this shard of the questions into `answers_file`, going on where a former run stopped; says where that is.

    Args:
        also_done: further answer files whose ids need not be asked again (other ranks' parts).
        made_from: hashes, by name, of what answers depend on beside the settings: weights, pictures.
        title: what the progress bar says; no bar without it or without a terminal.
        file_flag: the flag that names another answer file, for the messages.

    Raises:
        ValueError: a missing or corrupt image (file and id are named), or an answer file that other settings, other
            inputs or another question text made.
        KeyboardInterrupt: stopped; how far it came is told.
    """
    if batch_size < 1:
        raise ValueError(f"expected a batch size of at least 1, got {batch_size}")
    questions = shard.take(asked.questions)
    target = Path(answers_file)
    elsewhere = f", or answer into another file ({file_flag})" if file_flag else ""
    _check_settings(answerer, target, also_done, made_from or {}, elsewhere)
    done = _collect_done(questions, [target, *also_done], target, elsewhere)
    todo = [question for question in questions if question.key not in done]
    target.parent.mkdir(parents=True, exist_ok=True)
    loader = _loader(answerer, QuestionSet(tuple(todo), asked.pictures), batch_size, num_workers)
    if done and todo:
        logger.info("going on at %d of %d", len(done) + 1, len(questions))
    elif done:
        logger.info("%d of %d answered already", len(done), len(questions))
    try:
        with target.open("a", encoding="utf-8") as stream, progress(title, len(questions), len(done)) as advance:
            for batch in _batches(todo, batch_size):
                answers = _ask(answerer, batch, next(loader))
                stream.write("".join(dump_line(answer.to_row()) for answer in answers))
                stream.flush()
                done.update(zip((question.key for question in batch), answers, strict=True))
                advance(len(answers))
    except KeyboardInterrupt:
        logger.warning("stopped at %d of %d; the same command goes on", len(done), len(questions))
        raise
    ordered = [done[question.key] for question in questions]
    return Generation(ordered, len(todo), mean_tokens(ordered))


def generate_part(
    answerer: Answerer,
    asked: QuestionSet,
    answers_file: str | Path,
    *,
    shard: Shard,
    **options: Any,
) -> Generation | None:
    """`generate` as one rank of many: writes a part file, and the rank that finishes last merges all parts by id.

    Returns:
        The whole file's outcome on the rank that merged, else None.
    """
    target = Path(answers_file)
    _forget_former_claim(target)
    others = [target, *part_files(target)]
    mine = generate(answerer, asked, shard.part_file(target), shard=shard, also_done=others, **options)
    questions = asked.questions
    parts = [list(key_answers(questions, recover_answers(path))) for path in (target, *part_files(target))]
    wanted = {question.key for question in questions}
    if wanted - {key for part in parts for key, _ in part} or not _claim(target):
        return None
    try:
        merged = merge_answers(questions, [[answer for key, answer in part if key in wanted] for part in parts])
        write_text(settings_file(target), settings_file(shard.part_file(target)).read_text(encoding="utf-8"))
        write_lines(target, [answer.to_row() for answer in merged])
    except BaseException:
        _claim_file(target).unlink(missing_ok=True)
        raise
    return Generation(merged, mine.asked, mean_tokens(merged))


def generate_here(
    answerer: Answerer,
    asked: QuestionSet,
    answers_file: str | Path,
    *,
    shard: Shard = Shard(),  # noqa: B008 - frozen
    **options: Any,
) -> Generation | None:
    """This process's part: as one rank of accelerate or torchrun, else the chunk it was given.

    Returns:
        None where another rank merges.
    """
    launched = launched_shard()
    if launched is not None:
        if shard.count > 1:
            raise ValueError(
                f"--num-chunks {shard.count} under a launcher of {launched.count} ranks: use one of the two"
            )
        return generate_part(answerer, asked, answers_file, shard=launched, **options)
    parts = part_files(Path(answers_file)) if shard.count == 1 else []
    return generate(answerer, asked, answers_file, shard=shard, also_done=parts, **options)


def _claim(target: Path) -> bool:
    """Whether this rank merges and scores. Several may find everything answered; the first of a launch takes it, and
    its claim stays: a rank that comes after the merging must not score again."""
    try:
        os.close(os.open(_claim_file(target), os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def _forget_former_claim(target: Path) -> None:
    """Take away the claim of a former launch. It is known by its age: a launcher's ids come again (containers), and
    two nodes of one launch may have different ones."""
    claim = _claim_file(target)
    with suppress(FileNotFoundError):
        if claim.stat().st_mtime < process_start():
            claim.unlink()


def _claim_file(target: Path) -> Path:
    return target.with_name(f".{target.name}.claim")


def mean_tokens(answers: Iterable[Answer]) -> float | None:
    """Mean number of visual tokens over the answers that had an image; None if none had."""
    counts = [answer.metadata[VISUAL_TOKENS] for answer in answers if VISUAL_TOKENS in answer.metadata]
    return sum(counts) / len(counts) if counts else None


def settings_file(answers_file: Path) -> Path:
    """Where the settings that made an answer file are kept."""
    return answers_file.with_name(f"{answers_file.name}.settings.json")


class _Loading(Dataset[Any]):
    """Questions with their images decoded by the answerer."""

    def __init__(self, answerer: Answerer, asked: QuestionSet) -> None:
        self.answerer, self.asked = answerer, asked

    def __len__(self) -> int:
        return len(self.asked.questions)

    def __getitem__(self, index: int) -> Any:
        question = self.asked.questions[index]
        try:
            image = None if question.image is None else self.asked.pictures.open(question.image)
            return self.answerer.load(question, image)
        except (ValueError, OSError) as error:
            raise ValueError(f"question_id {question.question_id!r}, image {question.image}: {error}") from error


def _loader(answerer: Answerer, todo: QuestionSet, batch_size: int, num_workers: int) -> Iterator[list[Any]]:
    if not todo.questions:
        return iter(())
    dataset = _Loading(answerer, todo)
    # Workers run ahead: while a batch is answered they make the next ones, and a thread moves them to pinned memory.
    pinned = num_workers > 0 and torch.cuda.is_available()
    loader = DataLoader(dataset, batch_size=batch_size, num_workers=num_workers, collate_fn=list, pin_memory=pinned)
    return iter(loader)


def _batches(items: Sequence[Question], size: int) -> Iterator[Sequence[Question]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _ask(answerer: Answerer, batch: Sequence[Question], loaded: Sequence[Any]) -> list[Answer]:
    replies = answerer.reply(loaded)
    return [
        Answer(
            question_id=question.question_id,
            prompt=question.text,
            text=reply.text,
            model_id=answerer.model_id,
            metadata=_metadata(question, reply),
        )
        for question, reply in zip(batch, replies, strict=True)
    ]


def _metadata(question: Question, reply: Reply) -> dict[str, Any]:
    tokens = {} if question.image is None else {VISUAL_TOKENS: reply.visual_tokens}
    return tokens if question.copy is None else {**tokens, COPY: question.copy}


def _collect_done(questions: Sequence[Question], files: Sequence[Path], own: Path, elsewhere: str) -> dict[str, Answer]:
    """Answers to these questions that exist already; only the own file is repaired (another rank may be writing the
    others).

    Raises:
        ValueError: an answer to another text than the question file holds now.
    """
    texts = {question.key: question.text for question in questions}
    done: dict[str, Answer] = {}
    for file in dict.fromkeys(files):
        for key, answer in key_answers(questions, recover_answers(file, repair=file == own)):
            if key not in texts:
                continue
            if answer.prompt != texts[key]:
                raise ValueError(
                    f"{file}: question_id {answer.question_id!r} was answered for the prompt {answer.prompt!r}, the "
                    f"question file now says {texts[key]!r}; delete the answer file{elsewhere}"
                )
            done.setdefault(key, answer)
    return done


def _check_settings(
    answerer: Answerer, answers_file: Path, also_done: Sequence[Path], made_from: Mapping[str, str], elsewhere: str
) -> None:
    """An answer file is only continued under the settings and from the inputs that began it; for a new file they are
    noted down.

    Raises:
        ValueError: naming the files that others began, what differs in the first, or that it is not ours.
    """
    mine = json.loads(json.dumps({"model_id": answerer.model_id, **answerer.settings, MADE_FROM: dict(made_from)}))
    others: dict[Path, str] = {}
    for file in (answers_file, *also_done):
        record = settings_file(file)
        if not file.exists() or file.stat().st_size == 0:
            continue
        if not record.exists():
            raise ValueError(
                f"{file} holds answers but {record.name} is missing, so it is unknown what made them; "
                f"delete it{elsewhere}"
            )
        differing = _differing(json.loads(record.read_text(encoding="utf-8")), mine)
        if differing:
            others[file] = differing
    if others:
        file, told = next(iter(others.items()))
        names = ", ".join(other.name for other in others)
        raise ValueError(f"{file} was begun with other {told}; to ask anew delete {names}{elsewhere}")
    write_text(settings_file(answers_file), json.dumps(mine, indent=2, ensure_ascii=False) + "\n")


def _differing(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> str:
    """What differs between the settings of a former run and ours, in words; "" where nothing does."""
    settings = sorted(
        key for key in mine.keys() | theirs.keys() if key != MADE_FROM and mine.get(key) != theirs.get(key)
    )
    if settings:
        shown = "; ".join(f"{key}: {theirs.get(key)!r} then, {mine.get(key)!r} now" for key in settings)
        return f"settings ({shown})"
    then, now = theirs.get(MADE_FROM, {}), mine[MADE_FROM]
    inputs = [name for name in dict.fromkeys((*now, *then)) if then.get(name) != now.get(name)]
    return f"inputs than are there now ({', '.join(inputs)})" if inputs else ""


@contextmanager
def progress(title: str, total: int, done: int) -> Iterator[Callable[[int], None]]:
    """A bar on the terminal's error stream, or nothing; `with progress(...) as advance: advance(3)`."""
    if not title or not sys.stderr.isatty():
        yield lambda count: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total, completed=done)
        yield lambda count: bar.advance(task, count)
