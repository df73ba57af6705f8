"""Score TextVQA answers: LLaVA's command and flags.

    python -m llava.eval.eval_textvqa --annotation-file playground/data/eval/textvqa/TextVQA_0.5.1_val.json \
        --result-file playground/data/eval/textvqa/answers/llava-v1.5-7b.jsonl
"""

from pathlib import Path
from typing import Annotated

import typer

from llava.eval.records import read_answers
from llava.eval.score_output import AnnotationFile, Out, usage_errors, write_score
from llava.eval.tasks.files import questions_of
from llava.eval.tasks.textvqa import references_of, score


@usage_errors
def main(
    annotation_file: AnnotationFile,
    result_file: Annotated[Path | None, typer.Option("--result-file", help="LLaVA's answer lines.")] = None,
    result_dir: Annotated[Path | None, typer.Option("--result-dir", help="Instead: a folder of *.jsonl.")] = None,
    out: Out = None,
) -> None:
    """Print TextVQA's accuracy over the answered questions, for one answer file or all of a folder.

    Example: python -m llava.eval.eval_textvqa --annotation-file playground/data/eval/textvqa/TextVQA_0.5.1_val.json
    --result-file playground/data/eval/textvqa/answers/llava-v1.5-7b.jsonl
    """
    if (result_file is None) == (result_dir is None):
        raise ValueError("expected either --result-file or --result-dir")
    if out is not None and result_file is None:
        raise ValueError("--out holds one result: give --result-file")
    files = [result_file] if result_file is not None else sorted(result_dir.glob("*.jsonl")) if result_dir else []
    if not files:
        raise ValueError(f"{result_dir}: expected answer files (*.jsonl), found none")
    for file in files:
        answers = read_answers(file)
        questions = questions_of(answers)
        result = score(questions, references_of(annotation_file, questions), answers)
        typer.echo(f"{file.stem}\nSamples: {result.n}\nAccuracy: {result.headline:.2f}%\n")
        write_score(out, result, [annotation_file, file])


if __name__ == "__main__":
    typer.run(main)
