"""MME: two yes/no questions for each picture; acc counts questions, acc+ counts pictures with both right."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from llava.eval.question_set import QuestionSet
from llava.eval.records import Answer, Question, merge_answers
from llava.eval.tasks.base import (
    OFFICIAL,
    Benchmark,
    Item,
    Ratio,
    Reference,
    TaskScore,
    check_rule,
    join,
    mean_ratio,
    percent,
    require,
    summarise,
)
from llava.eval.tasks.files import EVAL_ZIP, index_labels, look_up
from llava.utils import write_text

PERCEPTION = "existence count position color posters celebrity scene landmark artwork OCR".split()
COGNITION = "commonsense_reasoning numerical_calculation text_translation code_reasoning".split()
QUESTIONS = "MME/llava_mme.jsonl"
RELEASE = "MME/MME_Benchmark_release_version"
OBTAIN = (
    f"the question file is in {EVAL_ZIP}; MME_Benchmark_release_version (pictures and labels) and eval_tool go to MME, "
    "see https://github.com/BradyFU/Awesome-Multimodal-Large-Language-Models/tree/Evaluation"
)
_PREFIX = 4  # letters of the answer the official reader looks at
_QUESTIONS = 2
_YES_OR_NO = "Please answer yes or no."  # the label files have it, LLaVA's question file has its own suffix instead


def parse(text: str) -> str:
    """The official reading: yes or no if either occurs in the first four letters (yes wins), else "other", which is
    wrong."""
    head = text.lower()[:_PREFIX]
    return "yes" if "yes" in head else "no" if "no" in head else "other"


def score(
    questions: Sequence[Question],
    references: Mapping[str, Reference],
    answers: Sequence[Answer],
    *,
    rule: str = OFFICIAL,
) -> TaskScore:
    """Headline: the sum over categories of acc + acc+ (200 a category at most), perception and cognition together.

    `extra`: `category_score`; `perception_score` and `cognition_score` where such categories were asked; `acc_plus`
    over all pictures. The two questions of a picture are found by category and picture, not by their place in the file.

    Raises:
        ValueError: ids that do not match, an unknown category, or a picture that has not exactly two questions in its
        category.
    """
    check_rule(rule, (OFFICIAL,), "mme")
    items = join(questions, references, answers)
    scores = [float(parse(item.text) == item.gold().strip().lower()) for item in items]
    pairs: dict[tuple[str, str], list[int]] = {}
    for place, item in enumerate(items):
        pairs.setdefault(_picture(item), []).append(place)
    _check_pairs(pairs)
    both = {picture: float(all(scores[place] for place in places)) for picture, places in pairs.items()}
    ratios: list[Ratio] = []
    category_score: dict[str, float] = {}
    for category in [*PERCEPTION, *COGNITION]:
        mine = [picture for picture in pairs if picture[0] == category]
        if mine:
            places = [place for picture in mine for place in pairs[picture]]
            acc = mean_ratio([items[place].key for place in places], [scores[place] for place in places])
            plus = mean_ratio([items[pairs[picture][0]].key for picture in mine], [both[picture] for picture in mine])
            ratios += [acc, plus]
            category_score[category] = acc.value + plus.value
    groups = (("perception_score", PERCEPTION), ("cognition_score", COGNITION))
    sums = {
        name: sum(category_score[category] for category in group if category in category_score)
        for name, group in groups
        if not category_score.keys().isdisjoint(group)
    }
    acc_plus = percent(list(both.values()))
    return summarise("mme", items, scores, rule, ratios, acc_plus=acc_plus, category_score=category_score, **sums)


def references(root: Path, questions: Sequence[Question]) -> dict[str, Reference]:
    """Label and the release's own wording of the question, by question key."""
    return references_of(root / RELEASE, questions)


