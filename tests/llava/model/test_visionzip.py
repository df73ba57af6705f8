"""VisionZip on our models, end to end: counts, order, files, budgets side by side, and the published numbers."""

import copy
import json
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from llava.constants import IMAGE_TOKEN_INDEX
from llava.model.language_model.llava_llama import LlavaLlamaForCausalLM
from llava.model.multimodal_encoder.clip_encoder import CLIPVisionTower
from tests.tiny import LARGE, tiny_anyres_llava, tiny_images, tiny_llava
from visionzip import VisionZip, attach, detach, visionzip
from visionzip.methods.pool import Pool
from visionzip.methods.random import Random
from visionzip.methods.uniform import Uniform

IMG = IMAGE_TOKEN_INDEX
GOLDEN = Path(__file__).parents[2] / "golden"
SIZE = (2 * LARGE, 2 * LARGE)  # fills a 2 x 2 canvas
IDS = torch.tensor([[1, 17, IMG, 33, 8]])


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return tiny_llava(tmp_path_factory.mktemp("square"), image_size=LARGE).requires_grad_(False)


@pytest.fixture(scope="module")
def original_anyres(tmp_path_factory):
    return tiny_anyres_llava(tmp_path_factory.mktemp("anyres"), image_size=LARGE).requires_grad_(False)


@pytest.fixture
def model(original):
    return copy.deepcopy(original)


@pytest.fixture
def anyres(original_anyres):
    return copy.deepcopy(original_anyres)


@pytest.mark.parametrize(("dominant", "contextual"), [(54, 10), (40, 8), (27, 5), (14, 2), (1, 1), (144, 1)])
def test_budget_is_the_token_count(model, dominant, contextual):
    images = tiny_images(2, LARGE)
    assert visionzip(model, dominant, contextual) is model
    assert model.encode_images(images).shape == (2, dominant + contextual, 48)
    assert model(IDS, images=images[:1]).logits.shape[1] == 4 + dominant + contextual
    assert model.generate(IDS, images=images[:1], max_new_tokens=3, eos_token_id=None).shape == (1, 3)


def test_zipped_features_are_the_projected_output_of_the_method(model):
    """Nothing between compressor and projector: encode, select, merge, project."""
    dense = copy.deepcopy(model).get_vision_tower()
    visionzip(model, 40, 8)
    tokens = model.get_vision_tower().encode(tiny_images(1, LARGE))
    torch.testing.assert_close(
        model.encode_images(tiny_images(1, LARGE)), model.get_model().mm_projector(tokens.features)
    )
    kept = tokens.positions[0, 1:40]
    torch.testing.assert_close(tokens.features[0, 1:40], dense(tiny_images(1, LARGE))[0, kept])


def test_detach_gives_the_dense_model_back_bit_for_bit(model):
    images, config = tiny_images(1, LARGE), model.config.to_dict()
    before = model(IDS, images=images).logits
    visionzip(model, 40, 8)
    assert model(IDS, images=images).logits.shape != before.shape
    assert detach(model) is model
    assert torch.equal(model(IDS, images=images).logits, before)
    assert model.config.to_dict() == config


def test_two_budgets_and_dense_in_one_process(model):
    images = tiny_images(1, LARGE)
    small, large = visionzip(copy.deepcopy(model), 14, 2), visionzip(copy.deepcopy(model), 40, 8)
    want = [m(IDS, images=images).logits for m in (model, small, large)]
    assert [w.shape[1] for w in want] == [148, 20, 52]
    for _ in range(2):  # interleaved, in another order
        for m, logits in reversed(list(zip((model, small, large), want, strict=True))):
            assert torch.equal(m(IDS, images=images).logits, logits)


def test_a_second_call_changes_the_budget(model):
    visionzip(visionzip(model, 40, 8), 14, 2)
    assert model.encode_images(tiny_images(1, LARGE)).shape[1] == 16
    assert model.config.mm_compressor["dominant"] == 14


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_of_a_zipped_model(model, clone):
    visionzip(model, 40, 8)
    want = model(IDS, images=tiny_images(1, LARGE)).logits
    twin = clone(model)
    assert torch.equal(twin(IDS, images=tiny_images(1, LARGE)).logits, want)
    detach(twin)
    assert twin(IDS, images=tiny_images(1, LARGE)).logits.shape[1] == 148
    assert torch.equal(model(IDS, images=tiny_images(1, LARGE)).logits, want)


@pytest.mark.parametrize("order", ["official", "spatial"])
def test_a_saved_model_reopens_zipped(anyres, tmp_path, order):
    visionzip(anyres, 27, 5, order=order)
    arguments = {"images": [tiny_images(5, LARGE)], "image_sizes": [SIZE]}
    want = anyres(IDS, **arguments).logits
    anyres.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["mm_compressor"] == {"method": "visionzip", "dominant": 27, "contextual": 5, "merge": "official"}
    assert stored["mm_compressed_order"] == order
    again = LlavaLlamaForCausalLM.from_pretrained(tmp_path)
    assert again.get_vision_tower().compressor == VisionZip(27, 5)
    torch.testing.assert_close(again(IDS, **arguments).logits, want, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("tiles", "size", "total"),
    [(5, SIZE, 320), (5, (320, 240), 320), (4, (500, 160), 256), (1, (50, 50), 65)],
)
def test_official_anyres_counts(anyres, tiles, size, total):
    """54 + 10 per tile whatever the padding; a single tile gets its newline."""
    visionzip(anyres, 54, 10)
    (sequence,) = anyres.image_sequences([tiny_images(tiles, LARGE)], [size])
    assert len(sequence) == total


