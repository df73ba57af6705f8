"""Tiny checkpoints for the release tests, and what a model says in either layout to one question about one picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llava.release.probe import draw_picture
from tests.tiny import tiny_anyres_llava, tiny_llava
from tests.tiny_checkpoints import TOKENS, weights, write_config, write_shards, write_tower
from tests.tiny_text import build_chatml, build_sentencepiece

ZIP = {"method": "visionzip", "dominant": 5, "contextual": 2}


def write_checkpoint(home: Path, family: str = "llama", is_next: bool = False, **keys: Any) -> Path:
    """A full float32 checkpoint `home/model` of any family; v1.5 with its tower beside, NeXT with it inside."""
    rows = 480 if family == "qwen2" else TOKENS
    make = tiny_anyres_llava if is_next else tiny_llava
    model = make(home, family, vocab_size=rows)
    write_tower(model, home / "tower")
    types = {"llama": "llava", "mistral": "llava_mistral", "qwen2": "llava_qwen"}
    folder = write_config(model, home / "model", **({"model_type": types[family], "torch_dtype": "float32"} | keys))
    write_shards(weights(model, tower=is_next), folder, "safetensors")
    return build_chatml(folder) if family == "qwen2" else build_sentencepiece(folder, vocab=TOKENS)


def llava_logits(
    folder: Path, question: str, mode: str, size: tuple[int, int] = (200, 120)
) -> tuple[list[int], Tensor]:
    """(ids with -200 for the picture, logits [L, V]) of our model, float32."""
    from llava.conversation import get_conversation
    from llava.mm_utils import process_images, tokenizer_image_token
    from llava.model.builder import load_pretrained_model

    tokenizer, model, processor, _ = load_pretrained_model(folder, None, None, device="cpu")
    conversation = get_conversation(mode)
    conversation.append_message(conversation.roles[0], f"<image>\n{question}")
    conversation.append_message(conversation.roles[1], None)
    ids = tokenizer_image_token(conversation.get_prompt(), tokenizer)
    picture = draw_picture().resize(size)
    images = process_images([picture], processor, model.config)
    with torch.no_grad():
        return list(ids), model(torch.tensor([ids]), images=images, image_sizes=[size]).logits[0]


def hf_logits(folder: Path, question: str, size: tuple[int, int] = (200, 120)) -> tuple[list[int], Tensor, Any]:
    """(ids with every placeholder, logits [L, V], model) of plain transformers, float32."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(folder, backend="pil")
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
    prompt = processor.apply_chat_template([turn], add_generation_prompt=True)
    inputs = processor(images=draw_picture().resize(size), text=prompt, return_tensors="pt")
    with torch.no_grad():
        return inputs["input_ids"][0].tolist(), model(**inputs).logits[0], model


def tuned_projector(base: Path, folder: Path, **keys: Any) -> Path:
    """What a projector run leaves: other projector weights, the base's config with a compressor, run.json."""
    from llava.model.checkpoint import save_projector
    from llava.model.weight_files import read_weights

    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(3)
    state = {
        key: value.float() + 0.1 * torch.randn(value.shape, generator=generator)
        for key, value in read_weights(base).items()
        if "mm_projector" in key
    }
    save_projector(state, folder / "mm_projector.bin")
    config = json.loads((base / "config.json").read_text()) | {"mm_compressor": ZIP} | keys
    (folder / "config.json").write_text(json.dumps(config))
    run = {
        "stamp": {"commit": "c0ffee", "dtype": "bfloat16", "device": "cpu", "processes": 1},
        "stage": "projector",
        "trained_parts": ["mm_mlp_adapter"],
        "compressor": ZIP,
        "data": {"path": "mix.json", "sha256": "ab" * 32, "rows": 24, "rows_with_images": 20},
        "result": {"steps": 6},
        "arguments": {
            "model": {"model_name_or_path": "org/base"},
            "training": {"learning_rate": 2e-5, "num_train_epochs": 1.0},
        },
    }
    (folder / "run.json").write_text(json.dumps(run))
    return folder
