"""A tiny LLaVA checkpoint and a tiny data set to train it on."""

from pathlib import Path

import pytest
import torch

from tests.tiny_checkpoints import tiny_vicuna_llava, write_plain, write_v15
from tests.tiny_data import write_data


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Released v1.5 layout, float32."""
    folder = tmp_path_factory.mktemp("base")
    model = tiny_vicuna_llava(folder)
    return write_v15(model, folder / "llava-tiny", dtype=torch.float32)


@pytest.fixture(scope="session")
def language_model(checkpoint: Path) -> Path:
    """The same language model without vision, as its makers would release it."""
    folder = checkpoint.parent
    return write_plain(tiny_vicuna_llava(folder), folder / "vicuna-tiny", dtype=torch.float32)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def words(checkpoint: Path, data: Path, tmp_path: Path) -> list[str]:
    """A short projector-only run under VisionZip; tests add flags."""
    options = {
        "model_name_or_path": checkpoint,
        "data_path": data,
        "image_folder": data.parent,
        "output_dir": tmp_path / "run",
        "tune_mm_mlp_adapter": True,
        "zip_dominant": 5,
        "zip_contextual": 2,
        "per_device_train_batch_size": 4,
        "learning_rate": 5e-3,
        "lr_scheduler_type": "cosine",
        "max_steps": 6,
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return [f"--{name}={value}" for name, value in options.items()]