def test_spatial_order_drops_padding_and_ends_lines(anyres):
    visionzip(anyres, 54, 10, order="spatial")
    tokens = anyres.get_vision_tower().encode(tiny_images(5, LARGE))
    full, cut = (len(anyres.image_sequences([tiny_images(5, LARGE)], [size])[0]) for size in (SIZE, (320, 240)))
    y = torch.arange(4)[:, None] // 2 * 12 + tokens.positions[1:, 1:54] // 12
    assert full == 320 + len(y.unique())
    inside = (y >= 3) & (y < 21)  # 320 x 240 on 24 x 24 cells keeps the middle 18 rows
    assert cut == 64 + int(inside.sum()) + len(y[inside].unique()) + 4 + 40


def test_dense_is_the_identity_case_of_spatial_order(anyres):
    """A method that keeps all 144 patches gives the dense sequence, newlines and all."""
    images, size = [tiny_images(5, LARGE)], [(320, 240)]
    (dense,) = anyres.image_sequences(images, size)
    attach(anyres, Uniform(144), "spatial")
    (kept,) = anyres.image_sequences(images, size)
    torch.testing.assert_close(kept, dense, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("order", ["official", "spatial"])
def test_batched_equals_one_by_one(anyres, order):
    visionzip(anyres, 27, 5, order=order)
    images, sizes = [tiny_images(5, LARGE), tiny_images(4, LARGE, seed=1)], [(320, 240), (500, 160)]
    ids = torch.tensor([[1, IMG, 5, 6], [1, IMG, 7, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    settings = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
    logits = anyres(ids, images=images, image_sizes=sizes, attention_mask=mask).logits
    answers = anyres.generate(ids, images=images, image_sizes=sizes, attention_mask=mask, **settings)
    for row in range(2):
        alone = {"images": images[row : row + 1], "image_sizes": sizes[row : row + 1]}
        prompt = ids[row : row + 1, : int(mask[row].sum())]
        want = anyres(prompt, **alone).logits[0]
        torch.testing.assert_close(logits[row, : len(want)], want, rtol=1e-4, atol=1e-4)
        assert answers[row].tolist() == anyres.generate(prompt, **alone, **settings)[0].tolist()


@pytest.mark.parametrize("method", [Random(32), Uniform(32), Pool(32)])
@pytest.mark.parametrize("order", ["official", "spatial"])
def test_controls_fit_the_same_slot(anyres, method, order):
    attach(anyres, method, order)
    assert anyres.encode_images(tiny_images(2, LARGE)).shape == (2, 32, 48)
    (sequence,) = anyres.image_sequences([tiny_images(5, LARGE)], [SIZE])
    assert len(sequence) == 160 if order == "official" else len(sequence) >= 160


@pytest.mark.parametrize("checkpointing", [False, True])
def test_projector_tunes_on_compressed_tokens(model, checkpointing):
    visionzip(model, 40, 8).train()
    model.get_model().mm_projector.requires_grad_(True)
    if checkpointing:
        model.gradient_checkpointing_enable()
    model(IDS, images=tiny_images(1, LARGE), labels=IDS).loss.backward()
    found = [name for name, p in model.named_parameters() if p.grad is not None]
    assert all("mm_projector" in name for name in found)
    assert len(found) == 4


def test_a_budget_that_does_not_fit(model):
    with pytest.raises(ValueError, match="144"):
        visionzip(model, 140, 20)
    assert model.get_vision_tower().compressor is None


def test_order_is_read_from_the_config_at_call_time(anyres):
    visionzip(anyres, 54, 10)
    anyres.config.mm_compressed_order = "raster"
    with pytest.raises(ValueError, match="known: official, spatial"):
        anyres.image_sequences([tiny_images(5, LARGE)], [SIZE])


# --- the published code's numbers, through the tower


@pytest.fixture(scope="module")
def golden():
    numbers = load_file(GOLDEN / "zip_core.safetensors")
    mean = torch.tensor((0.48145466, 0.4578275, 0.40821073), dtype=torch.float64)
    std = torch.tensor((0.26862954, 0.26130258, 0.27577711), dtype=torch.float64)
    pixels = ((numbers["pixels_u8"].double() / 255 - mean) / std).float().permute(2, 0, 1)[None]
    return numbers, pixels, CLIPVisionTower(str(GOLDEN / "tower"), SimpleNamespace()).eval()


def test_golden_dense(golden):
    numbers, pixels, tower = golden
    torch.testing.assert_close(tower(pixels), numbers["dense"], rtol=1e-5, atol=1e-5)


def test_golden_budgets(golden):
    numbers, pixels, tower = golden
    budgets = [tuple(map(int, key.split("_")[1:])) for key in numbers if key.startswith("features_")]
    assert budgets
    for dominant, contextual in budgets:
        visionzip(tower, dominant, contextual)
        tokens = tower.encode(pixels)
        torch.testing.assert_close(tokens.features, numbers[f"features_{dominant}_{contextual}"], rtol=1e-5, atol=1e-5)
        kept = numbers[f"indices_{dominant}_{contextual}"][0, 1:].sort()[0] - 1
        assert tokens.positions[0, 1:dominant].tolist() == kept.tolist()
    detach(tower)
