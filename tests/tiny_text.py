"""Tiny tokenizers for tests, built in a moment and without network.

`build_sentencepiece` writes a tokenizer folder in the released LLaVA v1.5 form. Its pieces share the properties of
Vicuna's that masking depends on: `USER` is one piece after `</s>` but two after a blank, a blank only ever starts a
piece, and what has no piece falls back to bytes. `build_chatml` and `build_llama_3` write byte-level BPE tokenizers
(fast, no BOS and fixed BOS) with the special tokens of Qwen and Llama-3.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
CORPUS = [
    SYSTEM,
    SYSTEM + " USER: hello\nWhat is this? ASSISTANT: This is a red square. USER: How many? ASSISTANT: There are 2.",
    "superUSER newUSER oldUSER myUSER ourUSER yourUSER itsUSER theUSER aUSER oneUSER twoUSER threeUSER",
    "US US US US US US US US US US US US ER ER ER",
    "What colour is the square? The square is red. Is there a blue circle? Yes, there is. No, there is not.",
    "How many objects are in the picture? 0 1 2 3 4 5 6 7 8 9. Answer the question using a single word or phrase.",
    "Answer with the option's letter from the given choices directly.\nA. red\nB. green\nC. blue\nD. yellow",
    "[INST] <<SYS>>\nYou are a helpful language and vision assistant.\n<</SYS>>\n\nDescribe it. [/INST] It is big.",
    'Human: hello! Assistant: hello; how are you, and what can I do for you? ### (a) "b" {c} #d | e_f @ g / h \\ i',
    "JKLMNOPQRSTUVWXYZ jklmnopqrstuvwxyz ABCDEFGHI abcdefghi",
]
# What a token may span in Qwen and Llama-3: a word and one sign before it, a digit, signs and the newlines after them,
# newlines and the blanks before them, blanks. So a run of newlines stays together whatever follows it.
WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CHATML_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
LLAMA_3_TOKENS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|finetune_right_pad_id|>",
)


def sentencepiece_model(vocab: int = 400) -> bytes:
    """A serialised Llama-type model: BPE, byte fallback, ids unk=0 bos=1 eos=2, blanks kept, no normalisation.

    A newline is the byte piece <0x0A>, as in Llama. `vocab` may go down to 340; rare characters are then bytes too.
    """
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line for text in CORPUS * 4 for line in text.split("\n") if line),
        model_writer=model,
        vocab_size=vocab,
        model_type="bpe",
        character_coverage=1.0 if vocab >= 380 else 0.98,
        byte_fallback=True,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        add_dummy_prefix=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        unk_surface=" \u2047 ",
        minloglevel=2,
        num_threads=1,
    )
    return model.getvalue()


def build_sentencepiece(folder: Path, vocab: int = 400, **config: Any) -> Path:
    """Write tokenizer.model, tokenizer_config.json and special_tokens_map.json as LLaVA v1.5 released them.

    `config` adds to or replaces keys of tokenizer_config.json, for example `legacy=True` or `model_max_length=64`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(sentencepiece_model(vocab))
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    special = {
        "bos_token": {"content": "<s>", **flags},
        "eos_token": {"content": "</s>", **flags},
        "unk_token": {"content": "<unk>", **flags},
    }
    tokenizer_config = {
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "legacy": False,
        "model_max_length": 2048,
        "pad_token": None,
        "padding_side": "right",
        "sp_model_kwargs": {},
        "tokenizer_class": "LlamaTokenizer",
        **{name: {"__type": "AddedToken", **token} for name, token in special.items()},
        **config,
    }
    _write_json(folder / "tokenizer_config.json", tokenizer_config)
    _write_json(folder / "special_tokens_map.json", {**special, "pad_token": "<unk>"})
    return folder


def build_chatml(folder: Path, vocab: int = 400) -> Path:
    """Write a byte-level BPE tokenizer like Qwen's: `<|im_start|>`, `<|im_end|>`, no BOS, pad `<|endoftext|>`."""
    tokenizer = _byte_level_bpe(vocab, CHATML_TOKENS)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=["<|im_start|>"],
        model_max_length=2048,
        padding_side="right",
    )
    fast.save_pretrained(folder)
    return folder


def build_llama_3(folder: Path, vocab: int = 400) -> Path:
    """Write a byte-level BPE tokenizer like Llama-3's: every text starts with `<|begin_of_text|>`."""
    tokenizer = _byte_level_bpe(vocab, LLAMA_3_TOKENS)
    begin = tokenizer.token_to_id("<|begin_of_text|>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", begin)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|begin_of_text|>",
        eos_token="<|eot_id|>",
        pad_token="<|finetune_right_pad_id|>",
        model_max_length=2048,
        padding_side="right",
    )
    fast.save_pretrained(folder)
    return folder


def _byte_level_bpe(vocab: int, special: tuple[str, ...]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(WORD), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    blank_lines = "one line\n\n\n" * 20  # two newlines in a row become one token, as in Qwen's
    tokenizer.train_from_iterator([*CORPUS, blank_lines], trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return tokenizer


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
