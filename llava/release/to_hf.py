"""A LLaVA checkpoint in transformers' own format: LlavaForConditionalGeneration, or LlavaNext... for anyres.

Weights keep their bits and dtypes under other names; only the two vocabulary tables grow where <image> has no row. The
original config and tokenizer files go along (`llava_layout` in config.json, the folder llava_tokenizer), so that
`from_hf` gives back what was exported.
"""

import logging
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from llava.model.builder import MODELS
from llava.model.language_model.generation_defaults import drop_idle_sampling
from llava.model.sources import family_of, inspect
from llava.model.weight_files import read_json, read_weights
from llava.release import SHARD_GB
from llava.release.chat_template import chat_template
from llava.release.folders import (
    CONFIG,
    GENERATION,
    RUN,
    TOKENIZER_FILES,
    copy_files,
    new_folder,
    write_json,
)
from llava.release.hf_config import TOWER_KEY, is_next, to_hf_config
from llava.release.hf_processor import write_processor
from llava.release.hf_tokenizer import export_tokenizer
from llava.release.names import EMBEDDING, TO_HF, TOWER, renamed
from llava.release.origin import write_origin
from llava.release.shards import write_weights
from llava.release.tower import tower_config, tower_digest, tower_folder, tower_state
from llava.release.vocabulary_rows import grown, grown_rows

logger = logging.getLogger(__name__)

TOKENIZER_FOLDER = "llava_tokenizer"
# The template each family's released models were trained with, for want of a better one.
CONV_MODES = {"llama": "vicuna_v1", "mistral": "mistral_instruct", "qwen2": "qwen_1_5"}


def to_hf(source: str, out: Path, conv_mode: str | None = None, shard_gb: float = SHARD_GB) -> Path:
    """Export a full LLaVA checkpoint.

    Args:
        source: folder or hub id.
        out: a new folder.
        conv_mode: conversation style of the chat template; default: that of the family (vicuna_v1, mistral_instruct,
            qwen_1_5).

    Raises:
        ValueError: no full LLaVA checkpoint, or one transformers' classes cannot express.
    """
    checkpoint = inspect(source, None)
    if checkpoint.kind != "full":
        raise ValueError(f"{checkpoint.folder} is a {checkpoint.kind} checkpoint: only a full LLaVA model is exported")
    folder, values = checkpoint.folder, checkpoint.config
    family = family_of(values, folder.name, folder)
    next_layout = is_next(values, folder)
    template = chat_template(conv_mode or CONV_MODES[family], bool(values.get("mm_use_im_start_end")))
    tower = tower_folder(values, folder)
    held = read_weights(folder)
    inside = any(key.startswith(TOWER) for key in held)
    state = held if inside else held | tower_state(tower)
    tokenizer = _tokenizer(folder, values, family, len(state[EMBEDDING]))
    image, pad = tokenizer.convert_tokens_to_ids("<image>"), tokenizer.pad_token_id
    rows = grown_rows(len(state[EMBEDDING]), len(tokenizer))
    vision = tower_config(tower)
    config = to_hf_config(values, family, vision, next_layout, {"rows": rows, "image": image, "pad": pad})
    config[TOWER_KEY] = {"inside": inside, "sha256": tower_digest(state)}
    with new_folder(out) as staging:
        write_weights(renamed(grown(state, rows), TO_HF, str(folder)), staging, shard_gb)
        write_processor(staging, tower, values, config, tokenizer, template)
        write_json(staging / CONFIG, config)
        _write_generation(folder, staging, config)
        copy_files(folder, staging / TOKENIZER_FOLDER, (*TOKENIZER_FILES, GENERATION))
        copy_files(folder, staging, (RUN,))
        write_origin(staging, folder)
    logger.info("%s: %s, %d rows for %d tokens", out, config["architectures"][0], rows, len(tokenizer))
    return out


def _tokenizer(folder: Path, values: dict[str, Any], family: str, rows: int) -> Any:
    config_class = MODELS[family][0]
    config = config_class.from_dict({**values, "model_type": config_class.model_type})
    return export_tokenizer(folder, config, rows)


def _write_generation(folder: Path, staging: Path, config: dict[str, Any]) -> None:
    text = config["text_config"]
    said = read_json(folder / GENERATION) if (folder / GENERATION).is_file() else {}
    defaults = {"bos_token_id": text.get("bos_token_id"), "eos_token_id": text.get("eos_token_id")}
    generation = GenerationConfig.from_dict({**defaults, **said, "pad_token_id": text["pad_token_id"]})
    drop_idle_sampling(generation)
    generation.save_pretrained(str(staging))
