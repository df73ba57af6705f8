import logging

import pytest
import torch

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.model.splice import (
    RowImages,
    TextRow,
    assign_images,
    left_padded,
    pad_rows,
    splice,
    splice_batch,
    truncate,
)

I = IMAGE_TOKEN_INDEX  # noqa: E741
X = IGNORE_INDEX


def embed(ids):
    """An id's embedding is the id itself, twice."""
    assert (ids >= 0).all()
    return ids[:, None].float().expand(-1, 2)


def image(value, length):
    return torch.full((length, 2), float(value))


def test_image_tokens_become_image_rows():
    ids = torch.tensor([1, I, 5, I, 7])
    row = splice(ids, embed(torch.tensor([1, 5, 7])), torch.tensor([X, X, 5, X, 7]), [image(100, 2), image(200, 3)])
    assert row.embeds[:, 0].tolist() == [1, 100, 100, 5, 200, 200, 200, 7]
    assert row.labels.tolist() == [X, X, X, 5, X, X, X, 7]


def test_image_at_either_end_and_two_in_a_row():
    ids = torch.tensor([I, I, 4, I])
    row = splice(ids, embed(torch.tensor([4])), ids.clone(), [image(1, 1), image(2, 2), image(3, 1)])
    assert row.embeds[:, 0].tolist() == [1, 2, 2, 4, 3]
    assert row.labels.tolist() == [X, X, X, 4, X]


def test_images_take_the_embeddings_dtype():
    ids = torch.tensor([1, I])
    row = splice(ids, embed(torch.tensor([1])).bfloat16(), ids, [image(1, 2).half()])
    assert row.embeds.dtype == torch.bfloat16


def test_text_row_stays_on_the_graph_of_its_unused_image():
    unused = image(1, 4).requires_grad_()
    row = splice(torch.tensor([3, 4]), embed(torch.tensor([3, 4])), torch.tensor([3, 4]), [], unused)
    assert row.embeds[:, 0].tolist() == [3, 4]
    row.embeds.sum().backward()
    assert (unused.grad == 0).all()


def test_one_image_per_placeholder():
    assert assign_images([1, 0, 2], 3) == [RowImages((0,)), RowImages(()), RowImages((1, 2))]


def test_text_rows_own_an_image_in_the_training_convention():
    assert assign_images([1, 0, 2, 0], 5) == [
        RowImages((0,)),
        RowImages((), 1),
        RowImages((2, 3)),
        RowImages((), 4),
    ]


@pytest.mark.parametrize(
    ("placeholders", "images", "message"),
    [
        ([2], 1, "row 0 holds 2 image tokens but got 1 images"),
        ([0], 2, "row 0 holds 0 image tokens but got 2 images"),
        ([1, 2], 2, "row 1 holds 2 image tokens but only 1 images are left"),
        ([1, 1], 3, r"got 3 images for 2 image tokens \(per row: \[1, 1\]\)"),
        ([1, 0, 1], 4, "got 4 images for 2 image tokens"),
    ],
)
def test_wrong_counts_name_row_and_numbers(placeholders, images, message):
    with pytest.raises(ValueError, match=message):
        assign_images(placeholders, images)


def rows():
    return [
        TextRow(embed(torch.tensor([1, 2, 3])), torch.tensor([1, 2, 3])),
        TextRow(embed(torch.tensor([9])), torch.tensor([9])),
    ]


def test_right_padding():
    batch = pad_rows(rows(), "right")
    assert batch.embeds[:, :, 0].tolist() == [[1, 2, 3], [9, 0, 0]]
    assert batch.labels.tolist() == [[1, 2, 3], [9, X, X]]
    assert batch.mask.tolist() == [[True] * 3, [True, False, False]]
    assert batch.position_ids.tolist() == [[0, 1, 2], [0, 0, 0]]


def test_left_padding():
    batch = pad_rows(rows(), "left")
    assert batch.embeds[:, :, 0].tolist() == [[1, 2, 3], [0, 0, 9]]
    assert batch.labels.tolist() == [[1, 2, 3], [X, X, 9]]
    assert batch.mask.tolist() == [[True] * 3, [False, False, True]]
    assert batch.position_ids.tolist() == [[0, 1, 2], [0, 0, 0]]


def test_unknown_side():
    with pytest.raises(ValueError, match="tokenizer_padding_side"):
        pad_rows(rows(), "middle")


def test_left_padded_keeps_the_order_of_real_tokens():
    right, left = pad_rows(rows(), "right"), pad_rows(rows(), "left")
    for batch in (right, left):
        embeds, mask = left_padded(batch.embeds, batch.mask.long())
        assert torch.equal(embeds, left.embeds)
        assert torch.equal(mask, left.mask.long())


def test_truncation_cuts_the_end():
    cut = truncate(rows(), 2, training=True)
    assert [row.labels.tolist() for row in cut] == [[1, 2], [9]]
    assert truncate(rows(), None)[0].labels.tolist() == [1, 2, 3]


def test_truncation_that_leaves_nothing_to_learn_is_an_error_in_training():
    row = TextRow(embed(torch.tensor([1, 2, 3])), torch.tensor([X, X, 3]))
    with pytest.raises(ValueError, match="row 1 has 3 tokens with its images; cut to 2"):
        truncate([rows()[0], row], 2, training=True)
    never = TextRow(row.embeds, torch.tensor([X, X, X]))
    truncate([never], 2, training=True)  # nothing was lost by the cut


def test_truncation_outside_training_warns(caplog):
    with caplog.at_level(logging.WARNING):
        truncate(rows(), 2)
    assert "row 0 has 3 tokens" in caplog.text


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_batch_drops_input_padding_wherever_it_is(padding, side):
    """Padding id 0 inside the text is real when the mask says so."""
    full, short = [1, I, 0, 6], [8, 9]
    pad = [0, 0]
    ids = torch.tensor([full, short + pad if padding == "right" else pad + short])
    mask = torch.tensor([[1] * 4, [1, 1, 0, 0] if padding == "right" else [0, 0, 1, 1]])
    batch = splice_batch(ids, [image(50, 2)], embed, mask=mask, labels=ids.clone(), side=side)
    assert batch.embeds[0, :, 0].tolist() == [1, 50, 50, 0, 6]
    assert batch.labels[0].tolist() == [1, X, X, 0, 6]
    text = [8, 9, 0, 0, 0] if side == "right" else [0, 0, 0, 8, 9]
    assert batch.embeds[1, :, 0].tolist() == text
    assert batch.mask.sum(1).tolist() == [5, 2]


def test_batch_without_mask_and_labels():
    batch = splice_batch(torch.tensor([[1, I], [I, 2]]), [image(7, 1), image(8, 3)], embed)
    assert batch.embeds[:, :, 0].tolist() == [[1, 7, 0, 0], [8, 8, 8, 2]]
    assert (batch.labels == X).all()


def test_text_only_batch_with_dummy_images():
    features = [image(1, 2).requires_grad_(), image(2, 2).requires_grad_()]
    batch = splice_batch(torch.tensor([[1, 2], [3, 4]]), features, embed)
    assert batch.embeds[:, :, 0].tolist() == [[1, 2], [3, 4]]
    assert batch.embeds.requires_grad


@pytest.mark.parametrize("name", ["mask", "labels"])
def test_shapes_are_checked(name):
    with pytest.raises(ValueError, match=r"\(1, 3\)"):
        splice_batch(torch.tensor([[1, 2]]), [], embed, **{name: torch.ones(1, 3, dtype=torch.long)})
