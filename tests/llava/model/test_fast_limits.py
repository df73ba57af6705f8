"""What the fast path refuses of models in 8 or 4 bit; what else it refuses stands in test_fast.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from llava.constants import IMAGE_TOKEN_INDEX
from llava.model.builder import load_pretrained_model
from llava.model.fast import FastGenerator
from llava.model.fast_limits import check_model
from tests.tiny import tiny_images
from tests.tiny_checkpoints import tiny_vicuna_llava, write_v15

pytest.importorskip("bitsandbytes")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bits")
    return write_v15(tiny_vicuna_llava(root), root / "llava-tiny-v1.5", dtype=torch.float32)


def load(folder: Path, **bits: bool) -> Any:
    return load_pretrained_model(str(folder), None, "x", device="cpu", **bits)[1]


def test_8_bit_and_graphs(folder: Path) -> None:
    """Said before a device is looked for, so that this needs none; without graphs 8 bit is answered as elsewhere."""
    model = load(folder, load_8bit=True)
    with pytest.raises(ValueError, match=r"model\.layers\.0\.\S+ is in 8 bit .* waits .*graphs=False"):
        check_model(model, 256, graphs=True)
    ids = torch.tensor([[1, 300, IMAGE_TOKEN_INDEX, 17, 290, 44]])
    asked = {"images": tiny_images(1), "max_new_tokens": 6, "pad_token_id": 0}
    with FastGenerator(model, max_length=256, graphs=False) as fast:
        assert torch.equal(fast(ids, **asked), model.generate(ids, do_sample=False, **asked))


def test_4_bit_is_not_refused_for_its_bits(folder: Path) -> None:
    model = load(folder, load_4bit=True)
    with pytest.raises(ValueError, match="graphs need a CUDA device"):
        check_model(model, 256, graphs=True)
