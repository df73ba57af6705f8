"""lmms-eval's output folder as plain results: one per task, with its headline, items and visual tokens.

    for result in read_lmms_results("runs/lmms"):
        print(result.task, result.metric, result.score, result.tokens_per_image)

Read are `*_results.json` and the `*_samples_<task>.jsonl` beside it (written with --log_samples). Every headline is
made again from the samples and must come out as lmms-eval printed it; what cannot be read so is refused.
lmms-eval 0.7.3 notes neither its own version there (`lmms_eval_version` is the commit of whatever git repository lies
around its installed files) nor an identity of the data (`task_hashes` are the same for all tasks).
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llava.eval.records import read_jsonl
from llava.eval.tasks.base import Ratio, mean_ratio

RESULTS = f"{'[0-9]' * 8}_{'[0-9]' * 6}_results.json"  # other files of this ending are submissions
Sample = Mapping[str, Any]
Scores = dict[str, float]


@dataclass(frozen=True)
class LmmsResult:
    """One task of one lmms-eval run.

    task: the name it ran under. dataset: of the hub, with its split. metric: name of the headline. score: the headline
    in percent (MME, OCRBench: points). n: documents scored. items: document id -> score in 0..1 (MMBench: a question
    under the first of its rotations). ratios: what adds up to the score and the bootstrap draws again. Both are empty
    where the samples do not tell (MMBench answers that are more than a letter). said: item -> the model's words (of
    MMBench's rotations one below the other). asked: item -> (prompt, reference). pictures: item -> what its pictures
    are known by, empty where the model did not say. metrics: every number lmms-eval gave, as it gave it. version: of
    the task, mostly "Yaml". limit: None for all documents. tokens_per_image: mean visual tokens over all pictures
    sent, None where the model did not say.
    """

    task: str
    dataset: str
    metric: str
    score: float
    n: int
    items: Mapping[str, float]
    ratios: tuple[Ratio, ...]
    metrics: Mapping[str, float]
    version: str
    model: str
    model_args: Mapping[str, str]
    limit: float | None
    tokens_per_image: float | None
    date: str
    source: Path
    said: Mapping[str, str] = field(default_factory=dict)
    asked: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    pictures: Mapping[str, str] = field(default_factory=dict)


def _words(samples: Sequence[Sample]) -> dict[str, str]:
    """Document -> what the model said: the words before lmms-eval's filters, which are logged where they differ."""
    return {str(sample["doc_id"]): _text(sample.get("resps", sample.get("filtered_resps", ""))) for sample in samples}


def _text(said: Any) -> str:
    """lmms-eval wraps an answer in lists, and gives one for each choice of a task by likelihood."""
    if isinstance(said, list) and len(said) == 1:
        return _text(said[0])
    return said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)


@dataclass(frozen=True)
class Headline:
    """How a family of tasks is read. names: lmms-eval's metrics that are added up; scale: from their sum to `score`.

    items: samples -> score of each document, None where samples do not tell. ratios: samples, items -> parts of the
    headline. words: samples -> the answer to each document.
    """

    metric: str
    names: tuple[str, ...]
    scale: float
    items: Callable[[Sequence[Sample]], Scores | None]
    ratios: Callable[[Sequence[Sample], Scores], tuple[Ratio, ...]]
    words: Callable[[Sequence[Sample]], dict[str, str]] = _words


def read_lmms_results(path: str | Path) -> list[LmmsResult]:
    """Every task of every run below a folder (or of one results file), sorted by file and task; groups are left out.

    Raises:
        ValueError: no results there, samples missing, a task without a known headline, or samples that do not give the
            score lmms-eval printed. File and task are named.
    """
    place = Path(path)
    files = [place] if place.is_file() else sorted(place.rglob(RESULTS))
    if not files:
        raise ValueError(f"{place}: no *_results.json; lmms-eval writes one with --output_path")
    return [result for file in files for result in _read_file(file)]


def _read_file(file: Path) -> list[LmmsResult]:
    try:
        run = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}: not JSON ({error}); run the task again") from error
    missing = [key for key in ("results", "configs", "versions", "config", "n-samples", "date") if key not in run]
    if missing:
        raise ValueError(f"{file}: no results file of lmms-eval as known here: {', '.join(missing)} missing")
    return [_read_task(file, run, task) for task in sorted(run["configs"])]


