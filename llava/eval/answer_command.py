"""What the question-answering programs share: their options, once, and the run behind them.

A program is a function of an `AnswerOptions` and of what is its own (question file, image folder, ...);
`answer_command` makes the command line of both. Differences to the public programs: greedy decoding and the vicuna_v1
prompt are the defaults, and the length of an answer can be set everywhere.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from llava.conversation import conversation_mode, get_conversation
from llava.eval.answerer import Decoding, LlavaAnswerer
from llava.eval.generate import Generation, generate_here
from llava.eval.inputs import answer_inputs
from llava.eval.loading import load_model
from llava.eval.methods import METHODS, apply_method, requested_budget
from llava.eval.question_set import QuestionSet
from llava.eval.records import told_tokens
from llava.eval.shards import Shard
from llava.model.fast import FastGenerator, longest_rows
from llava.options import sharing

logger = logging.getLogger(__name__)

NOT_TOLD = "llava_v0"  # what `conversation_mode` says where a name tells nothing

QuestionFile = Annotated[Path, typer.Option("--question-file", help="The benchmark's public question file.")]
ImageFolder = Annotated[Path, typer.Option("--image-folder", help="Where the questions' pictures lie.")]
SinglePredPrompt = Annotated[bool, typer.Option("--single-pred-prompt", help="Ask for the option's letter alone.")]


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Model, length of answers and token compression: LLaVA's flags, then ours."""

    model_path: Annotated[str, typer.Option("--model-path", help="Checkpoint folder or hub name.")]
    model_base: Annotated[str | None, typer.Option("--model-base", help="Base of a LoRA or projector.")] = None
    conv_mode: Annotated[str, typer.Option("--conv-mode")] = "vicuna_v1"
    max_new_tokens: Annotated[int | None, typer.Option("--max_new_tokens", "--max-new-tokens")] = None
    batch_size: Annotated[int, typer.Option("--batch-size")] = 1
    num_workers: Annotated[int, typer.Option("--num-workers", help="Processes that decode images.")] = 0
    dominant: Annotated[int | None, typer.Option("--dominant", help="Kept tokens a tile, CLS included.")] = None
    contextual: Annotated[int | None, typer.Option("--contextual", help="Merged tokens a tile.")] = None
    method: Annotated[str | None, typer.Option("--method", help=", ".join(METHODS))] = None
    order: Annotated[
        str | None, typer.Option("--order", help="Packing of several tiles: official or spatial. Default: as saved.")
    ] = None
    device: Annotated[str | None, typer.Option("--device", help="Default: a GPU if there is one.")] = None
    fast: Annotated[bool, typer.Option("--fast", help="Static shapes and CUDA graphs: the same answers, sooner.")] = (
        False
    )

    def decoding(self) -> Decoding:
        """How answers are made.

        Raises:
            ValueError: see `Decoding`.
        """
        assert self.max_new_tokens is not None, "the program says how long an answer may be"
        return Decoding(self.conv_mode, max_new_tokens=self.max_new_tokens)


@dataclass(frozen=True, kw_only=True)
class AnswerOptions(ModelOptions):
    """What LLaVA's own programs have beside: a file, a share of the work, and sampling."""

    answers_file: Annotated[Path, typer.Option("--answers-file", help="Where the answer lines go.")]
    num_chunks: Annotated[int, typer.Option("--num-chunks")] = 1
    chunk_idx: Annotated[int, typer.Option("--chunk-idx")] = 0
    temperature: Annotated[float, typer.Option("--temperature", help="0 is greedy.")] = 0.0
    top_p: Annotated[float | None, typer.Option("--top_p", "--top-p")] = None
    num_beams: Annotated[int, typer.Option("--num_beams", "--num-beams")] = 1
    seed: Annotated[int, typer.Option("--seed", help="Of sampled answers; each question draws for itself.")] = 0

    def decoding(self) -> Decoding:
        """With the sampling asked for.

        Raises:
            ValueError: see `Decoding`; sampling in batches.
        """
        asked = replace(
            super().decoding(),
            temperature=self.temperature,
            top_p=self.top_p,
            num_beams=self.num_beams,
            seed=self.seed,
        )
        asked.check_batch_size(self.batch_size)
        return asked


