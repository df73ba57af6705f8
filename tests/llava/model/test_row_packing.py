"""Packed rows give the loss and the gradients of padded ones."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.model.row_attention import row_attention
from llava.model.row_packing import pack_rows, plan_packs
from llava.model.splice import TextRow
from tests.tiny import FAMILIES, LARGE, SMALL, tiny_anyres_llava, tiny_images, tiny_llava
from visionzip import visionzip

IMG, X = IMAGE_TOKEN_INDEX, IGNORE_INDEX


def row(first, length):
    values = torch.arange(first, first + length)
    return TextRow(values[:, None].float(), values)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 60))
def test_every_row_has_one_place_and_no_pack_is_overfull(lengths, capacity):
    packs = plan_packs(lengths, capacity)
    assert sorted(row for pack in packs for row in pack) == list(range(len(lengths)))
    for pack in packs:
        assert len(pack) == 1 or sum(lengths[row] for row in pack) <= capacity
    # first fit: no two packs could be one
    sums = sorted(sum(lengths[row] for row in pack) for pack in packs)
    assert len(sums) < 2 or sums[0] + sums[1] > capacity


def test_layout_of_packs():
    batch = pack_rows([row(10, 3), row(20, 2), row(30, 4)], 5)
    assert batch.embeds[..., 0].tolist() == [[30, 31, 32, 33, 0], [10, 11, 12, 20, 21]]
    assert batch.labels.tolist() == [[X, 31, 32, 33, X], [X, 11, 12, X, 21]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 0], [0, 1, 2, 0, 1]]
    assert batch.mask.tolist() == [[True, True, True, True, False], [True] * 5]


def batch_of(images, lengths=(9, 14, 5, 11), pictures=(0, 1, None, 2)):
    """Rows of different length, one without a picture (it owns a blank one), padded on the right."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    labels = torch.full_like(ids, X)
    mask = torch.zeros_like(ids)
    for number, (length, picture) in enumerate(zip(lengths, pictures, strict=True)):
        ids[number, :length] = torch.randint(3, 300, (length,), generator=generator)
        labels[number, 3:length] = ids[number, 3:length]
        mask[number, :length] = 1
        if picture is not None:
            ids[number, 2] = IMG
    chosen = [images[0] if picture is None else images[picture] for picture in pictures]
    return {"input_ids": ids, "labels": labels, "attention_mask": mask, "images": chosen}


