"""Label masking: which ids carry loss, equality with LLaVA's own rules where those work, and what bad rows get."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.conversation import conv_templates, get_conversation
from llava.data.preprocess import MaskingError, preprocess, preprocess_multimodal
from llava.mm_utils import tokenizer_image_token
from llava.model.tokenizer import load_tokenizer
from tests.tiny_text import build_chatml, build_llama_3, build_sentencepiece


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("tokenizers")
    folders: dict[str, Path] = {
        "vicuna": build_sentencepiece(root / "vicuna"),
        "legacy": build_sentencepiece(root / "legacy", legacy=True),
        "chatml": build_chatml(root / "chatml"),
        "llama_3": build_llama_3(root / "llama_3"),
    }
    return {name: load_tokenizer(folder) for name, folder in folders.items()}


def talk(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[number % 2], "value": text} for number, text in enumerate(texts)]


def spoken(encoded: dict[str, torch.Tensor], tokenizer: Any) -> list[str]:
    """The texts under loss, one per run of labels."""
    runs: list[list[int]] = [[]]
    for label in encoded["labels"].tolist():
        if label == IGNORE_INDEX:
            runs.append([])
        else:
            runs[-1].append(label)
    # A legacy tokenizer puts a blank that is not in the ids in front of what it decodes; the llama_2 styles have one.
    return [tokenizer.decode(run).replace(" </s>", "</s>").lstrip(" ") for run in runs if run]


def prompt_ids(turns: list[dict[str, str]], tokenizer: Any, version: str, has_image: bool) -> list[int]:
    """What evaluation would feed for the closed conversation."""
    conv = get_conversation(version)
    conv.messages = [[conv.roles[number % 2], turn["value"]] for number, turn in enumerate(turns)]
    prompt = conv.get_prompt()
    return tokenizer_image_token(prompt, tokenizer) if has_image else tokenizer(prompt).input_ids


# ----------------------------------------------------------------------------------------------------- every template

TEMPLATES = [
    # template, tokenizer, what each of the answers "A red square." and "two" is trained as
    ("vicuna_v1", "vicuna", ["A red square.</s>", "two</s>"]),
    ("vicuna_v1", "legacy", ["A red square.</s>", "two</s>"]),
    ("llava_v1", "vicuna", ["A red square.</s>", "two</s>"]),
    ("v1_mmtag", "vicuna", ["A red square.</s>", "two</s>"]),
    ("llava_v0", "vicuna", ["A red square.###", "two###"]),
    ("llava_llama_2", "vicuna", ["A red square.</s>", "two</s>"]),
    ("llama_2", "legacy", ["A red square.</s>", "two</s>"]),
    ("mistral_instruct", "vicuna", ["A red square.</s>", "two</s>"]),
    ("mistral_instruct", "legacy", ["A red square.</s>", "two</s>"]),
    ("mpt", "chatml", ["A red square.<|im_end|>", "two<|im_end|>"]),
    ("chatml_direct", "vicuna", ["A red square.<|im_end|>", "two<|im_end|>"]),
    ("qwen_1_5", "chatml", ["A red square.<|im_end|>", "two<|im_end|>"]),
    ("qwen_2_5", "chatml", ["A red square.<|im_end|>", "two<|im_end|>"]),
    ("llava_llama_3", "llama_3", ["A red square.<|eot_id|>", "two<|eot_id|>"]),
    ("gemma_instruct", "vicuna", ["A red square.<end_of_turn>", "two<end_of_turn>"]),
    ("mistral_zephyr", "vicuna", ["A red square.</s>", "two</s>"]),
]


@pytest.mark.parametrize("has_image", [True, False])
@pytest.mark.parametrize(("version", "name", "answers"), TEMPLATES, ids=[f"{v}-{t}" for v, t, _ in TEMPLATES])
def test_answers_and_their_end_tokens_carry_loss(
    tokenizers: dict[str, Any], version: str, name: str, answers: list[str], has_image: bool
) -> None:
    tokenizer = tokenizers[name]
    question = "<image>\nWhat is this?" if has_image else "What is this?"
    turns = talk(question, "A red square.", "How many?", "two")
    encoded = preprocess(turns, tokenizer, version, has_image)
    ids, labels = encoded["input_ids"], encoded["labels"]
    assert spoken(encoded, tokenizer) == answers
    assert (ids.dtype, labels.dtype, ids.shape) == (torch.long, torch.long, labels.shape)
    assert bool(((labels == ids) | (labels == IGNORE_INDEX)).all())
    assert int((ids == IMAGE_TOKEN_INDEX).sum()) == has_image
    shown = preprocess_multimodal(turns, version) if has_image else turns
    expected = prompt_ids(shown, tokenizer, version, has_image)
    if version == "llava_llama_3":  # its prompts always end with the header of the next answer
        expected = expected[: len(ids)]
    assert ids.tolist() == expected


@pytest.mark.parametrize(
    ("version", "name"), [(v, t) for v, t, _ in TEMPLATES], ids=[f"{v}-{t}" for v, t, _ in TEMPLATES]
)
def test_training_begins_where_generation_begins(tokenizers: dict[str, Any], version: str, name: str) -> None:
    """The ids before the last answer are those of the evaluation prompt: the first label is the first new token."""
    tokenizer = tokenizers[name]
    encoded = preprocess(talk("<image>\nWhat is this?", "red", "And that?", "a circle"), tokenizer, version, True)
    conv = get_conversation(version)
    image = "<Image><image></Image>" if "mmtag" in version else "<image>"
    for number, text in enumerate((f"{image}\nWhat is this?", "red", "And that?", None)):
        conv.append_message(conv.roles[number % 2], text)
    prompt = tokenizer_image_token(conv.get_prompt(), tokenizer)
    assert encoded["input_ids"][: len(prompt)].tolist() == prompt
    labels = encoded["labels"][len(prompt) :]
    assert labels[0] != IGNORE_INDEX and encoded["labels"][len(prompt) - 1] == IGNORE_INDEX


def test_every_template_can_be_trained(tokenizers: dict[str, Any]) -> None:
    tested = {version for version, _, _ in TEMPLATES}
    for version in set(conv_templates) - tested - {"plain", "v0_plain"}:
        encoded = preprocess(talk("<image>\nQ", "red", "Q2", "two"), tokenizers["vicuna"], version, True)
        assert [text.split()[0][:3] for text in spoken(encoded, tokenizers["vicuna"])] == ["red", "two"], version


# ---------------------------------------------------------------------------------------- LLaVA's own rules, restated
# Written from the description of the public training code: lengths of separately tokenised pieces, walked along the
# rounds; a sample whose total does not come out right is masked as a whole (here: None).


def official_v1(turns: list[dict[str, str]], tokenizer: Any, has_image: bool) -> tuple[list[int], list[int] | None]:
    def encode(text: str) -> list[int]:
        return list(tokenizer_image_token(text, tokenizer) if has_image else tokenizer(text).input_ids)

    conv = get_conversation("vicuna_v1")
    conv.messages = [[conv.roles[number % 2], turn["value"]] for number, turn in enumerate(turns)]
    prompt = conv.get_prompt()
    ids = encode(prompt)
    labels = list(ids)
    separator = " ASSISTANT: "
    position = 1
    labels[:position] = [IGNORE_INDEX] * position
    for number, text in enumerate(prompt.split("</s>")):
        if not text:
            break
        parts = text.split(separator)
        if len(parts) != 2:
            break
        length = len(encode(text))
        masked = len(encode(parts[0] + separator)) - 2
        if number and not tokenizer.legacy:
            length, masked = length - 1, masked - 1
        labels[position : position + masked] = [IGNORE_INDEX] * masked
        position += length
    labels[position:] = [IGNORE_INDEX] * (len(labels) - position)
    return ids, labels if position == sum(index != tokenizer.pad_token_id for index in ids) else None


def official_llama_2(
    turns: list[dict[str, str]], tokenizer: Any, has_image: bool
) -> tuple[list[int], list[int] | None]:
    def encode(text: str) -> list[int]:
        return list(tokenizer_image_token(text, tokenizer) if has_image else tokenizer(text).input_ids)

    conv = get_conversation("llava_llama_2")
    conv.messages = [[conv.roles[number % 2], turn["value"]] for number, turn in enumerate(turns)]
    prompt = conv.get_prompt()
    ids = encode(prompt)
    labels = list(ids)
    position = 1
    labels[:position] = [IGNORE_INDEX] * position
    for text in prompt.split("</s>"):
        if not text:
            break
        parts = text.split("[/INST] ")
        if len(parts) != 2:
            break
        masked = len(encode(parts[0] + "[/INST] ")) - 2
        labels[position : position + masked] = [IGNORE_INDEX] * masked
        position += len(encode(text))
    labels[position:] = [IGNORE_INDEX] * (len(labels) - position)
    return ids, labels if position == sum(index != tokenizer.pad_token_id for index in ids) else None


WORDS = ["hello", "red", "What", "the", "assistant", "USER", "2", "é", "漢", ".", "\n", "A.", "yes,", "(b)", "[x]", "?"]


def corpus(count: int, seed: int) -> list[tuple[list[dict[str, str]], bool]]:
    """Random conversations of 1 to 4 rounds, with and without an image."""
    rng = random.Random(seed)

    def text() -> str:
        return " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 6)))

    rows = []
    for _ in range(count):
        texts = [text() for _ in range(2 * rng.randint(1, 4))]
        has_image = rng.random() < 0.6
        if has_image:
            texts[0] = f"<image>\n{texts[0].strip()}".strip()
        rows.append((talk(*texts), has_image))
    return rows


@pytest.mark.parametrize("name", ["vicuna", "legacy"])
def test_equals_the_official_v1_rule(tokenizers: dict[str, Any], name: str) -> None:
    tokenizer = tokenizers[name]
    for turns, has_image in corpus(150, seed=1):
        ids, labels = official_v1(turns, tokenizer, has_image)
        assert labels is not None, "the official rule should work on this corpus"
        encoded = preprocess(turns, tokenizer, "vicuna_v1", has_image)
        assert encoded["input_ids"].tolist() == ids, turns
        assert encoded["labels"].tolist() == labels, turns


def test_equals_the_official_llama_2_rule(tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["vicuna"]
    for turns, has_image in corpus(80, seed=2):
        ids, labels = official_llama_2(turns, tokenizer, has_image)
        assert labels is not None
        encoded = preprocess(turns, tokenizer, "llava_llama_2", has_image)
        assert encoded["input_ids"].tolist() == ids, turns
        assert encoded["labels"].tolist() == labels, turns


@pytest.mark.parametrize(
    ("texts", "official_works"),
    [
        (("Q", "they say </s> and go on"), False),
        (("is </s> an end", "yes", "Q2", "no"), False),
        (("Q", "they say ASSISTANT: no"), False),
        (("write USER: x ASSISTANT: y", "fine"), False),
        (("Q", "it is <unk>"), False),
        (("", "something"), False),
        (("Q", "A", "and then?"), False),
        (("Q", "the start is <s> here", "Q2", "A2"), True),
    ],
)
def test_masks_by_turns_where_the_official_rule_gives_up(
    tokenizers: dict[str, Any], texts: tuple[str, ...], official_works: bool
) -> None:
    tokenizer = tokenizers["vicuna"]
    turns = talk(*texts)
    encoded = preprocess(turns, tokenizer, "vicuna_v1")
    assert spoken(encoded, tokenizer) == [f"{answer}</s>".replace(" </s>", "</s>") for answer in texts[1::2]]
    ids, labels = official_v1(turns, tokenizer, has_image=False)
    assert encoded["input_ids"].tolist() == ids
    assert labels == (encoded["labels"].tolist() if official_works else None)


def test_mpt_masks_by_turns(tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["chatml"]
    for turns, has_image in corpus(60, seed=3):
        encoded = preprocess(turns, tokenizer, "mpt", has_image)
        assert [text.strip() for text in spoken(encoded, tokenizer)] == [
            f"{turn['value']}<|im_end|>".strip() for turn in turns[1::2]
        ]


def test_plain(tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["vicuna"]
    for human in ("<image>\nDescribe it.", "What is it?\n<image>"):
        encoded = preprocess(talk(human, "a red square"), tokenizer, "plain", True)
        ids = tokenizer_image_token("<image>a red square\n", tokenizer)
        assert encoded["input_ids"].tolist() == ids
        assert encoded["labels"].tolist() == [IGNORE_INDEX] * 2 + ids[2:]
        assert ids[-1] != tokenizer.eos_token_id


def test_plain_keeps_a_leading_blank(tokenizers: dict[str, Any]) -> None:
    """The stock tokenizer of transformers 5 loses this piece, and with it the ids of pre-training."""
    tokenizer = tokenizers["vicuna"]
    encoded = preprocess(talk("<image>", " hello"), tokenizer, "plain", True)
    pieces = tokenizer.convert_ids_to_tokens(encoded["labels"][2:].tolist())
    assert pieces == ["▁", "▁he", "ll", "o", "<0x0A>"]


# --------------------------------------------------------------------------------------------------- special situations


def test_an_answer_may_begin_with_a_newline(tokenizers: dict[str, Any]) -> None:
    """In byte-level BPE the newline of the role and that of the answer may be one id; it belongs to the answer."""
    tokenizer = tokenizers["chatml"]
    assert len(tokenizer("\n\n").input_ids) == 1
    for version in ("qwen_1_5", "chatml_direct"):
        encoded = preprocess(talk("Q", "\n\nred", "Q2", "two"), tokenizer, version)
        first, second = spoken(encoded, tokenizer)
        assert first.strip() == "red<|im_end|>" and second == "two<|im_end|>"


def test_an_image_in_an_answer_has_no_label(tokenizers: dict[str, Any]) -> None:
    encoded = preprocess(talk("<image>\nQ", "like <image> this"), tokenizers["vicuna"], "vicuna_v1", True)
    sentinels = encoded["input_ids"] == IMAGE_TOKEN_INDEX
    assert int(sentinels.sum()) == 2
    assert encoded["labels"][sentinels].tolist() == [IGNORE_INDEX] * 2


def test_the_placeholder_is_text_where_there_is_no_image(tokenizers: dict[str, Any]) -> None:
    encoded = preprocess(talk("what does <image> mean?", "a tag"), tokenizers["vicuna"], "vicuna_v1", False)
    assert IMAGE_TOKEN_INDEX not in encoded["input_ids"]


def test_a_leading_answer_is_dropped(tokenizers: dict[str, Any]) -> None:
    turns = [{"from": "gpt", "value": ""}, *talk("Q", "A")]
    expected = preprocess(talk("Q", "A"), tokenizers["vicuna"], "vicuna_v1")
    result = preprocess(turns, tokenizers["vicuna"], "vicuna_v1")
    assert torch.equal(result["input_ids"], expected["input_ids"])
    assert torch.equal(result["labels"], expected["labels"])


@pytest.mark.parametrize(
    ("version", "value", "expected"),
    [
        ("vicuna_v1", "<image>\nQ", "<image>\nQ"),
        ("vicuna_v1", "Q\n<image>", "<image>\nQ"),
        ("vicuna_v1", "a <image> b", "<image>\na  b"),
        ("vicuna_v1", "<image>", "<image>"),
        ("vicuna_v1", "Q", "Q"),
        ("vicuna_v1", "first <image> then <image>", "first <image> then <image>"),
        ("v1_mmtag", "Q <image>", "<Image><image></Image>\nQ"),
        ("v1_mmtag", "<image> or <image>", "<Image><image></Image> or <Image><image></Image>"),
    ],
)
def test_placeholder_goes_to_the_front(version: str, value: str, expected: str) -> None:
    turns = talk(value, "A")
    assert [turn["value"] for turn in preprocess_multimodal(turns, version)] == [expected, "A"]
    assert turns == talk(value, "A")


def test_start_and_end_tokens(tokenizers: dict[str, Any]) -> None:
    turns = preprocess_multimodal(talk("Q <image>", "A"), "vicuna_v1", mm_use_im_start_end=True)
    assert turns[0]["value"] == "<im_start><image><im_end>\nQ"
    encoded = preprocess(talk("Q <image>", "A"), tokenizers["vicuna"], "vicuna_v1", True, mm_use_im_start_end=True)
    text = tokenizers["vicuna"].decode([index for index in encoded["input_ids"].tolist() if index >= 0])
    assert "<im_start>" in text and "<im_end>" in text


# ------------------------------------------------------------------------------------------------------------- bad rows


BAD = [
    ([], "has no turns"),
    (talk("Q"), "no question is followed by an answer"),
    ([{"from": "gpt", "value": "A"}], "no question is followed by an answer"),
    ([{"from": "gpt", "value": "A"}] * 2 + talk("Q", "A"), "turns 0 and 1 are both from 'gpt'"),
    ([*talk("Q"), *talk("Q2", "A")], "turns 0 and 1 are both from 'human'"),
    ([*talk("Q", "A"), *talk("Q", "A")[1:]], "turns 1 and 2 are both from 'gpt'"),
    ([{"from": "system", "value": "x"}, *talk("Q", "A")], "turn 0 is from 'system'; expected 'human' or 'gpt'"),
    ([{"value": "x"}, *talk("Q", "A")], "turn 0 is from None"),
    ([*talk("Q"), {"from": "gpt"}], "turn 1 needs a text under 'value', got None"),
    ([*talk("Q"), {"from": "gpt", "value": 3}], "turn 1 needs a text under 'value', got 3"),
    (talk("Q", ""), r"turn 1 \(gpt\) is empty"),
    (talk("Q", "A", "Q2", ""), r"turn 3 \(gpt\) is empty"),
]


@pytest.mark.parametrize(("turns", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_rows_name_sample_and_turn(tokenizers: dict[str, Any], turns: list[Any], message: str) -> None:
    with pytest.raises(MaskingError, match=f"^sample 000042: .*{message}"):
        preprocess(turns, tokenizers["vicuna"], "vicuna_v1", sample_id="000042")
    with pytest.raises(ValueError, match=f"^{message}|^the conversation {message}"):
        preprocess(turns, tokenizers["vicuna"], "vicuna_v1")


def test_plain_takes_one_image_and_one_caption(tokenizers: dict[str, Any]) -> None:
    for turns in (talk("Q", "A"), talk("<image>", "A", "Q", "A"), talk("<image><image>", "A")):
        with pytest.raises(MaskingError, match="sample 7: the plain template takes one question with one <image>"):
            preprocess(turns, tokenizers["vicuna"], "plain", True, sample_id=7)


def test_unknown_template(tokenizers: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no conversation template 'v7'"):
        preprocess(talk("Q", "A"), tokenizers["vicuna"], "v7")


class Joining:
    """A tokenizer whose ids are whole lines: an answer's bounds fall inside them."""

    bos_token_id = None
    all_special_tokens = ()

    def __call__(self, text: str) -> Any:
        return SimpleNamespace(
            input_ids=[hash(text[:n]) % 1000 for n in range(0, len(text), 7)] + [hash(text) % 1000] * 3
        )


