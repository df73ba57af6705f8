"""Score ScienceQA answers: LLaVA's command and flags.

    python -m llava.eval.eval_science_qa --base-dir playground/data/eval/scienceqa \
        --result-file playground/data/eval/scienceqa/answers/llava-v1.5-7b.jsonl \
        --output-file output.jsonl --output-result result.json

A question is one with a picture if its stored prompt holds <image>, and one without an answer has failed, as in the
public program; how many these are is said.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import Annotated, Any

import typer

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.eval.records import Answer, Question, read_answers
from llava.eval.score_output import Out, ResultFile, usage_errors, write_score
from llava.eval.tasks.base import OFFICIAL, Reference, TaskScore
from llava.eval.tasks.files import write_json_file
from llava.eval.tasks.sqa import READERS, labels_of, score

FAILED = "FAILED"


@usage_errors
def main(
    base_dir: Annotated[Path, typer.Option("--base-dir", help="Folder of problems.json and pid_splits.json.")],
    result_file: ResultFile,
    output_file: Annotated[Path, typer.Option("--output-file", help="Each answer as it was read.")],
    output_result: Annotated[Path, typer.Option("--output-result", help="Figures and chosen options, as JSON.")],
    split: Annotated[str, typer.Option("--split")] = "test",
    out: Out = None,
) -> None:
    """Print ScienceQA's accuracy, over all and over questions with a picture.

    Example: python -m llava.eval.eval_science_qa --base-dir playground/data/eval/scienceqa --result-file
    playground/data/eval/scienceqa/answers/llava-v1.5-7b.jsonl --output-file runs/sqa_output.jsonl --output-result
    runs/sqa_result.json
    """
    problems, splits = base_dir / "problems.json", base_dir / "pid_splits.json"
    labels, answers = labels_of(problems, splits, split), read_answers(result_file)
    answers += _unanswered(labels, answers)
    seen = {str(answer.question_id) for answer in answers if DEFAULT_IMAGE_TOKEN in answer.prompt}
    questions = [Question(key, "", "image.png" if key in seen else None) for key in labels]
    result = score(questions, labels, answers)
    total, right = result.n, round(sum(result.items.values()))
    typer.echo(
        f"Total: {total}, Correct: {right}, Accuracy: {result.extra['total']:.2f}%, "
        f"IMG-Accuracy: {result.extra['img']:.2f}%"
    )
    typer.echo(f"Failed: {round(result.extra['unreadable'] * total / 100)} (no letter found; counted as wrong)")
    write_json_file(output_file, _by_outcome(labels, answers), indent=2)
    write_json_file(output_result, _summary(labels, answers, result), indent=2)
    write_score(out, result, [problems, splits, result_file])


def _unanswered(labels: Mapping[str, Reference], answers: Sequence[Answer]) -> list[Answer]:
    """What the public program puts in the place of missing answers: the word FAILED, to a prompt without a picture."""
    answered = {str(answer.question_id) for answer in answers}
    missing = [key for key in labels if key not in answered]
    if missing:
        typer.echo(
            f"{len(missing)} of {len(labels)} questions have no answer and count as failed ones without a picture, as "
            f"in the public program; first {', '.join(missing[:5])}",
            err=True,
        )
    return [Answer(key, "Unknown", FAILED, "") for key in missing]


def _by_outcome(labels: Mapping[str, Reference], answers: Sequence[Answer]) -> dict[str, list[dict[str, Any]]]:
    """Right and wrong answers with what was read out of them."""
    sorted_out: dict[str, list[dict[str, Any]]] = {"correct": [], "incorrect": []}
    for answer in answers:
        letter, truth = READERS[OFFICIAL](answer.text), labels[str(answer.question_id)]["answer"]
        sorted_out["correct" if letter == truth else "incorrect"].append({
            "question_id": answer.question_id,
            "parsed_ans": letter or FAILED,
            "ground_truth": truth,
            "question": answer.prompt,
            "pred": answer.text,
            "is_multimodal": DEFAULT_IMAGE_TOKEN in answer.prompt,
        })
    return sorted_out


def _summary(labels: Mapping[str, Reference], answers: Sequence[Answer], result: TaskScore) -> dict[str, Any]:
    """The public program's result file. results: place of the chosen option by question id, -1 without one or where the
    letter is no choice."""
    letters = {str(answer.question_id): READERS[OFFICIAL](answer.text) for answer in answers}
    places = {key: -1 if letter is None else ascii_uppercase.index(letter) for key, letter in letters.items()}
    return {
        "acc": result.extra["total"],
        "correct": round(sum(result.items.values())),
        "count": result.n,
        "results": {key: places[key] if places[key] < label["choices"] else -1 for key, label in labels.items()},
        "outputs": {str(answer.question_id): answer.text for answer in answers},
    }


if __name__ == "__main__":
    typer.run(main)
