"""Answer the open questions of LLaVA-Bench and MM-Vet: LLaVA's command and flags, answers of up to 1024 tokens.

    python -m llava.eval.model_vqa --model-path liuhaotian/llava-v1.5-7b --question-file questions.jsonl \
        --image-folder images --answers-file answers.jsonl --dominant 54 --contextual 10
"""

import typer

from llava.eval.answer_command import AnswerOptions, ImageFolder, QuestionFile, answer, answer_command
from llava.eval.question_set import read_question_set


@answer_command(max_new_tokens=1024)
def main(options: AnswerOptions, question_file: QuestionFile, image_folder: ImageFolder) -> None:
    """Answer every question of a file at length and write LLaVA's answer lines.

    Example: python -m llava.eval.model_vqa --model-path liuhaotian/llava-v1.5-7b --question-file
    playground/data/eval/mm-vet/llava-mm-vet.jsonl --image-folder playground/data/eval/mm-vet/images --answers-file
    playground/data/eval/mm-vet/answers/llava-v1.5-7b.jsonl
    """
    answer(read_question_set(question_file, image_folder), options)


if __name__ == "__main__":
    typer.run(main)
