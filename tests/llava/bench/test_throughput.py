"""Many pictures: every case answers by its own way, in batches too, through what evaluation runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from llava.bench import throughput
from llava.bench.cases import parse_case
from llava.bench.setup import question_for
from llava.bench.throughput import SIZE, Numerals, measure
from llava.constants import IMAGE_TOKEN_INDEX
from llava.mm_utils import tokenizer_image_token
from tests.llava.bench.tiny_subject import tiny_subject

TEXT = 40


@contextmanager
def seen_by_the_last_layer(model: Any) -> Iterator[set[int]]:
    """Tokens of a row in every prefill."""
    lengths: set[int] = set()

    def note(_module: Any, args: Any, _kwargs: Any) -> None:
        if args[0].shape[1] > 1:
            lengths.add(args[0].shape[1])

    handle = model.get_decoder().layers[-1].register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield lengths
    finally:
        handle.remove()


def ask(subject: Any, cases: list[str], size: int) -> tuple[list[dict[str, Any]], set[int]]:
    ids = question_for(subject, TEXT).ids
    options: dict[str, Any] = {"questions": 2 * size, "batch_sizes": [size], "new_tokens": 2, "workers": 0, "rounds": 1}
    with seen_by_the_last_layer(subject.model) as lengths:
        rows = measure(subject, [parse_case(case) for case in cases], ids, **options, report=lambda _: None)
    return rows, lengths


@pytest.mark.parametrize("size", [1, 2])
def test_methods_inside_the_language_model_prune_there(size: int) -> None:
    """FastV keeps 16 tokens of each of a picture's tiles behind its first layers; SparseVLM fewer still at the end."""
    subject = tiny_subject()
    (_, dense), (_, fastv), (_, sparse) = (ask(subject, [case], size) for case in ("dense", "fastv:16", "sparsevlm:16"))
    tiles = len(throughput.prepare_pixels([picture()], subject.image_processor, subject.model.config)[0])
    assert fastv == {TEXT + 16 * tiles}
    assert max(sparse) < min(fastv) < min(dense)


def picture() -> Any:
    return throughput.picture_of(max(SIZE)).crop((0, 0, *SIZE))


def test_every_path_answers_in_batches_by_its_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    subject, by, encoded = tiny_subject(), [], []
    tower = subject.model.get_vision_tower()
    own = throughput.answer_batch

    def noted(model: Any, words: Any, batch: Any, decoding: Any, fast: Any) -> Any:
        by.append((type(fast).__name__, len(batch)))
        encoded.append(type(tower.encode).__name__)
        replies = own(model, words, batch, decoding, fast)
        assert {len(reply.text.split()) for reply in replies} == {2}
        return replies

    monkeypatch.setattr(throughput, "answer_batch", noted)
    cases = ["dense", "dense:lean", "visionzip:16:fast", "visionzip:16:official"]
    rows, _ = ask(subject, cases, 2)
    assert [(row["case"], row["batch"]) for row in rows] == [(parse_case(case).label, 2) for case in cases]
    assert set(by) == {("NoneType", 2), ("LeanGenerator", 2), ("FastGenerator", 2)}
    assert encoded.count("OfficialStyle") == 2 + 2  # batches of the warm-up and of the round
    assert tower.compressor is None and "encode" not in vars(tower)


def test_a_prompt_of_numerals_has_the_ids_it_was_made_of() -> None:
    ids = question_for(tiny_subject(), TEXT).ids[0]
    assert tokenizer_image_token(Numerals.text(ids), Numerals()) == ids.tolist()
    assert IMAGE_TOKEN_INDEX in ids
