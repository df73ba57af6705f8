"""Answer a question file: LLaVA's command and flags, on the one generation loop.

    python -m llava.eval.model_vqa_loader --model-path liuhaotian/llava-v1.5-7b --question-file questions.jsonl \
        --image-folder images --answers-file answers.jsonl --dominant 54 --contextual 10

Started by `accelerate launch` or `torchrun`, every rank answers its part and the last one merges by id. A run that
was stopped goes on where it stopped when started again. Differences to the original: greedy decoding and the
vicuna_v1 prompt are the defaults.
"""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from llava.eval.answerer import Decoding, LlavaAnswerer
from llava.eval.generate import Generation, generate, generate_part
from llava.eval.loading import load_model
from llava.eval.methods import apply_method, requested_budget
from llava.eval.shards import Shard, launched_shard

logger = logging.getLogger(__name__)


def conversation_for(model_name: str, conv_mode: str) -> str:
    """Projector-only pre-trained models (`plain` in the name, `finetune` not) were fed the mmtag form of a
    template."""
    lowered = model_name.lower()
    if "plain" in lowered and "finetune" not in lowered and "mmtag" not in conv_mode:
        logger.warning("%s is a pre-trained model: using conversation mode %s_mmtag", model_name, conv_mode)
        return f"{conv_mode}_mmtag"
    return conv_mode


def main(
    model_path: Annotated[str, typer.Option("--model-path", help="Checkpoint folder or hub name.")],
    question_file: Annotated[Path, typer.Option("--question-file")],
    image_folder: Annotated[Path, typer.Option("--image-folder")],
    answers_file: Annotated[Path, typer.Option("--answers-file")],
    model_base: Annotated[str | None, typer.Option("--model-base", help="Base of a LoRA or projector.")] = None,
    conv_mode: Annotated[str, typer.Option("--conv-mode")] = "vicuna_v1",
    num_chunks: Annotated[int, typer.Option("--num-chunks")] = 1,
    chunk_idx: Annotated[int, typer.Option("--chunk-idx")] = 0,
    temperature: Annotated[float, typer.Option("--temperature", help="0 is greedy.")] = 0.0,
    top_p: Annotated[float | None, typer.Option("--top_p", "--top-p")] = None,
    num_beams: Annotated[int, typer.Option("--num_beams", "--num-beams")] = 1,
    max_new_tokens: Annotated[int, typer.Option("--max_new_tokens", "--max-new-tokens")] = 128,
    batch_size: Annotated[int, typer.Option("--batch-size")] = 1,
    num_workers: Annotated[int, typer.Option("--num-workers", help="Processes that decode images.")] = 0,
    dominant: Annotated[int | None, typer.Option("--dominant", help="Kept tokens a tile, CLS included.")] = None,
    contextual: Annotated[int | None, typer.Option("--contextual", help="Merged tokens a tile.")] = None,
    method: Annotated[str | None, typer.Option("--method", help="dense, visionzip, random, uniform, pool.")] = None,
    order: Annotated[
        str | None, typer.Option("--order", help="Packing of several tiles: official or spatial. Default: as saved.")
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="Default: a GPU if there is one.")] = None,
) -> None:
    """Answer every question of a file and write LLaVA's answer lines."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        decoding = Decoding(conv_mode, temperature, top_p, num_beams, max_new_tokens)
        chosen, budget = requested_budget(method, dominant, contextual)
        shard = Shard(chunk_idx, num_chunks)
        loaded = load_model(model_path, model_base, device)
        if device is None and loaded.model.device.type == "cpu":
            logger.warning("no GPU found: answering on the CPU")
        apply_method(loaded.model, chosen, budget, order)
        answerer = LlavaAnswerer(
            loaded.model,
            loaded.tokenizer,
            loaded.image_processor,
            loaded.name,
            replace(decoding, conv_mode=conversation_for(loaded.name, conv_mode)),
            source={"model_path": model_path, "model_base": model_base},
        )
        outcome = _answer(answerer, question_file, image_folder, answers_file, shard, batch_size, num_workers)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if outcome is None:
        typer.echo("this rank is done; the last rank merges")
        return
    tokens = (
        "no images" if outcome.tokens_per_image is None else f"{outcome.tokens_per_image:.1f} visual tokens an image"
    )
    typer.echo(f"{len(outcome.answers)} answers ({outcome.asked} new) in {answers_file}, {tokens}")


def _answer(
    answerer: LlavaAnswerer, questions: Path, images: Path, answers: Path, shard: Shard, batch_size: int, workers: int
) -> Generation | None:
    """This process's part: the chunk it was given, or as one rank of a launcher. None: another rank merges."""
    options: dict[str, Any] = {"batch_size": batch_size, "num_workers": workers, "title": answers.name}
    launched = launched_shard()
    if launched is not None and shard.count == 1:
        return generate_part(answerer, questions, images, answers, shard=launched, **options)
    return generate(answerer, questions, images, answers, shard=shard, **options)


if __name__ == "__main__":
    typer.run(main)
