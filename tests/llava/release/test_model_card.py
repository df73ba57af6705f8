"""The card: front matter the hub reads, code that runs, and figures from records only."""

import json
import re
from pathlib import Path

import pytest
import yaml

from llava.release.model_card import write_card
from tests.llava.release.test_results import write_record
from tests.tiny_release import tuned_projector, write_checkpoint


@pytest.fixture
def folder(v15: Path, tmp_path: Path) -> Path:
    return tuned_projector(v15, tmp_path / "tuned")


def parts(card: Path) -> tuple[dict, str]:
    _, front, body = card.read_text().split("---\n", 2)
    return yaml.safe_load(front), body


def test_front_matter(folder: Path) -> None:
    front, body = parts(write_card(folder, "me/mini", "llama2", datasets=["org/mix"]))
    assert front == {
        "license": "llama2",
        "base_model": "org/base",
        "pipeline_tag": "image-text-to-text",
        "library_name": "llava-visionzip",
        "tags": ["llava", "vision-language-model", "visionzip"],
        "datasets": ["org/mix"],
    }
    assert body.lstrip().startswith("# mini\n") and "visionzip** (dominant 5, contextual 2)" in body


def test_recipe_and_absent_results(folder: Path) -> None:
    _, body = parts(write_card(folder, "me/mini", "llama2"))
    assert "| learning rate | 2e-05 |" in body and "| data sha256 | " + "ab" * 32 in body and "| steps | 6 |" in body
    assert "Not measured." in body and "No benchmark figure is claimed." in body
    assert 'load_pretrained_model("me/mini", "org/base", None)' in body  # a projector alone loads over its base


def test_results_come_from_records(folder: Path, tmp_path: Path) -> None:
    write_record(tmp_path / "results", "visionzip-7", 7)
    _, body = parts(write_card(folder, "me/mini", "llama2", results=tmp_path / "results"))
    assert "| visionzip | 7 | 50 | 81.2 | 65.6 |" in body and "pope 8, gqa 4" in body and "`c0ffee`" in body


def test_every_figure_of_the_results_is_recorded(folder: Path, tmp_path: Path) -> None:
    write_record(tmp_path / "results", "dense", None)
    _, body = parts(write_card(folder, "me/mini", "llama2", results=tmp_path / "results"))
    section = body.split("## Results")[1].split("## Limits")[0]
    figures = set(re.findall(r"(?<![\w.-])\d+(?:\.\d+)?(?![\w-])", section.replace("`c0ffee`", "")))
    assert figures == {"144", "50", "81.2", "65.6", "8", "4"}


def test_usage_code_runs(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, mm_compressor={"method": "visionzip", "dominant": 5, "contextual": 2})
    _, body = parts(write_card(folder, str(folder), "llama2", base_model="org/base"))
    code = body.split("```python\n")[1].split("```")[0].replace("dominant=54", "dominant=3")
    code = code.replace("contextual=10", "contextual=1")
    scope: dict = {}
    exec(code, scope)
    assert scope["model"].get_vision_tower().compressor.dominant == 3


def test_an_export_is_for_transformers(exported: Path, v15: Path) -> None:
    front, body = parts(write_card(exported, "me/mini-hf", "llama2", base_model="org/base"))
    (exported / "README.md").unlink()
    assert front["library_name"] == "transformers" and "visionzip" in front["tags"]
    assert "AutoModelForImageTextToText" in body and "from-hf me/mini-hf" in body


def test_licence_and_base_must_be_known(folder: Path, v15: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the licence of org/base is not known here: pass --license"):
        write_card(folder, "me/mini")
    base = tmp_path / "base"
    base.mkdir()
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Base\n")
    assert parts(write_card(folder, "me/mini", base_model=str(base)))[0]["license"] == "apache-2.0"
    run = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(run | {"arguments": {}}))
    with pytest.raises(ValueError, match="pass --base-model"):
        write_card(folder, "me/mini", "llama2")