def loss_and_gradients(model, batch, **options):
    model = copy.deepcopy(model).train()
    loss = model(**batch, **options).loss
    loss.backward()
    return loss, {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


def assert_same(first, second):
    torch.testing.assert_close(first[0], second[0], atol=1e-5, rtol=1e-5)
    assert first[1].keys() == second[1].keys()
    for name, gradient in first[1].items():
        torch.testing.assert_close(gradient, second[1][name], atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_loss_and_gradients_equal_padded_ones(tmp_path, family, attention):
    model = visionzip(tiny_llava(tmp_path, family, image_size=LARGE), 10, 2)
    model.set_attn_implementation(attention)
    batch = batch_of(list(tiny_images(3, LARGE)))
    padded = loss_and_gradients(model, batch)
    assert any("mm_projector" in name for name in padded[1])
    assert_same(padded, loss_and_gradients(model, batch, loss_only=True))
    for length in (16, 40, 2048):
        assert_same(padded, loss_and_gradients(model, batch, loss_only=True, pack_length=length))
    assert_same(padded, loss_and_gradients(model, batch, pack_length=2048))
    before = copy.deepcopy(model.config)
    with row_attention(model.config, 2048):
        assert model.config._attn_implementation == f"llava_rows_{attention}"
        assert_same(padded, loss_and_gradients(model, batch))  # padded rows there as well
        assert_same(padded, loss_and_gradients(model, batch, loss_only=True, pack_length=16))  # one pack all the same
        whole = {**batch, "input_ids": batch["input_ids"][1:2], "labels": batch["labels"][1:2], "attention_mask": None}
        alone = loss_and_gradients(model, {**whole, "images": batch["images"][1:2]}, loss_only=True)
    assert model.config._attn_implementation == before._attn_implementation == attention
    assert f"llava_rows_{attention}" not in ALL_ATTENTION_FUNCTIONS
    assert_same(loss_and_gradients(model, {**whole, "images": batch["images"][1:2]}, loss_only=True), alone)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_not_seen_where_rows_attend_alone(tmp_path, family, attention, side):
    """Text alone is never packed, and comes as it was padded."""
    model = tiny_llava(tmp_path, family, image_size=SMALL).eval()
    model.set_attn_implementation(attention)
    ids = torch.randint(5, 90, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    real = slice(4, None) if side == "left" else slice(None, 5)
    mask[1] = 0
    mask[1, real] = 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with row_attention(model.config, 2048), torch.no_grad():
        alone = model(input_ids=ids[1:, real]).logits
        for other in (1, 77):  # what stands in the padding does not matter
            padded = model(input_ids=ids.where(mask.bool(), other), attention_mask=mask, position_ids=positions).logits
            torch.testing.assert_close(padded[1:, real], alone, atol=1e-5, rtol=1e-5)
            assert padded.isfinite().all()
    with torch.no_grad():
        plain = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits
    torch.testing.assert_close(padded[0], plain[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(padded[1, real], plain[1, real], atol=1e-5, rtol=1e-5)


def test_rows_of_a_pack_do_not_see_each_other(tmp_path):
    """Break the isolation (positions that run on) and the loss changes: the test above could fail."""
    model = tiny_llava(tmp_path, image_size=SMALL).train()
    batch = batch_of(list(tiny_images(3, SMALL)))
    _, positions, mask, _, embeds, labels = model.prepare_packed(
        batch["input_ids"], batch["attention_mask"], batch["labels"], batch["images"], pack_length=2048
    )
    assert mask is None
    assert embeds.shape[0] == 1
    apart = model(inputs_embeds=embeds, position_ids=positions, labels=labels, loss_only=True).loss
    joined = torch.arange(embeds.shape[1])[None]
    together = model(inputs_embeds=embeds, position_ids=joined, labels=labels, loss_only=True).loss
    assert abs(apart - together) > 1e-3


def test_packed_anyres_rows_of_different_length(tmp_path):
    model = tiny_anyres_llava(tmp_path, image_size=LARGE)
    images = [tiny_images(count, LARGE, seed=count) for count in (5, 3, 3)]
    sizes = [(2 * LARGE, 2 * LARGE), (2 * LARGE, LARGE), (2 * LARGE, LARGE), (LARGE, 2 * LARGE)]
    batch = batch_of(images, pictures=(0, 1, None, 2))
    batch["image_sizes"] = [sizes[0], sizes[1], sizes[0], sizes[3]]
    padded = loss_and_gradients(model, batch)
    assert_same(padded, loss_and_gradients(model, batch, loss_only=True, pack_length=2048))


def test_gradient_checkpointing_goes_with_packs(tmp_path):
    model = visionzip(tiny_llava(tmp_path, image_size=LARGE), 10, 2)
    batch = batch_of(list(tiny_images(3, LARGE)))
    plain = loss_and_gradients(model, batch, loss_only=True, pack_length=2048)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert_same(plain, loss_and_gradients(model, batch, loss_only=True, pack_length=2048))
    with row_attention(model.config, 2048):
        assert_same(plain, loss_and_gradients(model, batch, loss_only=True, pack_length=2048))


def test_a_sliding_window_keeps_its_own_attention(tmp_path):
    model = tiny_llava(tmp_path, "mistral", image_size=SMALL, sliding_window=8)
    with row_attention(model.config, 2048):
        assert model.config._attn_implementation == "sdpa"


def test_flash_attention_gets_one_pack(tmp_path):
    model = tiny_llava(tmp_path, image_size=SMALL)
    assert model._capacity(64) == 64
    model.config._attn_implementation = "flash_attention_2"
    assert model._capacity(64) > 1_000_000
