"""The probe is the same on every run and notices what changed."""

import json
from pathlib import Path

import pytest
import torch

from llava.release.probe import RECORDED, check_probe, draw_picture, probe_logits, record_probe
from tests.tiny_release import ZIP, hf_logits, llava_logits


@pytest.fixture(scope="module")
def probe(v15: Path):
    return record_probe(v15, None, "float32", "cpu")


def test_it_is_the_models_answer(v15: Path, probe: dict) -> None:
    _, logits = llava_logits(v15, probe["question"], "vicuna_v1")
    assert probe["tokens"] == logits[-1].topk(RECORDED).indices.tolist()
    assert probe["logits"] == pytest.approx(logits[-1][probe["tokens"]].tolist(), abs=1e-5)
    json.dumps(probe)


def test_it_repeats(v15: Path, probe: dict) -> None:
    assert check_probe(probe, v15, None, "cpu") < 1e-5
    assert draw_picture().tobytes() == draw_picture().tobytes() and draw_picture().size == (200, 120)


def test_a_changed_budget_shows(v15: Path, probe: dict, tmp_path: Path) -> None:
    """Nothing but the compressor in config.json differs."""
    other = tmp_path / "model"
    other.mkdir()
    for file in v15.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    config = json.loads((v15 / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"mm_compressor": ZIP | {"dominant": 3}}))
    with pytest.raises(ValueError, match="does not reproduce its recorded logits in float32"):
        check_probe(probe, other, None, "cpu")


def test_exports_are_probed_by_transformers(exported: Path) -> None:
    logits = probe_logits(exported, None, "float32", "cpu")
    _, theirs, _ = hf_logits(exported, "What is shown in the picture?")
    torch.testing.assert_close(logits, theirs[-1])


def test_nan_is_no_reproduction(v15: Path, probe: dict) -> None:
    with pytest.raises(ValueError, match="differ by nan"):
        check_probe(probe | {"logits": [float("nan")] * RECORDED}, v15, None, "cpu")
    with pytest.raises(ValueError, match="--dtype 'int8' is unknown"):
        record_probe(v15, None, "int8", "cpu")
