"""From rows to a batch."""

import pytest
import torch

from llava.data.collator import DataCollatorForSupervisedDataset

COLLATE = DataCollatorForSupervisedDataset(pad_token_id=0)


def sample(ids: list[int], **more: object) -> dict[str, object]:
    return {"input_ids": torch.tensor(ids), "labels": torch.tensor(ids), **more}


def test_right_padding_and_mask_from_lengths() -> None:
    """Id 0 is padding and <unk> at once; a real 0 inside a row stays visible."""
    batch = COLLATE([sample([1, 0, 5]), sample([1, 7, 8, 9, 2])])
    assert batch["input_ids"].tolist() == [[1, 0, 5, 0, 0], [1, 7, 8, 9, 2]]
    assert batch["labels"].tolist() == [[1, 0, 5, -100, -100], [1, 7, 8, 9, 2]]
    assert batch["attention_mask"].tolist() == [[True, True, True, False, False], [True] * 5]
    assert "images" not in batch


def test_images_are_stacked_in_row_order_with_sizes() -> None:
    images = [torch.full((3, 4, 4), float(value)) for value in range(3)]
    batch = COLLATE([
        sample([1], images=images[:2], image_sizes=[(8, 4), (4, 4)]),
        sample([1], images=images[2:], image_sizes=[(5, 9)]),
    ])
    assert batch["images"].shape == (3, 3, 4, 4)
    assert batch["images"][:, 0, 0, 0].tolist() == [0, 1, 2]
    assert batch["image_sizes"] == [(8, 4), (4, 4), (5, 9)]


def test_images_are_there_when_only_a_later_row_has_one() -> None:
    batch = COLLATE([sample([1]), sample([1], images=[torch.ones(3, 4, 4)], image_sizes=[(4, 4)])])
    assert batch["images"].shape == (2, 3, 4, 4)
    assert batch["images"][0].abs().sum() == 0
    assert batch["image_sizes"][0] == (4, 4)


def test_tiles_stay_a_list_and_text_rows_get_one_tile() -> None:
    tiles = torch.ones(5, 3, 4, 4)
    batch = COLLATE([sample([1], images=[tiles], image_sizes=[(8, 8)]), sample([1])])
    assert [image.shape for image in batch["images"]] == [(5, 3, 4, 4), (1, 3, 4, 4)]


def test_ids_and_labels_must_match() -> None:
    with pytest.raises(ValueError, match="3 ids but 2 labels"):
        COLLATE([{"input_ids": torch.ones(3, dtype=torch.long), "labels": torch.ones(2, dtype=torch.long)}])
