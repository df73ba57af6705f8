"""Score POPE answers: LLaVA's command and flags; labels are joined by picture and question, not by place.

    python -m llava.eval.eval_pope --annotation-dir playground/data/eval/pope/coco \
        --question-file playground/data/eval/pope/llava_pope_test.jsonl \
        --result-file playground/data/eval/pope/answers/llava-v1.5-7b.jsonl
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from llava.eval.records import read_answers, read_questions
from llava.eval.score_output import Out, ResultFile, usage_errors, write_score
from llava.eval.tasks.pope import CATEGORIES, references_of, score


@usage_errors
def main(
    annotation_dir: Annotated[Path, typer.Option("--annotation-dir", help="Folder of coco_pope_<category>.json.")],
    question_file: Annotated[Path, typer.Option("--question-file", help="llava_pope_test.jsonl.")],
    result_file: ResultFile,
    out: Out = None,
) -> None:
    """Print POPE's figures, per category and their mean.

    Example: python -m llava.eval.eval_pope --annotation-dir playground/data/eval/pope/coco --question-file
    playground/data/eval/pope/llava_pope_test.jsonl --result-file playground/data/eval/pope/answers/llava-v1.5-7b.jsonl
    """
    questions = read_questions(question_file)
    result = score(questions, references_of(annotation_dir, questions), read_answers(result_file))
    categories: dict[str, dict[str, Any]] = result.extra["categories"]
    for name in sorted(categories, key=lambda name: (CATEGORIES.index(name) if name in CATEGORIES else 9, name)):
        _print_category(name, categories[name])
    typer.echo(f"Average F1 score: {result.headline / 100:.4f}")
    typer.echo(f"Accuracy over all {result.n}: {result.accuracy / 100:.4f}")
    files = [annotation_dir / f"coco_pope_{name}.json" for name in categories]
    write_score(out, result, [question_file, result_file, *files])


def _print_category(name: str, figures: dict[str, Any]) -> None:
    counts = [figures[key] for key in ("TP", "FP", "TN", "FN")]
    typer.echo(f"Category: {name}, # samples: {sum(counts)}")
    typer.echo("TP\tFP\tTN\tFN")
    typer.echo("\t".join(map(str, counts)))
    shown = ("accuracy", "precision", "recall", "f1", "yes_ratio")
    for key, title in zip(shown, ("Accuracy", "Precision", "Recall", "F1 score", "Yes ratio"), strict=True):
        typer.echo(f"{title}: {figures[key] / 100:.4f}")
    typer.echo("====================================")


if __name__ == "__main__":
    typer.run(main)