def _read_task(file: Path, run: Mapping[str, Any], task: str) -> LmmsResult:
    where = f"{file}, task {task}"
    metrics = {
        key.split(",")[0]: float(value)
        for key, value in run["results"][task].items()
        if isinstance(value, int | float) and "_stderr" not in key and "," in key
    }
    headline = _headline(where, metrics)
    samples = _read_samples(file, task)
    effective = run["n-samples"][task]["effective"]
    if len(samples) != effective:
        raise ValueError(f"{where}: {len(samples)} samples for {effective} documents; the run was not finished")
    try:
        items = headline.items(samples)
        ratios = () if items is None else headline.ratios(samples, items)
        said = headline.words(samples)
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{where}: a sample is not laid out as known here: {error!r}") from error
    printed = headline.scale * sum(metrics[name] for name in headline.names if name in metrics)
    score = printed if items is None else sum(ratio.value for ratio in ratios)
    if abs(score - printed) > 2e-3:  # MMMU is printed to five digits
        raise ValueError(f"{where}: the samples give {headline.metric} {score:.4f}, lmms-eval printed {printed:.4f}")
    config, settings = run["config"], run["configs"][task]
    split = settings.get("test_split") or settings.get("validation_split")
    return LmmsResult(
        task=task,
        dataset=" ".join(str(part) for part in (settings["dataset_path"], settings.get("dataset_name"), split) if part),
        metric=headline.metric,
        score=score,
        n=len(samples),
        items=items or {},
        ratios=ratios,
        metrics=metrics,
        version=str(run["versions"][task]),
        model=config["model"],
        model_args=_model_args(config["model_args"]),
        limit=config["limit"],
        tokens_per_image=_tokens_per_image(samples),
        date=run["date"],
        source=file,
        said=said,
        asked={
            str(sample["doc_id"]): (str(sample.get("input", "")), str(sample.get("target", ""))) for sample in samples
        },
        pictures=_pictures(samples),
    )


def _headline(where: str, metrics: Mapping[str, float]) -> Headline:
    for headline in HEADLINES:
        if any(name in metrics for name in headline.names):
            return headline
    known = ", ".join(name for headline in HEADLINES for name in headline.names)
    raise ValueError(f"{where}: none of its metrics ({', '.join(metrics)}) is a headline known here ({known})")


def _read_samples(file: Path, task: str) -> list[Sample]:
    """Samples in the order of the documents: with several processes they lie process by process."""
    path = file.with_name(file.name.removesuffix("_results.json") + f"_samples_{task}.jsonl")
    if not path.is_file():
        raise ValueError(f"{path} is missing; run lmms-eval with --log_samples")
    samples = read_jsonl(path)
    ids = [sample["doc_id"] for sample in samples]
    if len(set(ids)) != len(ids):
        raise ValueError(f"{path}: document {max(ids, key=ids.count)} twice; two runs wrote in the same second")
    return sorted(samples, key=lambda sample: int(sample["doc_id"]))


def _model_args(given: str | Mapping[str, Any]) -> dict[str, str]:
    if isinstance(given, Mapping):
        return {str(key): str(value) for key, value in given.items()}
    return dict(pair.split("=", 1) for pair in given.split(",") if pair)


def _tokens_per_image(samples: Sequence[Sample]) -> float | None:
    """Of the samples whose counts name visual tokens, as llava_visionzip's do."""
    counts = [count for sample in samples for count in sample.get("token_counts") or () if count]
    images = sum(count.get("images", 0) for count in counts)
    return sum(count["visual_tokens"] for count in counts if "visual_tokens" in count) / images if images else None


def _pictures(samples: Sequence[Sample]) -> dict[str, str]:
    """Of the documents whose counts name their pictures, as llava_visionzip's do."""
    return {
        str(sample["doc_id"]): count["pictures"]
        for sample in samples
        for count in sample.get("token_counts") or ()
        if count and count.get("pictures")
    }


def _of(*names: str) -> Callable[[Sequence[Sample]], Scores]:
    """Items whose score stands under one of these metrics, as a number or as the `score` of a mapping."""

    def items(samples: Sequence[Sample]) -> Scores:
        found = {}
        for sample in samples:
            value = next(sample[name] for name in names if name in sample)
            found[str(sample["doc_id"])] = float(value["score"] if isinstance(value, Mapping) else value)
        return found

    return items


def _seed_items(samples: Sequence[Sample]) -> Scores:
    """A document counts where its letter is right. All documents: `seed_all`."""
    return {
        str(sample["doc_id"]): float(_bare(sample["seed_all"]["pred"]) == _bare(sample["seed_all"]["answer"]))
        for sample in samples
    }


def _mmmu_items(samples: Sequence[Sample]) -> Scores:
    """Choices by their letter; open answers by MMMU's rule on what was parsed from the answer."""
    found = {}
    for sample in samples:
        judged = sample["mmmu_acc"]
        right = _open_right if judged["question_type"] == "open" else lambda gold, said: gold == said
        found[str(sample["doc_id"])] = float(any(right(judged["answer"], said) for said in judged["parsed_pred"]))
    return found


def _open_right(gold: str | Sequence[str], said: Iterable[str | float]) -> bool:
    """A number is right if it equals a gold number to two digits, a text if a gold text is in it."""
    numbers, texts = set(), []
    for answer in [gold] if isinstance(gold, str) else gold:
        text = answer.strip()
        try:
            numbers.add(round(float(text.replace(",", "")), 2))
        except ValueError:
            lowered = text.lower()
            texts += [f" {lowered}", f"{lowered} "] if len(lowered) == 1 else [lowered]
    return any(any(text in one for text in texts) if isinstance(one, str) else one in numbers for one in said)


