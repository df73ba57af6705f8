"""A few logits of a checkpoint for a fixed prompt and a drawn picture: what a release must give when loaded back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

from llava.conversation import get_conversation
from llava.mm_utils import process_images, tokenizer_image_token
from llava.model.builder import load_pretrained_model
from llava.model.placement import DTYPES
from llava.model.sources import family_of, inspect
from llava.model.weight_files import read_json
from llava.release.folders import CONFIG
from llava.release.names import is_hf_layout
from llava.release.to_hf import CONV_MODES

QUESTION = "What is shown in the picture?"
SIZE = (200, 120)
RECORDED = 5
# Largest difference of a logit that counts as equal: other machines add up in another order.
TOLERANCES = {"float32": 1e-3, "float16": 0.05, "bfloat16": 0.4}


def record_probe(folder: Path, base: str | None, dtype: str, device: str) -> dict[str, Any]:
    """Run a checkpoint on the picture and note its five largest logits at the end of the prompt.

    Raises:
        ValueError: an unknown dtype, or whatever loading refuses.
    """
    if dtype not in TOLERANCES:
        raise ValueError(f"--dtype {dtype!r} is unknown; expected one of {', '.join(TOLERANCES)}")
    logits = probe_logits(folder, base, dtype, device)
    values, tokens = logits.topk(RECORDED)
    return {
        "question": QUESTION,
        "picture": f"drawn, {SIZE[0]} x {SIZE[1]}",
        "dtype": dtype,
        "tolerance": TOLERANCES[dtype],
        "tokens": tokens.tolist(),
        "logits": [round(value, 6) for value in values.tolist()],
    }


def check_probe(probe: Mapping[str, Any], folder: Path, base: str | None, device: str) -> float:
    """Run the checkpoint again; returns the largest difference to what was recorded.

    Raises:
        ValueError: the difference is above the recorded tolerance.
    """
    logits = probe_logits(folder, base, probe["dtype"], device)
    if max(probe["tokens"]) >= len(logits):
        raise ValueError(f"{folder} has {len(logits)} logits; the manifest was made with a larger vocabulary")
    worst = float((logits[probe["tokens"]] - torch.tensor(probe["logits"])).abs().max())
    if not worst <= probe["tolerance"]:  # also for NaN
        raise ValueError(
            f"{folder} does not reproduce its recorded logits in {probe['dtype']}: they differ by {worst:.4g}, allowed "
            f"is {probe['tolerance']}. Weights, config, tokenizer or tower are not those the manifest was made with."
        )
    return worst


def draw_picture() -> Image.Image:
    """A picture made of arithmetic: ramps and a fine pattern, so that a wrong crop or a swapped channel shows."""
    width, height = SIZE
    pixels = bytes(
        value
        for y in range(height)
        for x in range(width)
        for value in (255 * x // width, 255 * y // height, (7 * x ^ 13 * y) & 255)
    )
    return Image.frombytes("RGB", SIZE, pixels)


def probe_logits(folder: Path, base: str | None, dtype: str, device: str) -> Tensor:
    """Logits [V] after the prompt, float32 on the CPU; LLaVA's loader applies the compressor the config names."""
    if is_hf_layout(read_json(folder / CONFIG)):
        return _of_transformers(folder, dtype, device)
    return _of_llava(folder, base, dtype, device)


@torch.no_grad()
def _of_llava(folder: Path, base: str | None, dtype: str, device: str) -> Tensor:
    checkpoint = inspect(str(folder), base)
    mode = CONV_MODES[family_of(checkpoint.config, folder.name, folder)]
    tokenizer, model, processor, _ = load_pretrained_model(folder, base, None, device=device, dtype=dtype)
    conversation = get_conversation(mode)
    conversation.append_message(conversation.roles[0], f"<image>\n{QUESTION}")
    conversation.append_message(conversation.roles[1], None)
    ids = tokenizer_image_token(conversation.get_prompt(), tokenizer, return_tensors="pt")
    images = process_images([draw_picture()], processor, model.config)
    pixels = [image.to(device=model.device, dtype=model.dtype) for image in images]
    stacked = torch.stack(pixels)
    assert isinstance(ids, Tensor)
    logits: Tensor = model(ids[None].to(model.device), images=stacked, image_sizes=[SIZE]).logits
    return logits[0, -1].float().cpu()


@torch.no_grad()
def _of_transformers(folder: Path, dtype: str, device: str) -> Tensor:
    load: Any = AutoProcessor.from_pretrained
    processor = load(str(folder), backend="pil")
    model: Any = AutoModelForImageTextToText.from_pretrained(str(folder), dtype=DTYPES[dtype])
    model = model.to(device).eval()
    said = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}]
    prompt = processor.apply_chat_template(said, add_generation_prompt=True)
    inputs = processor(images=draw_picture(), text=prompt, return_tensors="pt").to(device, DTYPES[dtype])
    logits: Tensor = model(**inputs).logits
    return logits[0, -1].float().cpu()
