"""Answer ScienceQA's question file (a JSON list of conversations): LLaVA's command and flags.

    python -m llava.eval.model_vqa_science --model-path liuhaotian/llava-v1.5-7b --single-pred-prompt \
        --question-file playground/data/eval/scienceqa/llava_test_CQM-A.json \
        --image-folder playground/data/eval/scienceqa/images/test --answers-file answers.jsonl
"""

from typing import Annotated

import typer

from llava.eval.answer_command import (
    AnswerOptions,
    ImageFolder,
    QuestionFile,
    SinglePredPrompt,
    answer,
    answer_command,
)
from llava.eval.tasks.sqa import read_questions


@answer_command(max_new_tokens=1024)
def main(
    options: AnswerOptions,
    question_file: QuestionFile,
    image_folder: ImageFolder,
    single_pred_prompt: SinglePredPrompt = False,
    answer_prompter: Annotated[bool, typer.Option("--answer-prompter", help="Not supported.")] = False,
) -> None:
    """Answer ScienceQA and write LLaVA's answer lines; the prompt of a question with a picture holds <image>.

    Example: python -m llava.eval.model_vqa_science --model-path liuhaotian/llava-v1.5-7b --single-pred-prompt
    --question-file playground/data/eval/scienceqa/llava_test_CQM-A.json --image-folder
    playground/data/eval/scienceqa/images/test --answers-file playground/data/eval/scienceqa/answers/llava-v1.5-7b.jsonl
    """
    if answer_prompter:
        raise ValueError(
            "--answer-prompter, a second turn that asks for the letter after free reasoning, is not supported; use "
            "--single-pred-prompt, as LLaVA-1.5's script does"
        )
    answer(read_questions(question_file, image_folder, single_pred_prompt), options)


if __name__ == "__main__":
    typer.run(main)