def _mmbench_items(samples: Sequence[Sample]) -> Scores | None:
    """A question is right if all its rotations are. None where an answer is more than a letter: lmms-eval finds options
    in such answers by rules, or asks a judge, and neither is repeated here."""
    found: Scores = {}
    for document, turns in _rotations(samples).items():
        said = [turn["prediction"].strip().rstrip(".") for turn in turns]
        if any(len(letter) != 1 or letter not in "ABCDE" for letter in said):
            return None
        found[document] = float(all(letter == turn["answer"] for letter, turn in zip(said, turns, strict=True)))
    return found


def _mmbench_words(samples: Sequence[Sample]) -> dict[str, str]:
    """The answers to all rotations of a question, each with the letter that was right."""
    return {
        document: "\n".join(f"{turn['prediction']} (right: {turn['answer']})" for turn in turns)
        for document, turns in _rotations(samples).items()
    }


def _rotations(samples: Sequence[Sample]) -> dict[str, list[Mapping[str, Any]]]:
    """First document of each MMBench question -> what lmms-eval notes of all its rotations."""
    found: dict[int, list[Mapping[str, Any]]] = {}
    documents: dict[int, str] = {}
    for sample in samples:
        judged = sample["gpt_eval_score"]
        question = int(judged["index"]) % 1_000_000
        documents.setdefault(question, str(sample["doc_id"]))
        found.setdefault(question, []).append(judged)
    return {documents[question]: turns for question, turns in found.items()}


def _mean(_: Sequence[Sample], items: Scores) -> tuple[Ratio, ...]:
    return (mean_ratio(tuple(items), tuple(items.values())),)


def _points(_: Sequence[Sample], items: Scores) -> tuple[Ratio, ...]:
    """Right answers, OCRBench's unit (1000 questions: 1000 points)."""
    return (Ratio(float(len(items)), tuple(items), tuple(items.values()), (1.0,) * len(items)),)


def _f1(samples: Sequence[Sample], items: Scores) -> tuple[Ratio, ...]:
    """F1 of "yes" = 2TP / (2TP + FP + FN); an answer that is neither yes nor no is in no cell, as in lmms-eval."""
    above, below = [], []
    for sample in samples:
        judged = sample["pope_f1_score"]
        said, gold = judged["prediction"], judged["ground_truth"]
        above.append(2.0 * (said == gold == "yes"))
        below.append(above[-1] + ((said, gold) in {("yes", "no"), ("no", "yes")}))
    return (Ratio(100.0, tuple(items), tuple(above), tuple(below)),)


def _mme_ratios(samples: Sequence[Sample], items: Scores) -> tuple[Ratio, ...]:
    """acc + acc+ of each category; the second question of a picture carries acc+."""
    pairs: dict[str, dict[str, list[str]]] = {}
    for sample in samples:
        judged = next(sample[name] for name in MME_NAMES if name in sample)
        pairs.setdefault(judged["category"], {}).setdefault(judged["question_id"], []).append(str(sample["doc_id"]))
    ratios = []
    for pictures in pairs.values():
        keys, above, below = [], [], []
        for first, second in pictures.values():
            keys += [first, second]
            above += [items[first] / 2, items[second] / 2 + float(items[first] + items[second] == 2)]
            below += [0.5, 0.5]
        ratios.append(Ratio(100.0, tuple(keys), tuple(above), tuple(below)))
    return tuple(ratios)


def _bare(letter: str) -> str:
    return letter.strip().lower()


MME_NAMES = ("mme_perception_score", "mme_cognition_score")
# The first entry of which a task has a metric is its headline.
HEADLINES = (
    Headline("F1", ("pope_f1_score",), 100.0, _of("pope_f1_score"), _f1),
    Headline("perception + cognition", MME_NAMES, 1.0, _of(*MME_NAMES), _mme_ratios),
    Headline("accuracy of all rotations", ("gpt_eval_score",), 1.0, _mmbench_items, _mean, _mmbench_words),
    Headline("accuracy, images and videos", ("seed_all",), 100.0, _seed_items, _mean),
    Headline("accuracy", ("mmmu_acc",), 100.0, _mmmu_items, _mean),
    Headline("points", ("ocrbench_accuracy",), 1000.0, _of("ocrbench_accuracy"), _points),
    Headline("ANLS", ("anls",), 100.0, _of("anls"), _mean),
    Headline("relaxed accuracy", ("relaxed_overall",), 100.0, _of("relaxed_overall"), _mean),
    Headline("accuracy", ("exact_match",), 100.0, _of("exact_match"), _mean),
    Headline("accuracy by likelihood", ("acc",), 100.0, _of("acc"), _mean),
)