def test_a_tokenizer_that_joins_turns_is_refused() -> None:
    with pytest.raises(MaskingError, match="sample 3: the start of the answer ' A</s>' falls inside a token"):
        preprocess(talk("Q", "A"), Joining(), "vicuna_v1", sample_id=3)


class Counting:
    """A tokenizer, and how many characters it was given."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.characters = tokenizer, 0

    def __call__(self, text: str) -> Any:
        self.characters += len(text)
        return self.tokenizer(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)


@pytest.mark.parametrize(
    ("version", "name"), [(v, t) for v, t, _ in TEMPLATES], ids=[f"{v}-{t}" for v, t, _ in TEMPLATES]
)
def test_searching_by_stretches_equals_searching_the_whole(
    tokenizers: dict[str, Any], version: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = talk("<image>\nWhat is this?", "red", " And that?", "\na circle ", "Q</s>?", "two", "last", "A, B")
    by_stretches = preprocess(turns, tokenizers[name], version, True)
    monkeypatch.setattr("llava.data.preprocess._stretches", lambda segments, tokenizer: [("", segments)])
    whole = preprocess(turns, tokenizers[name], version, True)
    assert all(torch.equal(by_stretches[key], whole[key]) for key in whole)


def test_the_work_grows_with_the_turns_not_with_their_square(tokenizers: dict[str, Any]) -> None:
    given = []
    for turns in (10, 40):
        counting = Counting(tokenizers["vicuna"])
        preprocess(talk(*("What is to the left of this?", "red") * turns), counting, "vicuna_v1")
        given.append(counting.characters)
    assert given[1] < 5 * given[0]


class Continuing:
    """A tokenizer whose ids depend on everything before: no stretch can be searched alone."""

    bos_token_id = None
    all_special_tokens = ("</s>",)

    def __call__(self, text: str) -> Any:
        return SimpleNamespace(input_ids=[hash(text[: n + 1]) for n in range(len(text))])


def test_a_tokenizer_that_looks_back_is_searched_as_a_whole() -> None:
    encoded = preprocess(talk("Q", "first", "Q2", "second"), Continuing(), "vicuna_v1")
    marked = (encoded["labels"] != IGNORE_INDEX).sum().item()
    assert marked == len(" first</s>") + len(" second</s>")