def answer_command(
    max_new_tokens: int | None, shared_options: type[ModelOptions] = AnswerOptions
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A function `main(options, *, ...)` as a command with the shared options and its own; a ValueError becomes a usage
    error.

    Args:
        max_new_tokens: default of this program; None where it says so itself.
        shared_options: the class of `options`.
    """

    def decorate(main: Callable[..., None]) -> Callable[..., None]:
        command = sharing(shared_options, max_new_tokens=max_new_tokens)(main)

        @wraps(command)
        def told(**given: Any) -> None:
            logging.basicConfig(level=logging.INFO, format="%(message)s")
            try:
                command(**given)
            except ValueError as error:
                raise typer.BadParameter(str(error)) from error

        return told

    return decorate


def open_answerer(options: ModelOptions) -> LlavaAnswerer:
    """Load the model the options name and attach their method.

    Raises:
        ValueError: options that do not fit, or a checkpoint that cannot be loaded.
    """
    decoding = options.decoding()
    method, budget = requested_budget(options.method, options.dominant, options.contextual)
    loaded = load_model(options.model_path, options.model_base, options.device)
    if options.device is None and loaded.model.device.type == "cpu":
        logger.warning("no GPU found: answering on the CPU")
    saved = loaded.model.get_vision_tower().compressor
    apply_method(loaded.model, method, budget, options.order)
    limit = longest_rows(loaded.model.config)
    fast = FastGenerator(loaded.model, max_length=limit, batch=options.batch_size) if options.fast else None
    return LlavaAnswerer(
        loaded.model,
        loaded.tokenizer,
        loaded.image_processor,
        loaded.name,
        replace(decoding, conv_mode=conversation_for(loaded.name, options.conv_mode)),
        source={
            "model_path": options.model_path,
            "model_base": options.model_base,
            "saved": None if saved is None else saved.to_config(),
        },
        fast=fast,
    )


def answer(asked: QuestionSet, options: AnswerOptions) -> Generation | None:
    """Load the model and answer this process's part of the questions: the chunk it was given, or as one rank of a
    launcher. None: another rank merges.

    Raises:
        ValueError: see `open_answerer`; a missing or broken picture; an answer file that others began.
    """
    shard = Shard(options.chunk_idx, options.num_chunks)
    target = options.answers_file
    pictures = asked.picture_digest()  # a missing picture is told before the model is loaded
    answerer = open_answerer(options)
    outcome = generate_here(
        answerer,
        asked,
        target,
        shard=shard,
        batch_size=options.batch_size,
        num_workers=options.num_workers,
        made_from=answer_inputs(options.model_path, options.model_base, asked, pictures),
        title=target.name,
        file_flag="--answers-file",
    )
    typer.echo(_summary(outcome, target))
    return outcome


def conversation_for(model_name: str, conv_mode: str) -> str:
    """Projector-only pre-trained models (`plain` in the name, `finetune` not) were fed the mmtag form of a
    template."""
    lowered = model_name.lower()
    if "plain" in lowered and "finetune" not in lowered and "mmtag" not in conv_mode:
        logger.warning("%s is a pre-trained model: using conversation mode %s_mmtag", model_name, conv_mode)
        return f"{conv_mode}_mmtag"
    warn_of_template(model_name, conv_mode)
    return conv_mode


def warn_of_template(model_name: str, conv_mode: str) -> None:
    """Say it where a model's name tells that it was trained on another family of templates. (Released v1.5 and v1.6
    models of Vicuna are benchmarked with vicuna_v1 and chat with llava_v1: one family.)"""
    fitting = conversation_mode(model_name)
    known = fitting != NOT_TOLD or "v0" in model_name.lower()
    if known and get_conversation(fitting).version != get_conversation(conv_mode).version:
        logger.warning(
            "the name %s suggests the conversation template %s, it is asked with %s: see --conv-mode",
            model_name,
            fitting,
            conv_mode,
        )


def _summary(outcome: Generation | None, target: Path) -> str:
    if outcome is None:
        return "this rank is done; the last rank merges"
    return f"{len(outcome.answers)} answers ({outcome.asked} new) in {target}, {told_tokens(outcome.tokens_per_image)}"
