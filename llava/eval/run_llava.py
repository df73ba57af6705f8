"""Ask one question about one or more pictures: LLaVA's quickest way in, and its `eval_model`.

    python -m llava.eval.run_llava --model-path liuhaotian/llava-v1.5-7b \
        --image-file view.jpg --query "What is unusual about this picture?" --dominant 54 --contextual 10

From Python: `eval_model(SimpleNamespace(model_path=..., query=..., image_file=...))`, fields as in LLaVA. Differences:
several pictures get one `<image>` each (LLaVA wrote one for all), the answer is returned as well as printed, and a
sampled one is drawn by `seed` (LLaVA: another each time).
"""

import logging
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Annotated, Any

import typer
from PIL import Image

from llava.constants import IMAGE_PLACEHOLDER
from llava.conversation import conversation_mode
from llava.eval.answerer import Decoding, Prompt, answer_batch, drawing, prepare_pixels, render, user_turn
from llava.eval.loading import load_model
from llava.eval.methods import METHODS, apply_method, requested_budget
from llava.mm_utils import get_model_name_from_path, image_mark, load_image

logger = logging.getLogger(__name__)

DEFAULTS: dict[str, Any] = {
    "model_base": None,
    "model_name": None,
    "conv_mode": None,
    "image_file": None,
    "sep": ",",
    "temperature": 0.2,
    "top_p": None,
    "num_beams": 1,
    "max_new_tokens": 512,
    "seed": 0,
    "device": None,
    "dominant": None,
    "contextual": None,
    "method": None,
}
EXAMPLE = (
    "Example: python -m llava.eval.run_llava --model-path llava-v1.5-7b --image-file a.jpg --query 'What is this?'"
)


def eval_model(args: Any) -> str:
    """Load the model, ask, print the answer and return it.

    Args:
        args: any object with model_path and query, and where wanted model_base, model_name, conv_mode (default: from
            the model's name), image_file (paths or http addresses joined by `sep`), sep, temperature, top_p,
            num_beams, max_new_tokens, seed (of a sampled answer), device, and dominant / contextual / method for token
            compression.

    Raises:
        ValueError: no model_path or query, a missing or corrupt picture, an unknown conv_mode, pictures and
            placeholders that do not fit; and whatever `load_pretrained_model` refuses.
    """
    asked = _with_defaults(args)
    pictures = [load_image(name) for name in image_names(asked.image_file, asked.sep)]
    name = asked.model_name or get_model_name_from_path(asked.model_path)
    how = (asked.temperature, asked.top_p, asked.num_beams, asked.max_new_tokens, asked.seed)
    decoding = Decoding(choose_mode(name, asked.conv_mode), *how)
    method, budget = requested_budget(asked.method, asked.dominant, asked.contextual)
    loaded = load_model(asked.model_path, asked.model_base, asked.device)
    apply_method(loaded.model, method, budget)
    prompt = build_prompt(asked.query, pictures, decoding.conv_mode, loaded.image_processor, loaded.model.config)
    with drawing(decoding, asked.query, loaded.model.device):
        answer = answer_batch(loaded.model, loaded.tokenizer, [prompt], decoding)[0].text
    typer.echo(answer)
    return answer


def build_prompt(
    query: str, pictures: Sequence[Image.Image], conv_mode: str, image_processor: Any, config: Any
) -> Prompt:
    """Put a question and its pictures into the template: `<image-placeholder>` marks their places, else they go first.

    Raises:
        ValueError: the question marks another number of pictures than there are.
    """
    turn = user_turn(query.replace(IMAGE_PLACEHOLDER, image_mark(config)), len(pictures), config)
    return Prompt(
        text=render(conv_mode, [turn]),
        pixels=prepare_pixels(pictures, image_processor, config),
        sizes=tuple(picture.size for picture in pictures),
    )


def choose_mode(model_name: str, conv_mode: str | None) -> str:
    """The template asked for, else the one LLaVA infers from the model's name."""
    inferred = conversation_mode(model_name)
    if conv_mode is None:
        if inferred == "llava_v0" and "v0" not in model_name.lower():
            logger.warning("the name %s tells no conversation template: using llava_v0; pass --conv-mode", model_name)
        return inferred
    if conv_mode != inferred:
        logger.info("conversation template %s as asked; the model's name suggests %s", conv_mode, inferred)
    return conv_mode


def image_names(image_file: str | None, sep: str) -> list[str]:
    """Names in `--image-file`, split at `sep`; none for a question without pictures."""
    return [name.strip() for name in image_file.split(sep) if name.strip()] if image_file else []


def _with_defaults(args: Any) -> SimpleNamespace:
    asked = SimpleNamespace(**{name: getattr(args, name, default) for name, default in DEFAULTS.items()})
    for name in ("model_path", "query"):
        value = getattr(args, name, None)
        if not value:
            raise ValueError(f"eval_model needs {name}; got {value!r}")
        setattr(asked, name, value)
    return asked


def main(
    model_path: Annotated[str, typer.Option("--model-path", help="Checkpoint folder or hub id.")],
    query: Annotated[str, typer.Option("--query", help=f"The question; {IMAGE_PLACEHOLDER} marks a picture's place.")],
    image_file: Annotated[str | None, typer.Option("--image-file", help="Pictures, joined by --sep.")] = None,
    model_base: Annotated[str | None, typer.Option("--model-base", help="Base of a LoRA or projector.")] = None,
    conv_mode: Annotated[str | None, typer.Option("--conv-mode", help="Default: by the model's name.")] = None,
    sep: Annotated[str, typer.Option("--sep")] = ",",
    temperature: Annotated[float, typer.Option("--temperature", help="0 is greedy.")] = 0.2,
    top_p: Annotated[float | None, typer.Option("--top_p", "--top-p")] = None,
    num_beams: Annotated[int, typer.Option("--num_beams", "--num-beams")] = 1,
    max_new_tokens: Annotated[int, typer.Option("--max_new_tokens", "--max-new-tokens")] = 512,
    seed: Annotated[int, typer.Option("--seed", help="Of a sampled answer.")] = 0,
    device: Annotated[str | None, typer.Option("--device", help="Default: a GPU if there is one.")] = None,
    dominant: Annotated[int | None, typer.Option("--dominant", help="Kept tokens a tile, CLS included.")] = None,
    contextual: Annotated[int | None, typer.Option("--contextual", help="Merged tokens a tile.")] = None,
    method: Annotated[str | None, typer.Option("--method", help=", ".join(METHODS))] = None,
) -> None:
    """Ask one question about one or more pictures and print the answer."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        eval_model(SimpleNamespace(**locals()))
    except ValueError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error


app = typer.Typer(add_completion=False)
app.command(epilog=EXAMPLE)(main)

if __name__ == "__main__":
    app()