def references_of(release: Path, questions: Sequence[Question]) -> dict[str, Reference]:
    """Labels from the text files beside the pictures, joined by category, picture and question.

    Raises:
        ValueError: no such folder, a malformed label file, or a question that is not in them.
    """
    folders = {_category(question) for question in questions}
    require(release, OBTAIN)
    labels = index_labels((label for name in sorted(folders) for label in _labels(release / name)), release)
    return look_up(questions, labels, lambda q: (_category(q), Path(q.image or "").stem, _bare(q.text)), release)


def submit(root: Path, asked: QuestionSet, answers: Sequence[Answer], target: Path) -> Path:
    """Write the folder the official eval_tool/calculation.py reads."""
    merged = merge_answers(asked.questions, [answers])
    return write_results(asked.questions, references(root, asked.questions), merged, target)


def write_results(
    questions: Sequence[Question], references: Mapping[str, Reference], answers: Sequence[Answer], folder: Path
) -> Path:
    """One text file a category, lines of picture, question, label and answer; a picture's two lines stand together,
    because the official scorer pairs lines by place.

    Args:
        answers: in the order of the questions.
    """
    lines: dict[str, dict[str, list[str]]] = {}
    for question, answer in zip(questions, answers, strict=True):
        reference, image = references[question.key], Path(question.image or "").name
        said = " ".join(answer.text.split())  # a tab or a new line would tear the file
        line = "\t".join((image, reference["question"], reference["answer"], said))
        lines.setdefault(_category(question), {}).setdefault(image, []).append(line)
    for category, pictures in lines.items():
        rows = [line for pair in pictures.values() for line in pair]
        write_text(folder / f"{category}.txt", "\n".join(rows) + "\n")
    return folder


def _labels(folder: Path) -> Iterator[tuple[tuple[str, str, str], Reference]]:
    """((category, picture's stem, question), label) of every line below a category's folder."""
    inner = folder / "questions_answers_YN"
    for file in sorted((inner if inner.is_dir() else folder).glob("*.txt")):
        for line in file.read_text(encoding="utf-8").splitlines():
            if not line.strip():
                continue
            question, _, label = line.rstrip().rpartition("\t")
            if label.lower() not in ("yes", "no") or not question:
                raise ValueError(f"{file}: expected lines of a question, a tab, and Yes or No; got {line!r}")
            yield (folder.name, file.stem, _bare(question)), {"answer": label, "question": question.strip()}


def _bare(text: str) -> str:
    """The question without suffixes and without the blanks in which the files differ."""
    return " ".join(text.split("\n", 1)[0].replace(_YES_OR_NO, "").split())


def _category(question: Question) -> str:
    """The category the question names, else the folder its picture lies in."""
    return question.category or (question.image or "").split("/", 1)[0]


def _picture(item: Item) -> tuple[str, str]:
    if item.question.image is None:
        raise ValueError(f"mme: question_id {item.key} has no image")
    category = _category(item.question)
    if category not in (*PERCEPTION, *COGNITION):
        known = ", ".join((*PERCEPTION, *COGNITION))
        raise ValueError(f"mme: question_id {item.key}: unknown category {category!r}; known: {known}")
    return category, item.question.image


def _check_pairs(pairs: Mapping[tuple[str, str], Sequence[int]]) -> None:
    odd = [picture for picture, places in pairs.items() if len(places) != _QUESTIONS]
    if odd:
        raise ValueError(
            f"mme: expected {_QUESTIONS} questions for each picture, got {len(pairs[odd[0]])} for image "
            f"{odd[0][1]!r} of category {odd[0][0]!r} ({len(odd)} such pictures; an odd limit cuts a pair)"
        )


BENCHMARK = Benchmark(
    name="mme",
    title="MME",
    metric="perception + cognition, points (2800 at most)",
    questions=QUESTIONS,
    images=RELEASE,
    annotations=(RELEASE,),
    obtain=OBTAIN,
    references=references,
    score=score,
    submit=submit,
    upload="MME/eval_tool/answers/{name}",
)
