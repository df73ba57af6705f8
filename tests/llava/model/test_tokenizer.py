"""Ids of Llama-type tokenizers: against recorded ids of the slow tokenizer, and against SentencePiece itself."""

from __future__ import annotations

import copy
import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2
from transformers import LlamaTokenizer

from llava.mm_utils import tokenizer_image_token
from llava.model.tokenizer import SentencePieceLlamaTokenizer, load_tokenizer
from tests.tiny_text import build_chatml, build_llama_3, build_sentencepiece, sentencepiece_model

# (text, pieces with legacy false, pieces with legacy true, decoded with legacy false, decoded with legacy true),
# recorded from transformers 4.37.2 (LlamaTokenizer, slow) on the folders `build_sentencepiece` writes.
RECORDED = [
    (" hello", "<s> ▁ ▁he ll o", "<s> ▁ ▁he ll o", "<s>  hello", "<s> hello"),
    ("  hello", "<s> ▁ ▁ ▁he ll o", "<s> ▁ ▁ ▁he ll o", "<s>   hello", "<s>  hello"),
    (
        "hello </s> hello",
        "<s> ▁he ll o ▁ </s> ▁he ll o",
        "<s> ▁he ll o ▁ </s> ▁ ▁he ll o",
        "<s> hello </s> hello",
        "<s> hello </s> hello",
    ),
    ("</s>hello", "<s> </s> he ll o", "<s> </s> ▁he ll o", "<s></s>hello", "<s></s>hello"),
    (
        "yes</s>USER: hi",
        "<s> ▁y es </s> USER : ▁ h i",
        "<s> ▁y es </s> ▁US ER : ▁ h i",
        "<s> yes</s>USER: hi",
        "<s> yes</s>USER: hi",
    ),
    ("a <s> b", "<s> ▁a ▁ <s> ▁b", "<s> ▁a ▁ <s> ▁ ▁b", "<s> a <s> b", "<s> a <s> b"),
    ("<unk>x", "<s> <unk> x", "<s> <unk> ▁ x", "<s><unk>x", "<s><unk>x"),
    ("\nhello", "<s> ▁ <0x0A> he ll o", "<s> ▁ <0x0A> he ll o", "<s> \nhello", "<s>\nhello"),
    (
        "é 漢",
        "<s> ▁ <0xC3> <0xA9> ▁ <0xE6> <0xBC> <0xA2>",
        "<s> ▁ <0xC3> <0xA9> ▁ <0xE6> <0xBC> <0xA2>",
        "<s> é 漢",
        "<s>é 漢",
    ),
    ("▁hello", "<s> ▁ ▁he ll o", "<s> ▁ ▁he ll o", "<s>  hello", "<s> hello"),
    ("</s></s>", "<s> </s> </s>", "<s> </s> </s>", "<s></s></s>", "<s></s></s>"),
    (" ", "<s> ▁ ▁", "<s> ▁ ▁", "<s>  ", "<s> "),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    root = tmp_path_factory.mktemp("tokenizers")
    return {legacy: build_sentencepiece(root / str(legacy), legacy=legacy) for legacy in (False, True)}


@pytest.fixture(scope="module")
def tokenizers(folders: dict[bool, Path]) -> dict[bool, Any]:
    return {legacy: load_tokenizer(folder) for legacy, folder in folders.items()}


@pytest.mark.parametrize("row", RECORDED, ids=[repr(row[0]) for row in RECORDED])
def test_recorded_ids(tokenizers: dict[bool, Any], row: tuple[str, ...]) -> None:
    text, modern, legacy, modern_text, legacy_text = row
    for flag, pieces, decoded in ((False, modern, modern_text), (True, legacy, legacy_text)):
        ids = tokenizers[flag](text).input_ids
        assert " ".join(tokenizers[flag].convert_ids_to_tokens(ids)) == pieces
        assert tokenizers[flag].decode(ids) == decoded


MODEL = sentencepiece_model_pb2.ModelProto.FromString(sentencepiece_model())
RAW = sentencepiece.SentencePieceProcessor(model_proto=MODEL.SerializeToString())
MODEL.normalizer_spec.add_dummy_prefix = False
BARE = sentencepiece.SentencePieceProcessor(model_proto=MODEL.SerializeToString())
SPECIAL = {"<unk>": 0, "<s>": 1, "</s>": 2}


def sentencepiece_ids(text: str, legacy: bool) -> list[int]:
    """Straight from SentencePiece: cut at special tokens; a blank in front of each part, or of the first one only."""
    ids = [1]
    parts = [part for part in re.split("(<unk>|<s>|</s>)", text.replace("▁", " ")) if part]
    for number, part in enumerate(parts):
        if part in SPECIAL:
            ids.append(SPECIAL[part])
        else:
            ids += RAW.encode(part) if legacy else BARE.encode(" " + part if number == 0 else part)
    return ids


PARTS = st.sampled_from([
    "hello", " ", "  ", "USER", "ASSISTANT: ", "\n", "</s>", "<s>", "<unk>", "é", "漢字", "▁", "1", "<", "|", "the",
])  # fmt: skip


@pytest.mark.parametrize("legacy", [False, True])
@given(texts=st.lists(PARTS, max_size=8).map("".join) | st.text(max_size=20))
def test_ids_are_those_of_sentencepiece(tokenizers: dict[bool, Any], legacy: bool, texts: str) -> None:
    ids = tokenizers[legacy](texts).input_ids
    assert ids == sentencepiece_ids(texts, legacy)


@given(text=st.text(max_size=20))
def test_decode_gives_the_text_back(tokenizers: dict[bool, Any], text: str) -> None:
    tokenizer = tokenizers[False]
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text.replace("▁", " ")


def test_the_stock_class_differs(folders: dict[bool, Path]) -> None:
    """Why this module exists. If the stock tokenizer becomes exact, this test says so and the module may go."""
    stock = LlamaTokenizer.from_pretrained(folders[False])
    assert stock(" hello").input_ids != sentencepiece_ids(" hello", legacy=False)


def test_released_form(tokenizers: dict[bool, Any]) -> None:
    tokenizer = tokenizers[False]
    assert isinstance(tokenizer, SentencePieceLlamaTokenizer)
    assert (len(tokenizer), tokenizer.vocab_size) == (400, 400)
    assert (tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (
        0,
        1,
        2,
        0,
    )
    assert (tokenizer.padding_side, tokenizer.model_max_length, tokenizer.legacy) == ("right", 2048, False)
    assert tokenizer_image_token("<image>", tokenizer) == [1, -200]
    assert sorted(tokenizer.get_vocab().values()) == list(range(400))


def test_absent_legacy_key_means_legacy(tmp_path: Path) -> None:
    folder = build_sentencepiece(tmp_path)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["legacy"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert load_tokenizer(folder).legacy is True


def test_batch_padding_and_truncation(tokenizers: dict[bool, Any]) -> None:
    tokenizer = tokenizers[False]
    batch = tokenizer(["hello", "hello there"], padding=True, return_tensors="pt")
    short = tokenizer("hello").input_ids
    width = batch.input_ids.shape[1]
    assert batch.input_ids[0].tolist() == short + [0] * (width - len(short))
    assert batch.attention_mask.sum(1).tolist() == [len(short), width]
    assert tokenizer.batch_decode(batch.input_ids, skip_special_tokens=True) == ["hello", "hello there"]
    assert tokenizer("hello there", truncation=True, max_length=3).input_ids == tokenizer("hello there").input_ids[:3]
    left = load_tokenizer(Path(tokenizer.vocab_file).parent, padding_side="left")
    assert left(["hello", "hello there"], padding=True).input_ids[0] == [0] * (width - len(short)) + short


def test_special_tokens_mask_and_flags(folders: dict[bool, Path]) -> None:
    tokenizer = load_tokenizer(folders[False], add_bos_token=False, add_eos_token=True)
    plain = load_tokenizer(folders[False])("hello", add_special_tokens=False).input_ids
    encoded = tokenizer("hello", return_special_tokens_mask=True)
    assert encoded.input_ids == [*plain, 2]
    assert encoded.special_tokens_mask == [0] * len(plain) + [1]
    assert tokenizer.get_special_tokens_mask(encoded.input_ids, already_has_special_tokens=True) == [0] * len(plain) + [
        1
    ]
    assert tokenizer("hello", "hello").input_ids == [*plain, 2, *plain, 2]


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda tokenizer: pickle.loads(pickle.dumps(tokenizer))])
def test_copies_work_without_the_folder(tmp_path: Path, clone: Any) -> None:
    folder = build_sentencepiece(tmp_path / "first")
    tokenizer = load_tokenizer(folder)
    tokenizer.add_tokens(["<im_patch>"], special_tokens=True)
    text = " hello</s>USER<im_patch>x"
    expected = tokenizer(text).input_ids
    twin = clone(tokenizer)
    for file in folder.iterdir():
        file.unlink()
    assert twin(text).input_ids == expected
    twin.save_pretrained(tmp_path / "second")
    assert load_tokenizer(tmp_path / "second")(text).input_ids == expected


@pytest.mark.parametrize("legacy", [False, True])
def test_save_pretrained_keeps_the_public_form(folders: dict[bool, Path], tmp_path: Path, legacy: bool) -> None:
    tokenizer = load_tokenizer(folders[legacy], add_bos_token=False)
    tokenizer.add_tokens(["<im_start>", "<im_end>"], special_tokens=True)
    tokenizer.save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.model").read_bytes() == (folders[legacy] / "tokenizer.model").read_bytes()
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    # What public code reads: its class name, and the keys the library would leave out or rename.
    assert config["tokenizer_class"] == "LlamaTokenizer"
    assert (config["legacy"], config["add_bos_token"], config["add_eos_token"]) == (legacy, False, False)
    assert (config["model_max_length"], config["padding_side"], config["pad_token"]) == (2048, "right", "<unk>")
    assert config["additional_special_tokens"] == ["<im_start>", "<im_end>"]
    assert not {"backend", "is_local", "extra_special_tokens", "name_or_path"} & config.keys()
    assert json.loads((tmp_path / "special_tokens_map.json").read_text())["eos_token"] == "</s>"
    again = load_tokenizer(tmp_path)
    text = " a<im_start>b</s> c"
    assert again(text).input_ids == tokenizer(text).input_ids
    assert len(again) == len(tokenizer) == 402
    assert (again.legacy, again.add_bos_token, again.all_special_ids) == (legacy, False, tokenizer.all_special_ids)
    tokenizer.save_pretrained(tmp_path)  # into the folder it would be read from, too
    assert load_tokenizer(tmp_path)(text).input_ids == tokenizer(text).input_ids


def test_saving_under_other_names_is_refused(tokenizers: dict[bool, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="plain file names"):
        tokenizers[False].save_pretrained(tmp_path, filename_prefix="x")


def test_chat_template_stays_in_the_config(tokenizers: dict[bool, Any], tmp_path: Path) -> None:
    tokenizer = copy.deepcopy(tokenizers[False])
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    tokenizer.save_pretrained(tmp_path)
    assert not (tmp_path / "chat_template.jinja").exists()
    assert load_tokenizer(tmp_path).apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi"


def test_bos_flag_survives_a_tokenizer_json_beside_it(tmp_path: Path, folders: dict[bool, Path]) -> None:
    folder = build_sentencepiece(tmp_path, add_bos_token=False)
    LlamaTokenizer.from_pretrained(folders[False]).save_pretrained(tmp_path / "json")
    (tmp_path / "json" / "tokenizer.json").rename(folder / "tokenizer.json")
    tokenizer = load_tokenizer(folder)
    assert isinstance(tokenizer, SentencePieceLlamaTokenizer)
    assert tokenizer("hello").input_ids == sentencepiece_ids("hello", legacy=False)[1:]


def test_added_tokens_file_and_flags_of_special_tokens(tmp_path: Path) -> None:
    folder = build_sentencepiece(tmp_path / "a")
    (folder / "added_tokens.json").write_text(json.dumps({"<pad>": 400}))
    assert load_tokenizer(folder)("<pad>").input_ids == [1, 315, 400]  # a blank stays in front: it is no special token
    flags = {"lstrip": False, "normalized": False, "rstrip": True, "single_word": False}
    folder = build_sentencepiece(tmp_path / "b", eos_token={"__type": "AddedToken", "content": "</s>", **flags})
    (folder / "special_tokens_map.json").unlink()
    assert load_tokenizer(folder)("</s>  hello").input_ids == load_tokenizer(folder)("</s>hello").input_ids


@pytest.mark.parametrize("index", [-200, 400])
def test_decoding_ids_that_are_no_tokens(tokenizers: dict[bool, Any], index: int) -> None:
    with pytest.raises(ValueError, match=rf"id {index}.*outside the 400 tokens"):
        tokenizers[False].decode([1, index])


def test_other_tokenizers_go_to_auto_tokenizer(tmp_path: Path) -> None:
    chatml = load_tokenizer(build_chatml(tmp_path / "chatml"), use_fast=False)
    assert chatml.is_fast and chatml.bos_token_id is None
    assert chatml.decode(chatml("hello é\n").input_ids) == "hello é\n"
    assert len(chatml("<|im_start|>").input_ids) == 1
    llama_3 = load_tokenizer(build_llama_3(tmp_path / "llama_3"))
    assert llama_3("hi").input_ids[0] == llama_3.bos_token_id
    # A SentencePiece model of another family must not be read by Llama's rules.
    other = build_sentencepiece(tmp_path / "other", tokenizer_class="PreTrainedTokenizerFast")
    build_chatml(tmp_path / "fast")
    (tmp_path / "fast" / "tokenizer.json").rename(other / "tokenizer.json")
    assert not isinstance(load_tokenizer(other), SentencePieceLlamaTokenizer)


def test_model_type_decides_where_no_class_is_named(tmp_path: Path) -> None:
    folder = build_sentencepiece(tmp_path)
    (folder / "tokenizer_config.json").unlink()
    (folder / "config.json").write_text(json.dumps({"model_type": "llava_llama"}))
    tokenizer = load_tokenizer(folder)
    assert isinstance(tokenizer, SentencePieceLlamaTokenizer) and tokenizer.legacy


def test_missing_tokenizer_names_folder_and_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(str(tmp_path)) + r".*tokenizer\.model.*tokenizer\.json"):
        load_tokenizer(tmp_path)
    with pytest.raises(ValueError, match=r"nobody/nothing.*tokenizer\.model"):
        load_tokenizer("nobody/nothing")
    (tmp_path / "tokenizer.model").write_bytes(b"")
    with pytest.raises(ValueError, match="is a file"):
        load_tokenizer(tmp_path / "tokenizer.model")


@pytest.mark.parametrize(
    "content", [b"", b"version https://git-lfs.github.com/spec/v1\n", sentencepiece_model()[:1000]]
)
def test_broken_model_file_is_named(tmp_path: Path, content: bytes) -> None:
    folder = build_sentencepiece(tmp_path)
    (folder / "tokenizer.model").write_bytes(content)
    with pytest.raises(ValueError, match=r"tokenizer\.model \(\d+ bytes\) is not a SentencePiece model"):
        load_tokenizer(folder)


def test_broken_config_is_named(tmp_path: Path) -> None:
    folder = build_sentencepiece(tmp_path)
    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer_config\.json is not JSON"):
        load_tokenizer(folder)
