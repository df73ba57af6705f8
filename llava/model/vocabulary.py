"""Tokenizer and embedding rows must agree; neither is bent to the other in silence."""

import logging
from pathlib import Path
from typing import Any

from llava.constants import DEFAULT_IM_END_TOKEN, DEFAULT_IM_START_TOKEN, DEFAULT_IMAGE_PATCH_TOKEN

__all__ = ["add_markers"]

logger = logging.getLogger(__name__)

# Config key -> (value upstream assumes where the key is missing, the tokens it asks for).
MARKERS = {
    "mm_use_im_patch_token": (True, (DEFAULT_IMAGE_PATCH_TOKEN,)),
    "mm_use_im_start_end": (False, (DEFAULT_IM_START_TOKEN, DEFAULT_IM_END_TOKEN)),
}


def add_markers(tokenizer: Any, config: Any, rows: int, where: Path) -> None:
    """Add the image marker tokens a config asks for, where the checkpoint's embedding has rows for them.

    LLaVA adds them whatever the embedding holds and then resizes it, to rows nobody trained. Here a key that says true
    is an error where rows are missing; a missing `mm_use_im_patch_token`, which LLaVA reads as true, is only logged.

    Args:
        tokenizer: gets the tokens.
        config: the model's config.
        rows: of the checkpoint's input embedding.
        where: the checkpoint's folder, for messages.

    Raises:
        ValueError: a token is asked for and has no row; the tokenizer has more tokens than the embedding rows.
    """
    known = tokenizer.get_vocab()
    for key, (default, markers) in MARKERS.items():
        said = getattr(config, key, None)
        new = [marker for marker in markers if marker not in known]
        if not new or not (default if said is None else said):
            continue
        if len(tokenizer) + len(new) <= rows:
            tokenizer.add_tokens(new, special_tokens=True)
        elif said is None:
            logger.warning("%s: config.json lacks %s and the embedding a row for %s: not added", where, key, new[0])
        else:
            raise ValueError(
                f"{where / 'config.json'} says {key}: true, but the tokenizer lacks {', '.join(new)}, and the "
                f"embedding has {rows} rows for {len(tokenizer)} known tokens: new rows would be untrained. "
                f"Set {key} to false, or take the tokenizer saved with the checkpoint."
            )
    if len(tokenizer) > rows:
        raise ValueError(
            f"{where}: the tokenizer has {len(tokenizer)} tokens, the embedding {rows} rows; "
            f"tokenizer files and weights come from different models."
        )
