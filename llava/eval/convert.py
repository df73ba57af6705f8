"""Answer lines into the files that servers and official scorers take: LLaVA's conversion scripts as one program.

python -m llava.eval.convert vqav2 --dir playground/data/eval/vqav2 --split llava_vqav2_mscoco_test-dev2015 --ckpt NAME
python -m llava.eval.convert gqa --src answers.jsonl --dst testdev_balanced_predictions.json
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from llava.eval.judge.mmvet import convert_answers
from llava.eval.records import read_answers, read_questions, write_lines
from llava.eval.score_output import AnnotationFile, Out, ResultFile, usage_errors, write_score
from llava.eval.tasks import gqa, mme, seed, vizwiz, vqav2
from llava.eval.tasks.files import questions_of, write_json_file
from llava.eval.tasks.mmbench_table import write_submission

UploadFile = Annotated[Path, typer.Option("--result-upload-file", help="The file to write.")]
Source = Annotated[Path, typer.Option("--src", help="LLaVA's answer lines.")]
Target = Annotated[Path, typer.Option("--dst", help="The file to write.")]

app = typer.Typer(help="Turn answer lines into what a server or an official scorer takes.", no_args_is_help=True)


@app.command("vqav2")
@usage_errors
def convert_vqav2(
    ckpt: Annotated[str, typer.Option("--ckpt", help="Name of the answers' folder.")],
    split: Annotated[str, typer.Option("--split", help="Name of the question file.")],
    folder: Annotated[Path, typer.Option("--dir", help="VQAv2's folder.")] = Path("playground/data/eval/vqav2"),
) -> None:
    """<dir>/answers/<split>/<ckpt>/merge.jsonl -> <dir>/answers_upload/<split>/<ckpt>.json for EvalAI.

    Example: python -m llava.eval.convert vqav2 --split llava_vqav2_mscoco_test-dev2015 --ckpt llava-v1.5-7b
    """
    answers = read_answers(folder / "answers" / split / ckpt / "merge.jsonl")
    everything = [question.question_id for question in read_questions(folder / Path(vqav2.ALL_QUESTIONS).name)]
    rows = vqav2.submission(everything, answers)
    written = write_json_file(folder / "answers_upload" / split / f"{ckpt}.json", rows)
    typer.echo(f"{written}: {len(rows)} questions, {len(answers)} answered, the others with an empty answer")


@app.command("gqa")
@usage_errors
def convert_gqa(src: Source, dst: Target) -> None:
    """Answers for GQA's official eval.py.

    Example: python -m llava.eval.convert gqa --src playground/data/eval/gqa/answers/llava_gqa_testdev_balanced/
    llava-v1.5-7b/merge.jsonl --dst playground/data/eval/gqa/data/testdev_balanced_predictions.json
    """
    rows = gqa.predictions(read_answers(src))
    typer.echo(f"{write_json_file(dst, rows)}: {len(rows)} answers")


@app.command("vizwiz")
@usage_errors
def convert_vizwiz(annotation_file: AnnotationFile, result_file: ResultFile, result_upload_file: UploadFile) -> None:
    """Answers for VizWiz's server; the annotation file is llava_test.jsonl, as in the public script.

    Example: python -m llava.eval.convert vizwiz --annotation-file playground/data/eval/vizwiz/llava_test.jsonl
    --result-file playground/data/eval/vizwiz/answers/llava-v1.5-7b.jsonl --result-upload-file
    playground/data/eval/vizwiz/answers_upload/llava-v1.5-7b.json
    """
    rows = vizwiz.submission(read_questions(annotation_file), read_answers(result_file))
    typer.echo(f"{write_json_file(result_upload_file, rows)}: {len(rows)} answers")


@app.command("mmbench")
@usage_errors
def convert_mmbench(
    annotation_file: AnnotationFile,
    result_dir: Annotated[Path, typer.Option("--result-dir", help="Folder of <experiment>.jsonl.")],
    upload_dir: Annotated[Path, typer.Option("--upload-dir", help="Folder of <experiment>.xlsx.")],
    experiment: Annotated[str, typer.Option("--experiment")],
) -> None:
    """Answers as the workbook MMBench's server takes.

    Example: python -m llava.eval.convert mmbench --annotation-file playground/data/eval/mmbench/
    mmbench_dev_20230712.tsv --result-dir playground/data/eval/mmbench/answers/mmbench_dev_20230712 --upload-dir
    playground/data/eval/mmbench/answers_upload/mmbench_dev_20230712 --experiment llava-v1.5-7b
    """
    answers = read_answers(result_dir / f"{experiment}.jsonl")
    typer.echo(
        f"{write_submission(annotation_file, answers, upload_dir / f'{experiment}.xlsx')}: {len(answers)} answers"
    )


@app.command("seed")
@usage_errors
def convert_seed(
    annotation_file: AnnotationFile, result_file: ResultFile, result_upload_file: UploadFile, out: Out = None
) -> None:
    """Print SEED-Bench's figures over the answered questions, and write what its leaderboard takes.

    Example: python -m llava.eval.convert seed --annotation-file playground/data/eval/seed_bench/SEED-Bench.json
    --result-file playground/data/eval/seed_bench/answers/llava-v1.5-7b.jsonl --result-upload-file
    playground/data/eval/seed_bench/answers_upload/llava-v1.5-7b.jsonl
    """
    labels, answers = seed.labels_of(annotation_file), read_answers(result_file)
    result = seed.score(questions_of(answers), labels, answers)
    for name, accuracy in result.extra["per_type"].items():
        typer.echo(f"{name}: {accuracy:.2f}%")
    typer.echo(f"Total accuracy: {result.headline:.2f}% ({result.n} of {len(labels)} questions answered)")
    for kind in ("image", "video"):
        if kind in result.extra:
            typer.echo(f"{kind.capitalize()} accuracy: {result.extra[kind]:.2f}%")
    write_lines(result_upload_file, seed.submission(answers))
    write_score(out, result, [annotation_file, result_file])


@app.command("mme")
@usage_errors
def convert_mme(
    experiment: Annotated[str, typer.Option("--experiment", help="Name of the answer file in <dir>/answers.")],
    folder: Annotated[Path, typer.Option("--dir", help="MME's folder.")] = Path(),
    out: Out = None,
) -> None:
    """<dir>/answers/<experiment>.jsonl -> <dir>/eval_tool/answers/<experiment>/, the input of MME's calculation.py; our
    own figures are printed.

    Example: python -m llava.eval.convert mme --dir playground/data/eval/MME --experiment llava-v1.5-7b
    """
    file = folder / "answers" / f"{experiment}.jsonl"
    answers = read_answers(file)
    questions = [replace(question, image=str(question.question_id)) for question in questions_of(answers)]
    questions = [replace(question, category=(question.image or "").split("/", 1)[0]) for question in questions]
    references = mme.references_of(folder / Path(mme.RELEASE).name, questions)
    written = mme.write_results(questions, references, answers, folder / "eval_tool" / "answers" / experiment)
    result = mme.score(questions, references, answers)
    for name, points in result.extra["category_score"].items():
        typer.echo(f"{name}: {points:.2f}")
    for group in ("perception", "cognition"):
        if f"{group}_score" in result.extra:
            typer.echo(f"{group} total: {result.extra[f'{group}_score']:.2f}")
    typer.echo(f"{written}: {len(answers)} answers, {result.headline:.2f} points")
    write_score(out, result, [file])


@app.command("mmvet")
@usage_errors
def convert_mmvet(src: Source, dst: Target) -> None:
    """Answers for MM-Vet's evaluator: {"v1_<id>": text}.

    Example: python -m llava.eval.convert mmvet --src playground/data/eval/mm-vet/answers/llava-v1.5-7b.jsonl --dst
    playground/data/eval/mm-vet/results/llava-v1.5-7b.json
    """
    converted = convert_answers(src)
    typer.echo(f"{write_json_file(dst, converted, indent=4)}: {len(converted)} answers")


if __name__ == "__main__":
    app()
