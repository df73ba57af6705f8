"""ScienceQA: option letter by the published rules, or by the corrected ones (`fixed`)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.eval.question_set import Folder, QuestionSet
from llava.eval.records import Answer, Question, check_ids
from llava.eval.tasks.base import OFFICIAL, Benchmark, Reference, TaskScore, mean_ratio, percent, require, summarise
from llava.eval.tasks.choice import FIXED, letter_science, letter_science_fixed, score_letters
from llava.eval.tasks.files import EVAL_ZIP, by_id, field, look_up, read_json

QUESTIONS = "scienceqa/llava_test_CQM-A.json"
IMAGES = "scienceqa/images/test"
PROBLEMS = "scienceqa/problems.json"
SPLITS = "scienceqa/pid_splits.json"
LETTER_SUFFIX = "Answer with the option's letter from the given choices directly."
SPLIT = "test"
OBTAIN = (
    f"the question file is in {EVAL_ZIP}; problems.json, pid_splits.json and the pictures are in data/scienceqa of "
    "https://github.com/lupantech/ScienceQA"
)
READERS = {OFFICIAL: letter_science, FIXED: letter_science_fixed}


def score(
    questions: Sequence[Question],
    references: Mapping[str, Reference],
    answers: Sequence[Answer],
    *,
    rule: str = OFFICIAL,
) -> TaskScore:
    """Headline: accuracy over the questions with a picture (IMG). `accuracy` and `total`: over all; `img`, `text`: with
    and without picture; `n_img`.

    Raises:
        ValueError: ids that do not match, or no question with a picture.
    """
    found = score_letters("sqa", READERS, questions, references, answers, rule)
    pairs = list(zip(found.items, found.scores, strict=True))
    seen = [(item.key, value) for item, value in pairs if item.question.image is not None]
    blind = [value for item, value in pairs if item.question.image is None]
    if not seen:
        raise ValueError(f"sqa: the figure is accuracy over questions with a picture, and none of {len(pairs)} has one")
    keys, values = zip(*seen, strict=True)
    extra = {**found.extra, "total": percent(found.scores), "img": percent(values), "n_img": len(seen)}
    if blind:
        extra["text"] = percent(blind)
    return summarise("sqa", found.items, found.scores, rule, (mean_ratio(keys, values),), **extra)


def read(root: Path) -> QuestionSet:
    """The question file as the public script asks it, and its pictures."""
    return read_questions(require(root / QUESTIONS, OBTAIN), require(root / IMAGES, OBTAIN))


def read_questions(file: Path, images: Path, single_pred_prompt: bool = True) -> QuestionSet:
    """A ScienceQA question file: a JSON list of conversations, the question being the first turn.

    Args:
        single_pred_prompt: ask for the letter alone.

    Raises:
        ValueError: missing or malformed, or an id that comes twice.
    """
    suffix = f"\n{LETTER_SUFFIX}" if single_pred_prompt else ""
    questions = tuple(_question(file, row, suffix) for row in read_json(file, list, OBTAIN))
    if not questions:
        raise ValueError(f"{file}: expected at least one question, found none")
    ids = [question.key for question in questions]
    check_ids(ids, ids, f"questions in {file}")
    return QuestionSet(questions, Folder(images, OBTAIN))


def references(root: Path, questions: Sequence[Question]) -> dict[str, Reference]:
    """Letter by question id, of the test split."""
    labels = labels_of(root / PROBLEMS, root / SPLITS)
    return look_up(questions, labels, by_id, root / PROBLEMS)


def labels_of(problems: Path, splits: Path, split: str = SPLIT) -> dict[str, Reference]:
    """The letters of a split by question id, each with how many choices there were.

    Raises:
        ValueError: a file is missing or malformed, there is no such split, or it names an unknown problem.
    """
    rows, names = read_json(problems, dict, OBTAIN), read_json(splits, dict, OBTAIN)
    if split not in names:
        raise ValueError(f"{splits} has no split {split!r}; it has {', '.join(names)}")
    unknown = [str(key) for key in names[split] if str(key) not in rows]
    if unknown:
        raise ValueError(f"{problems} lacks {len(unknown)} problems of the split {split!r}, first {unknown[:5]}")
    return {str(key): _label(problems, rows[str(key)]) for key in names[split]}


def _question(file: Path, row: Any, suffix: str) -> Question:
    identity = field(file, row, "id", int | str)
    turns = field(file, row, "conversations", list)
    words = field(file, turns[0] if turns else {}, "value", str).replace(DEFAULT_IMAGE_TOKEN, "").strip() + suffix
    image = row.get("image")
    return Question(identity, f"{DEFAULT_IMAGE_TOKEN}\n{words}", str(image)) if image else Question(identity, words)


def _label(file: Path, row: Any) -> Reference:
    place, choices = field(file, row, "answer", int), field(file, row, "choices", list)
    if not 0 <= place < len(choices):
        raise ValueError(f"{file}: expected 'answer' to be the place of one of {len(choices)} choices, got {place}")
    return {"answer": ascii_uppercase[place], "choices": len(choices)}


BENCHMARK = Benchmark(
    name="sqa",
    title="SQA",
    metric="accuracy over questions with a picture (IMG)",
    questions=QUESTIONS,
    images=IMAGES,
    annotations=(PROBLEMS, SPLITS),
    obtain=OBTAIN,
    reader=read,
    references=references,
    score=score,
    max_new_tokens=1024,
)
