"""Answer one of MMBench's tables: LLaVA's command and flags.

    python -m llava.eval.model_vqa_mmbench --model-path liuhaotian/llava-v1.5-7b --single-pred-prompt \
        --question-file playground/data/eval/mmbench/mmbench_dev_20230712.tsv --answers-file answers.jsonl

Answer lines also carry what the public program's do: round_id, options, option_char. The recorded prompt is the whole
one; the public program leaves out the suffix.
"""

from typing import Annotated

import typer

from llava.eval.answer_command import AnswerOptions, QuestionFile, SinglePredPrompt, answer, answer_command
from llava.eval.question_set import QuestionSet
from llava.eval.records import key_answers, write_lines
from llava.eval.tasks.mmbench_table import read_asked


@answer_command(max_new_tokens=1024)
def main(
    options: AnswerOptions,
    question_file: QuestionFile,
    single_pred_prompt: SinglePredPrompt = False,
    all_rounds: Annotated[bool, typer.Option("--all-rounds", help="Ask again for each turn of the options.")] = False,
    lang: Annotated[str, typer.Option("--lang", help="Language of the suffix: en or cn.")] = "en",
) -> None:
    """Answer MMBench or MMBench-CN and write LLaVA's answer lines.

    Example: python -m llava.eval.model_vqa_mmbench --model-path liuhaotian/llava-v1.5-7b --single-pred-prompt
    --question-file playground/data/eval/mmbench/mmbench_dev_20230712.tsv --answers-file
    playground/data/eval/mmbench/answers/mmbench_dev_20230712/llava-v1.5-7b.jsonl
    """
    rows, pictures = read_asked(question_file, lang, single_pred_prompt, all_rounds)
    questions = tuple(row.question for row in rows)
    outcome = answer(QuestionSet(questions, pictures), options)
    if outcome is None:
        return
    asked = {row.question.key: row for row in rows}
    lines = [
        {
            **given.to_row(),
            "round_id": asked[key].round_id,
            "options": list(asked[key].options),
            "option_char": list(asked[key].letters),
        }
        for key, given in key_answers(questions, outcome.answers)
    ]
    write_lines(options.answers_file, lines)


if __name__ == "__main__":
    typer.run(main)
