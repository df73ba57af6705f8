"""Rows to samples: the same pixels as evaluation, a zero tile for text rows, and errors that name the row."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.data.dataset import LazySupervisedDataset
from llava.data.subset import make_subset
from llava.mm_utils import load_image, process_images
from llava.model.tokenizer import load_tokenizer
from tests.tiny import SMALL, tiny_image_processor
from tests.tiny_text import build_sentencepiece

PINPOINTS = [[SMALL, 2 * SMALL], [2 * SMALL, SMALL], [2 * SMALL, 2 * SMALL]]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_tokenizer(build_sentencepiece(tmp_path_factory.mktemp("tokenizer")))


def rows() -> list[dict[str, Any]]:
    def talk(question: str) -> list[dict[str, str]]:
        return [{"from": "human", "value": question}, {"from": "gpt", "value": "It is red."}]

    return [
        {"id": "wide", "image": "coco/wide.png", "conversations": talk("<image>\nWhat colour is it?")},
        {"id": "two", "image": ["coco/wide.png", "coco/tall.png"], "conversations": talk("<image> and <image>?")},
        {"id": "text", "conversations": talk("Is red a colour?")},
        {"id": "gone", "image": "coco/gone.png", "conversations": talk("<image>\nWhat?")},
        {"id": "broken", "image": "coco/broken.png", "conversations": talk("<image>\nWhat?")},
    ]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "coco").mkdir()
    Image.effect_noise((80, 30), 60).convert("L").save(tmp_path / "coco" / "wide.png")
    Image.new("RGB", (20, 70), (200, 0, 0)).save(tmp_path / "coco" / "tall.png")
    (tmp_path / "coco" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n half a file")
    path = tmp_path / "mix.json"
    path.write_text(json.dumps(rows()))
    return path


def make(data: Path, tokenizer: Any, aspect: str = "pad", **more: Any) -> LazySupervisedDataset:
    settings: dict[str, Any] = {
        "version": "v1",
        "image_folder": data.parent,
        "image_processor": tiny_image_processor(),
        "model_cfg": SimpleNamespace(image_aspect_ratio=aspect, image_grid_pinpoints=PINPOINTS),
    }
    return LazySupervisedDataset(data, tokenizer, **(settings | more))


def indices(dataset: LazySupervisedDataset) -> list[int]:
    return [origin.index for origin in dataset.chosen.origins]


@pytest.mark.parametrize(("aspect", "shape"), [("pad", (3, SMALL, SMALL)), ("anyres", (3, 3, SMALL, SMALL))])
def test_pixels_are_those_of_evaluation(data: Path, tokenizer: Any, aspect: str, shape: tuple[int, ...]) -> None:
    dataset = make(data, tokenizer, aspect)
    sample = dataset[0]
    picture = load_image(data.parent / "coco/wide.png")
    expected = process_images([picture], dataset.image_processor, dataset.model_cfg)[0]
    assert sample["images"][0].shape == shape
    assert torch.equal(sample["images"][0], expected)
    assert sample["image_sizes"] == [(80, 30)]


def test_answer_is_learned_and_image_is_not(data: Path, tokenizer: Any) -> None:
    sample = make(data, tokenizer)[0]
    learned = sample["labels"][sample["labels"] != IGNORE_INDEX]
    assert tokenizer.decode(learned) == "It is red.</s>"
    assert int((sample["input_ids"] == IMAGE_TOKEN_INDEX).sum()) == 1
    assert len(sample["input_ids"]) == len(sample["labels"])


def test_row_with_two_images(data: Path, tokenizer: Any) -> None:
    sample = make(data, tokenizer)[1]
    assert len(sample["images"]) == 2
    assert sample["image_sizes"] == [(80, 30), (20, 70)]
    assert int((sample["input_ids"] == IMAGE_TOKEN_INDEX).sum()) == 2


@pytest.mark.parametrize(("aspect", "shape"), [("pad", (3, SMALL, SMALL)), ("anyres", (1, 3, SMALL, SMALL))])
def test_text_row_carries_a_zero_tile(data: Path, tokenizer: Any, aspect: str, shape: tuple[int, ...]) -> None:
    sample = make(data, tokenizer, aspect)[2]
    assert [image.shape for image in sample["images"]] == [shape]
    assert sample["images"][0].abs().sum() == 0
    assert sample["image_sizes"] == [(SMALL, SMALL)]


def test_cut_row_keeps_images_and_placeholders_equal(data: Path, tokenizer: Any, monkeypatch: Any) -> None:
    dataset = make(data, tokenizer)
    whole = dataset[1]["input_ids"].tolist()
    monkeypatch.setattr(tokenizer, "model_max_length", whole.index(IMAGE_TOKEN_INDEX) + 1)
    sample = dataset[1]
    assert len(sample["input_ids"]) == len(sample["labels"]) == whole.index(IMAGE_TOKEN_INDEX) + 1
    assert len(sample["images"]) == 1


@pytest.mark.parametrize(("position", "words"), [(3, ["row 3", "gone", "coco/gone.png"]), (4, ["row 4", "broken.png"])])
def test_missing_and_broken_images_stop_with_file_and_row(
    data: Path, tokenizer: Any, position: int, words: list[str]
) -> None:
    with pytest.raises(ValueError) as error:
        make(data, tokenizer)[position]
    for word in [str(data), *words]:
        assert word in str(error.value)


def test_so_many_broken_images_as_allowed_carry_no_loss(data: Path, tokenizer: Any, caplog: Any) -> None:
    dataset = make(data, tokenizer, max_bad_rows=1)
    sample = dataset[3]
    assert sample["labels"].tolist() == [-100]
    assert len(sample["images"]) == 1
    assert "coco/gone.png" in caplog.text
    assert dataset.masked.positions() == [3]
    with pytest.raises(ValueError, match=r"broken\.png"):
        dataset[4]


def test_manifest_chooses_rows_and_lengths_follow(data: Path, tokenizer: Any, tmp_path: Path) -> None:
    manifest = tmp_path / "m.json"
    make_subset(data, 0.4).save(manifest)
    dataset = make(data, tokenizer, subset_manifest=manifest)
    assert len(dataset) == 2
    assert len(dataset.lengths) == len(dataset.has_image) == 2
    assert [row["id"] for row in dataset.rows] == [rows()[index]["id"] for index in indices(dataset)]


def test_lengths_and_modalities(data: Path, tokenizer: Any) -> None:
    dataset = make(data, tokenizer)
    assert dataset.has_image == [True, True, False, True, True]
    assert dataset.lengths[0] == 8  # <image>, four words, three of the answer


def test_images_without_a_tower_are_refused(data: Path, tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="vision_tower"):
        make(data, tokenizer, image_processor=None)


def test_text_only_run_has_no_images(tmp_path: Path, tokenizer: Any) -> None:
    path = tmp_path / "text.json"
    path.write_text(json.dumps([rows()[2]]))
    assert set(make(path, tokenizer, image_processor=None)[0]) == {"input_ids", "labels", "name"}


def test_bad_rows_are_left_out_only_when_allowed(data: Path, tokenizer: Any) -> None:
    content = rows()
    content[1]["image"] = "coco/wide.png"
    data.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"row 1 .id two.*2 <image>"):
        make(data, tokenizer)
    assert indices(make(data, tokenizer, max_bad_rows=1)) == [0, 2, 3, 4]
