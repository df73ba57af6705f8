"""Judge answers to LLaVA-Bench: the public command and flags.

    python -m llava.eval.eval_gpt_review_bench --question questions.jsonl --context context.jsonl --rule rule.json \
        --answer-list answers_gpt4.jsonl answers/llava-v1.5-7b.jsonl --output reviews/llava-v1.5-7b.jsonl

The endpoint is OPENAI_BASE_URL, the key OPENAI_API_KEY. What was judged is kept in cache/judgements.jsonl beside the
output: a run that was stopped goes on, and the same judge is not asked the same twice. See judge/llavabench.py.
"""

import logging
from pathlib import Path
from typing import Annotated

import typer

from llava.eval.judge.client import Judge
from llava.eval.judge.llavabench import JUDGE, MAX_TOKENS, TEMPERATURE, Files, estimate_review, review
from llava.eval.judge.options import DryRun, PriceIn, PriceOut, Temperature, Workers


def main(
    question: Annotated[Path, typer.Option("-q", "--question")],
    context: Annotated[Path, typer.Option("-c", "--context", help="Descriptions of the pictures.")],
    rule: Annotated[Path, typer.Option("-r", "--rule", help="rule.json of the public repository.")],
    answer_list: Annotated[
        tuple[Path, Path], typer.Option("-a", "--answer-list", help="GPT-4's answers, then the model's.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Review file; the result lies beside it as .json.")],
    max_tokens: Annotated[int, typer.Option("--max-tokens", help="Length of a review.")] = MAX_TOKENS,
    judge: Annotated[str, typer.Option("--judge", help="The judge's name.")] = JUDGE,
    temperature: Temperature = TEMPERATURE,
    workers: Workers = 4,
    price_in: PriceIn = None,
    price_out: PriceOut = None,
    dry_run: DryRun = False,
) -> None:
    """Have every answer compared with GPT-4's and write the reviews.

    Example: python -m llava.eval.eval_gpt_review_bench -q questions.jsonl -c context.jsonl -r rule.json
    -a answers_gpt4.jsonl answers/llava-v1.5-7b.jsonl -o reviews/llava-v1.5-7b.jsonl --dry-run
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    files = Files(question, context, rule, *answer_list)
    try:
        settings = Judge(judge, temperature, workers, price_in=price_in, price_out=price_out)
        if dry_run:
            typer.echo(str(estimate_review(files, output.parent, settings, max_tokens)))
            return
        result = review(files, output, settings, max_tokens)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    excluded = len(result.extra["excluded"])
    typer.echo(f"{result.score:.1f} ({result.n} reviewed, {excluded} excluded, judge {judge}) in {output}")


if __name__ == "__main__":
    typer.run(main)
