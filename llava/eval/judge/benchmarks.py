"""The judged benchmarks among the others: their files, and a judge's result as a score."""

from collections.abc import Callable, Mapping
from pathlib import Path

from llava.eval.generate import Generation
from llava.eval.judge.client import Judge
from llava.eval.judge.judging import JudgeResult
from llava.eval.judge.llavabench import judge_llavabench
from llava.eval.judge.mmvet import judge_mmvet
from llava.eval.question_set import QuestionSet
from llava.eval.tasks import TASKS
from llava.eval.tasks.base import Benchmark, Ratio, TaskScore, mean_ratio, percent
from llava.eval.tasks.files import EVAL_ZIP

LLAVABENCH, MMVET = "llava-bench-in-the-wild", "mm-vet"


JUDGED: Mapping[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            name="llavabench",
            title="LLaVA-Bench",
            metric="judged score relative to GPT-4's answers",
            questions=f"{LLAVABENCH}/questions.jsonl",
            images=f"{LLAVABENCH}/images",
            annotations=tuple(f"{LLAVABENCH}/{name}" for name in ("context.jsonl", "answers_gpt4.jsonl", "rule.json")),
            obtain="get the dataset liuhaotian/llava-bench-in-the-wild of the Hugging Face hub, and rule.json from "
            "llava/eval/table of the public LLaVA repository",
            max_new_tokens=1024,
        ),
        Benchmark(
            name="mmvet",
            title="MM-Vet",
            metric="judged score, our prompt",
            questions=f"{MMVET}/llava-mm-vet.jsonl",
            images=f"{MMVET}/images",
            annotations=(f"{MMVET}/mm-vet.json",),
            obtain=f"the question file is in {EVAL_ZIP}; mm-vet.json and the pictures are in "
            "https://github.com/yuweihao/MM-Vet/releases/download/v1/mm-vet.zip",
            max_new_tokens=1024,
        ),
    )
}
BENCHMARKS: Mapping[str, Benchmark] = {**TASKS, **JUDGED}  # LLaVA's own, judged or not
JUDGES: Mapping[str, Callable[[Path, Path, Path, Judge], JudgeResult]] = {
    "llavabench": judge_llavabench,
    "mmvet": judge_mmvet,
}


def judged_scorer(
    benchmark: Benchmark, root: Path, answers_file: Path, out: Path, judge: Judge
) -> Callable[[QuestionSet, Generation], TaskScore]:
    """Scoring by a judge, as `llava.eval.measure` wants it. out: folder of reviews and kept judgements."""

    def scored(_asked: QuestionSet, _done: Generation) -> TaskScore:
        folder = root / Path(benchmark.questions).parts[0]
        return as_score(JUDGES[benchmark.name](folder, answers_file, out, judge))

    return scored


def as_score(result: JudgeResult) -> TaskScore:
    """A judge's result. Questions without a readable judgement are in neither `items` nor the ratios."""
    keys, scores = tuple(result.items), tuple(result.items.values())
    reference = result.extra.get("reference_items")
    ratio = (
        mean_ratio(keys, scores)
        if reference is None
        else Ratio(100.0, keys, scores, tuple(float(reference[key]) for key in keys))
    )
    extra = {name: value for name, value in result.extra.items() if name != "reference_items"}
    return TaskScore(result.task, percent(scores), result.n, extra, dict(result.items), (ratio,))
