"""A tokenizer for plain transformers that gives the ids LLaVA gives, with `<image>` as one token.

LLaVA cuts a prompt at `<image>` and tokenises the pieces one by one, so a text after a picture starts like a new one: a
Llama tokenizer puts a blank in front of it. Here the same is written into tokenizer.json: a `legacy` tokenizer has the
blank in front of every piece anyway; for the others it is inserted behind an `<image>` that text follows. One
difference is left: with those, plain transformers drops one blank where the whole prompt starts with one; no template
does.
"""

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers
from transformers import LlamaTokenizer, PreTrainedTokenizerFast

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.model.tokenizer import BLANK, CONFIG_FILE, SentencePieceLlamaTokenizer, load_tokenizer
from llava.model.vocabulary import add_markers
from llava.release.folders import write_json

PAD = "<pad>"
# Keys transformers 5 writes about the machine it ran on, or that older versions read otherwise.
_DROPPED = ("backend", "is_local", "local_files_only", "extra_special_tokens")


def export_tokenizer(folder: Path, config: Any, rows: int) -> PreTrainedTokenizerFast:
    """The tokenizer of a LLaVA checkpoint with `<image>` (and `<pad>`, if it has no padding token) behind its tokens.

    Args:
        folder: of the checkpoint.
        config: its config, which may ask for marker tokens.
        rows: of its input embedding.

    Raises:
        ValueError: no tokenizer there, or ids that would differ from LLaVA's.
    """
    ours = load_tokenizer(folder)
    add_markers(ours, config, rows, folder)
    slow = isinstance(ours, SentencePieceLlamaTokenizer)
    source: Any = LlamaTokenizer.from_pretrained(str(folder)) if slow else ours
    backend = Tokenizer.from_str(source.backend_tokenizer.to_str())
    inserts = slow and not ours.legacy
    if inserts:
        # Not between two <image>, and not where a special token or nothing follows.
        behind = Regex(rf"{DEFAULT_IMAGE_TOKEN}(?=[\s\S])(?!{DEFAULT_IMAGE_TOKEN})")
        backend.normalizer = normalizers.Replace(behind, DEFAULT_IMAGE_TOKEN + BLANK)
        backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement=BLANK, prepend_scheme="first", split=False)
    elif slow:
        blanks = [normalizers.Prepend(BLANK), normalizers.Replace(" ", BLANK)]
        backend.normalizer = normalizers.Sequence(blanks)
        backend.pre_tokenizer = None
    _add_tokens(backend, ours, inserts, folder)
    return _wrapped(backend, ours)


def _add_tokens(backend: Tokenizer, ours: Any, inserts: bool, folder: Path) -> None:
    """LLaVA's own added tokens at their ids, then `<image>` and, where there is none, a padding token."""
    for token, index in sorted(ours.get_added_vocab().items(), key=lambda item: item[1]):
        backend.add_tokens([ours.added_tokens_decoder[index]])
        if backend.token_to_id(token) != index:
            raise ValueError(
                f"{folder}: token {token!r} has id {index}, but would get {backend.token_to_id(token)} in "
                f"tokenizer.json: the tokenizer files do not belong together"
            )
    # `normalized`: found after the normalizer has run, which is what lets it see the token.
    backend.add_special_tokens([AddedToken(DEFAULT_IMAGE_TOKEN, normalized=inserts, special=True)])
    if ours.pad_token is None:
        backend.add_special_tokens([AddedToken(PAD, normalized=False, special=True)])


def _wrapped(backend: Tokenizer, ours: Any) -> PreTrainedTokenizerFast:
    named = {role: str(token) for role in ("bos_token", "eos_token", "unk_token") if (token := getattr(ours, role))}
    special = [str(token) for token in ours.extra_special_tokens if str(token) not in named.values()]
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        **named,
        pad_token=PAD if ours.pad_token is None else str(ours.pad_token),
        extra_special_tokens=[*special, DEFAULT_IMAGE_TOKEN],
        model_max_length=ours.model_max_length,
        padding_side="left",  # batches are for answering, and answers start where the prompt ends
        clean_up_tokenization_spaces=False,
    )


def mend_tokenizer_config(folder: Path) -> None:
    """Write tokenizer_config.json in words transformers 4 and 5 both know."""
    path = folder / CONFIG_FILE
    config = json.loads(path.read_text(encoding="utf-8"))
    extra = config.get("extra_special_tokens") or []
    config = {key: value for key, value in config.items() if key not in _DROPPED}
    write_json(path, config | {"tokenizer_class": "PreTrainedTokenizerFast", "additional_special_tokens": list(extra)})
