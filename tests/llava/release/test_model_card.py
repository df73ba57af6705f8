"""The card: front matter the hub reads, code that runs, and figures from records only."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from llava.release.model_card import write_card
from tests.llava.release.test_results import write_record
from tests.tiny_release import ZIP, tuned_projector, write_checkpoint


@pytest.fixture
def folder(v15: Path, tmp_path: Path) -> Path:
    return tuned_projector(v15, tmp_path / "tuned", mm_vision_tower="org/tower")


def rewrite(file: Path, **keys: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | keys))


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


def test_results_come_from_records_of_these_weights(folder: Path, v15: Path, tmp_path: Path) -> None:
    write_record(tmp_path / "results", folder, "visionzip-7", 7)
    write_record(tmp_path / "results", v15, "visionzip-8", 8)
    _, body = parts(write_card(folder, "me/mini", "llama2", results=tmp_path / "results"))
    assert "| visionzip | 7 | 50 | 81.2 |" in body and "gqa 4, pope 8" in body and "`c0ffee`" in body
    assert "| visionzip | 8 |" not in body
    assert "Left out: 2 records of the same folder (2 measured on other weights)." in body


def test_every_figure_of_the_results_is_recorded(folder: Path, tmp_path: Path) -> None:
    write_record(tmp_path / "results", folder, "dense", None)
    _, body = parts(write_card(folder, "me/mini", "llama2", results=tmp_path / "results"))
    section = body.split("## Results")[1].split("## Limits")[0]
    figures = set(re.findall(r"(?<![\w.-])\d+(?:\.\d+)?(?![\w-])", section.replace("`c0ffee`", "")))
    assert figures == {"144", "50", "81.2", "100.0", "8", "4"}


def test_usage_code_runs(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, mm_compressor=ZIP, mm_vision_tower="org/tower")
    _, body = parts(write_card(folder, str(folder), "llama2", base_model="org/base"))
    code = body.split("```python\n")[1].split("```")[0]
    assert "model = visionzip(model, dominant=5, contextual=2)" in code
    scope: dict = {}
    exec(code, scope)
    assert scope["model"].get_vision_tower().compressor.to_config().items() >= ZIP.items()


def test_a_dense_release_is_used_without_a_compressor(folder: Path) -> None:
    rewrite(folder / "config.json", mm_compressor=None)
    _, body = parts(write_card(folder, "me/mini", "llama2"))
    assert "visionzip" not in body.split("```python\n")[1].split("```")[0]


def test_the_recipe_says_what_was_used(folder: Path) -> None:
    """LoRA's rank has a default in every run; it counts where adapters were trained."""
    run = json.loads((folder / "run.json").read_text())
    training = run["arguments"]["training"] | {"lora_r": 64, "lora_enable": False}
    rewrite(folder / "run.json", arguments=run["arguments"] | {"training": training})
    _, body = parts(write_card(folder, "me/mini", "llama2"))
    assert "LoRA" not in body and "cache" not in body and "packing" not in body
    training |= {"lora_enable": True, "pack_sequences": True, "warmup_steps": 0.03}
    arguments = run["arguments"] | {"training": training, "data": {"feature_cache": "features"}}
    rewrite(folder / "run.json", arguments=arguments)
    _, body = parts(write_card(folder, "me/mini", "llama2"))
    assert "| LoRA rank | 64 |" in body and "read from a cache" in body and "| packing | several rows" in body
    assert "| warm-up, share of the steps if below 1 | 0.03 |" in body


def test_an_export_is_for_transformers(exported: Path, tmp_path: Path) -> None:
    release = shutil.copytree(exported, tmp_path / "exported")
    layout = json.loads((release / "config.json").read_text())["llava_layout"]
    rewrite(release / "config.json", llava_layout=layout | {"mm_vision_tower": "org/tower"})
    front, body = parts(write_card(release, "me/mini-hf", "llama2", base_model="org/base"))
    assert front["library_name"] == "transformers" and "visionzip" in front["tags"]
    assert "AutoModelForImageTextToText" in body and "from-hf me/mini-hf" in body


def test_licence_and_base_must_be_known(folder: Path, v15: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the licence of org/base is not known here: pass --license"):
        write_card(folder, "me/mini")
    base = tmp_path / "base"
    base.mkdir()
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Base\n")
    run = json.loads((folder / "run.json").read_text())
    rewrite(folder / "run.json", arguments={"model": {"model_name_or_path": str(base)}})
    with pytest.raises(ValueError, match=r"the base model is '.*base', a place of this machine.*pass --base-model"):
        write_card(folder, "me/mini")
    front, _ = parts(write_card(folder, "me/mini", base_model="org/base"))
    assert front["license"] == "apache-2.0" and front["base_model"] == "org/base"
    (folder / "run.json").write_text(json.dumps(run | {"arguments": {}}))
    with pytest.raises(ValueError, match="pass --base-model"):
        write_card(folder, "me/mini", "llama2")
