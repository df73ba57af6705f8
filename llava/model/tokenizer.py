"""Tokenizers that give the ids LLaVA was trained with.

Vicuna, Llama-2, Mistral and Yi checkpoints hold a SentencePiece `tokenizer.model` and were trained with transformers'
slow LlamaTokenizer. Transformers 5 reads the same file into another engine that drops a piece where text starts with a
blank and, for `legacy` tokenizers, gives other ids after special tokens. Here SentencePiece itself does the work.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from transformers import AddedToken, AutoTokenizer, PreTrainedTokenizer, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file

from llava.constants import IMAGE_TOKEN_INDEX

logger = logging.getLogger(__name__)

MODEL_FILE = "tokenizer.model"
CONFIG_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"
OTHER_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "tekken.json")
LLAMA_CLASSES = ("LlamaTokenizer", "LlamaTokenizerFast")
LLAMA_MODEL_TYPES = ("llama", "llava", "llava_llama", "llava_mistral", "mistral", "mixtral")
BLANK = "\u2581"  # SentencePiece's visible blank
SPECIAL_ROLES = ("bos_token", "eos_token", "unk_token", "pad_token")
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")


class SentencePieceLlamaTokenizer(PreTrainedTokenizer):
    """The slow LlamaTokenizer of transformers 4.37, id for id.

    Text is cut at the special tokens it contains; each of the other pieces goes to SentencePiece. With `legacy` every
    piece gets a blank in front; without it only the start of the text does, so nothing is put after `</s>`.

    Args:
        vocab_file: path of `tokenizer.model`.
        legacy: as in tokenizer_config.json; absent there means True, as it did then.
        add_bos_token, add_eos_token: put around every text that is encoded with special tokens.

    Raises:
        ValueError: the file is not a SentencePiece model.
    """

    vocab_files_names = {"vocab_file": MODEL_FILE}  # noqa: RUF012 - the base class declares both per instance
    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012

    def __init__(
        self,
        vocab_file: str,
        unk_token: str | AddedToken = "<unk>",
        bos_token: str | AddedToken = "<s>",
        eos_token: str | AddedToken = "</s>",
        pad_token: str | AddedToken | None = None,
        legacy: bool | None = None,
        add_bos_token: bool = True,
        add_eos_token: bool = False,
        sp_model_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.vocab_file = str(vocab_file)
        self.legacy = True if legacy is None else legacy
        self.add_bos_token = add_bos_token
        self.add_eos_token = add_eos_token
        self.sp_model_kwargs = sp_model_kwargs or {}
        self.sp_model, self.model_proto = _load_pieces(self.vocab_file, self.legacy, self.sp_model_kwargs)
        # What stands before a text so that SentencePiece keeps the blank the text starts with.
        self.guard_length = len(self.sp_model.encode(str(unk_token)))
        super().__init__(  # type: ignore[no-untyped-call]
            unk_token=_special(unk_token),
            bos_token=_special(bos_token),
            eos_token=_special(eos_token),
            pad_token=_special(pad_token),
            legacy=self.legacy,
            add_bos_token=add_bos_token,
            add_eos_token=add_eos_token,
            sp_model_kwargs=self.sp_model_kwargs,
            **kwargs,
        )
        # The base class keeps the names of special tokens; whether they eat blanks around them is kept here.
        for token in (unk_token, bos_token, eos_token, pad_token):
            if isinstance(token, AddedToken):
                self._added_tokens_decoder[self._added_tokens_encoder[token.content]] = token

    @property
    def vocab_size(self) -> int:
        """Number of SentencePiece pieces, without added tokens."""
        return int(self.sp_model.get_piece_size())

    def get_vocab(self) -> dict[str, int]:
        """Piece -> id, added tokens included."""
        vocab = {self.sp_model.id_to_piece(index): index for index in range(self.vocab_size)}
        return vocab | self._added_tokens_encoder

    def tokenize(
        self, text: str, pair: str | None = None, add_special_tokens: bool = False, **kwargs: Any
    ) -> list[str]:
        """Pieces of `text`. BOS and EOS belong to encoding, so `pair` and `add_special_tokens` change nothing here."""
        if self.legacy or not text:
            return list(super().tokenize(text, **kwargs))
        pieces = list(super().tokenize(BLANK + text.replace(BLANK, " "), **kwargs))
        starts_special = len(pieces) > 1 and pieces[0] == BLANK and pieces[1] in self.all_special_tokens
        return pieces[1:] if starts_special else pieces

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        if self.legacy or not text.startswith((BLANK, " ")):
            return list(self.sp_model.encode(text, out_type=str))
        pieces = list(self.sp_model.encode(str(self.unk_token) + text, out_type=str))
        return pieces[self.guard_length :] if len(pieces) >= self.guard_length else pieces

    def _convert_token_to_id(self, token: str) -> int:
        return int(self.sp_model.piece_to_id(token))

    def _convert_id_to_token(self, index: int) -> str:
        if not 0 <= index < self.vocab_size:
            hint = " (the image sentinel; remove it before decoding)" if index == IMAGE_TOKEN_INDEX else ""
            raise ValueError(f"id {index}{hint} is outside the {len(self)} tokens of {self.vocab_file}")
        return str(self.sp_model.id_to_piece(index))

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """Text of `tokens`. Byte pieces are joined to characters; the blank in front of the first piece is dropped.

        Added tokens stand for themselves (transformers 4 put a blank on both sides of those that are not special).
        """
        special = {*self.all_special_tokens, *self._added_tokens_encoder}
        text, run = "", list[str]()
        after_special = False
        for position, token in enumerate(tokens):
            if position == 0 and token.startswith(BLANK):
                token = token[1:]
            if token not in special:
                run.append(token)
                after_special = False
                continue
            if self.legacy and position > 0 and not after_special:
                text += " "
            text += self.sp_model.decode(run) + token
            run, after_special = [], True
        return text + str(self.sp_model.decode(run))

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Put BOS and EOS around one or two rows of ids, as the flags say."""
        rows = [token_ids_0] if token_ids_1 is None else [token_ids_0, token_ids_1]
        head = [self.bos_token_id] if self.add_bos_token else []
        tail = [self.eos_token_id] if self.add_eos_token else []
        return [index for row in rows for index in (*head, *row, *tail)]

    def get_special_tokens_mask(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None, already_has_special_tokens: bool = False
    ) -> list[int]:
        """1 where `build_inputs_with_special_tokens` puts a special token (or where one already stands), else 0."""
        if already_has_special_tokens:
            special = set(self.all_special_ids)
            return [int(index in special) for index in token_ids_0]
        rows = [token_ids_0] if token_ids_1 is None else [token_ids_0, token_ids_1]
        head, tail = [1] * bool(self.add_bos_token), [1] * bool(self.add_eos_token)
        return [flag for row in rows for flag in (*head, *([0] * len(row)), *tail)]

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Write `tokenizer.model` as it was read."""
        path = Path(save_directory, f"{filename_prefix}-{MODEL_FILE}" if filename_prefix else MODEL_FILE)
        if not (path.exists() and Path(self.vocab_file).exists() and path.samefile(self.vocab_file)):
            path.write_bytes(self.model_proto)
        return (str(path),)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        legacy_format: bool | None = None,
        filename_prefix: str | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> tuple[str, ...]:
        """Write the files of the released checkpoints; public LLaVA code reads them as its LlamaTokenizer.

        Raises:
            ValueError: a prefix or an upload is asked for; the files written here have the released names only.
        """
        if filename_prefix or push_to_hub:
            raise ValueError("save_pretrained writes plain file names into a folder; rename or upload them afterwards")
        files = super().save_pretrained(save_directory, legacy_format, **{"save_jinja_files": False, **kwargs})
        path = Path(save_directory, CONFIG_FILE)
        config = json.loads(path.read_text(encoding="utf-8"))
        for key in ("backend", "is_local", "local_files_only", "extra_special_tokens"):
            config.pop(key, None)
        if self.extra_special_tokens:
            config["additional_special_tokens"] = [str(token) for token in self.extra_special_tokens]
        config |= {
            "tokenizer_class": "LlamaTokenizer",
            "legacy": self.legacy,
            "add_bos_token": self.add_bos_token,
            "add_eos_token": self.add_eos_token,
            "padding_side": self.padding_side,
        }
        _write_json(path, config)
        special = Path(save_directory, SPECIAL_TOKENS_FILE)
        _write_json(special, {role: str(getattr(self, role)) for role in SPECIAL_ROLES if getattr(self, role)})
        return (*files, str(special))


def load_tokenizer(path: str | Path, **kwargs: Any) -> PreTrainedTokenizerBase:
    """Open the tokenizer of a checkpoint folder or hub id.

    A SentencePiece `tokenizer.model` whose config names a Llama tokenizer gets `SentencePieceLlamaTokenizer`, so that
    ids are those of training; everything else goes to AutoTokenizer. `kwargs` override tokenizer_config.json
    (`padding_side`, `model_max_length`, `legacy`, ...); `use_fast` is accepted and has no effect.

    Raises:
        ValueError: no tokenizer there, or its files are broken; names the folder and the files that were expected.
    """
    kwargs.pop("use_fast", None)
    where = str(path)
    expected = f"{MODEL_FILE} (SentencePiece) or one of {', '.join(OTHER_FILES)}, each with {CONFIG_FILE}"
    folder = Path(where)
    if folder.is_dir():
        # A subfolder is looked up by the library, not here.
        if not kwargs.get("subfolder") and not any((folder / name).is_file() for name in (MODEL_FILE, *OTHER_FILES)):
            raise ValueError(f"no tokenizer in {where}: expected {expected}")
    elif folder.is_file():
        raise ValueError(f"{where} is a file; give the folder that holds {expected}")
    hub = {key: kwargs[key] for key in HUB_OPTIONS if key in kwargs}
    try:
        config = _llama_config(where, hub)
        if config is None:
            other: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(where, **kwargs)
            return other
        # Given by hand because transformers ignores them where a tokenizer.json lies beside the model.
        flags = {key: config[key] for key in ("add_bos_token", "add_eos_token") if key in config}
        tokenizer: PreTrainedTokenizerBase = SentencePieceLlamaTokenizer.from_pretrained(where, **(flags | kwargs))
        return tokenizer
    except OSError as error:
        raise ValueError(f"cannot open a tokenizer at {where}: expected {expected}; {error}") from error


def _llama_config(where: str, hub: dict[str, Any]) -> dict[str, Any] | None:
    """tokenizer_config.json of a Llama-type SentencePiece tokenizer ({} if absent); None where there is none."""
    optional = {"_raise_exceptions_for_missing_entries": False, **hub}
    if cached_file(where, MODEL_FILE, **optional) is None:
        return None
    path = cached_file(where, CONFIG_FILE, **optional)
    config = _read_json(path) if path else {}
    special = cached_file(where, SPECIAL_TOKENS_FILE, **optional)
    if special:
        _read_json(special)  # the library's own reader would not name a broken file
    if "tokenizer_class" in config:
        return config if config["tokenizer_class"] in LLAMA_CLASSES else None
    model = cached_file(where, "config.json", **optional)
    model_type = _read_json(model).get("model_type") if model else None
    return config if model_type in LLAMA_MODEL_TYPES else None


def _read_json(path: str) -> dict[str, Any]:
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object, not {type(value).__name__}")
    return value


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def _load_pieces(
    path: str, legacy: bool, options: dict[str, Any]
) -> tuple[sentencepiece.SentencePieceProcessor, bytes]:
    """The processor, and the file as it was read. Without `legacy` the processor puts no blank in front of a text."""
    data = Path(path).read_bytes()
    processor = sentencepiece.SentencePieceProcessor(**options)
    try:
        processor.LoadFromSerializedProto(data)
    except RuntimeError as error:
        raise ValueError(
            f"{path} ({len(data)} bytes) is not a SentencePiece model; a pointer file, half a download? {error}"
        ) from error
    if not legacy:
        proto = sentencepiece_model_pb2.ModelProto.FromString(data)  # type: ignore[attr-defined]
        proto.normalizer_spec.add_dummy_prefix = False
        processor.LoadFromSerializedProto(proto.SerializeToString())
    return processor, data


def _special(token: str | AddedToken | None) -> AddedToken | None:
    return AddedToken(token, normalized=False, special=True) if isinstance(token, str) else token
