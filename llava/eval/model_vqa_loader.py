"""Answer a question file: LLaVA's command and flags, on the one generation loop.

    python -m llava.eval.model_vqa_loader --model-path liuhaotian/llava-v1.5-7b --question-file questions.jsonl \
        --image-folder images --answers-file answers.jsonl --dominant 54 --contextual 10

For VQAv2, GQA, VizWiz, TextVQA, POPE, MME and SEED. Started by `accelerate launch` or `torchrun`, every rank answers
its part and the last one merges by id. A run that was stopped goes on where it stopped when started again.
"""

import typer

from llava.eval.answer_command import AnswerOptions, ImageFolder, QuestionFile, answer, answer_command
from llava.eval.question_set import read_question_set


@answer_command(max_new_tokens=128)
def main(options: AnswerOptions, question_file: QuestionFile, image_folder: ImageFolder) -> None:
    """Answer every question of a file and write LLaVA's answer lines.

    Example: python -m llava.eval.model_vqa_loader --model-path liuhaotian/llava-v1.5-7b --question-file
    playground/data/eval/pope/llava_pope_test.jsonl --image-folder playground/data/eval/pope/val2014 --answers-file
    playground/data/eval/pope/answers/llava-v1.5-7b-64.jsonl --dominant 54 --contextual 10
    """
    answer(read_question_set(question_file, image_folder), options)


if __name__ == "__main__":
    typer.run(main)
