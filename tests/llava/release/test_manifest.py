"""The manifest says what is there and where it comes from, and a release that differs from it is refused."""

import json
import shutil
from pathlib import Path

import pytest

from llava.provenance import sha256_file
from llava.release.manifest import verify, write_manifest
from llava.release.merge import merge
from tests.llava.release.test_results import write_record
from tests.tiny_release import ZIP, tuned_projector


@pytest.fixture(scope="module")
def release(v15: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A merged release with its manifest."""
    home = tmp_path_factory.mktemp("release")
    shutil.copytree(v15.parent / "tower", home / "tower")
    tuned = tuned_projector(v15, home / "tuned")
    folder = merge(str(tuned), str(v15), home / "full", shard_gb=1e-4)
    write_record(home / "results", tuned, "visionzip-7", 7)
    write_record(home / "results", v15, "visionzip-8", 8)
    write_manifest(folder, results=home / "results")
    return folder


@pytest.fixture
def copy(release: Path, tmp_path: Path) -> Path:
    shutil.copytree(release.parent / "tower", tmp_path / "tower")
    return shutil.copytree(release, tmp_path / "full")


def test_what_it_says(release: Path) -> None:
    manifest = json.loads((release / "manifest.json").read_text())
    names = {path.name for path in release.iterdir()} - {"manifest.json"}
    assert manifest["files"].keys() == names and len(list(release.glob("*.safetensors"))) > 1
    config = manifest["files"]["config.json"]
    assert config == {"sha256": sha256_file(release / "config.json"), "bytes": (release / "config.json").stat().st_size}
    assert manifest["base_model"] == "org/base" and manifest["compressor"] == ZIP
    assert manifest["data"]["sha256"] == "ab" * 32 and manifest["recipe"]["stage"] == "projector"
    assert manifest["recipe"]["arguments"]["training"]["learning_rate"] == 2e-5
    assert manifest["training"]["commit"] == "c0ffee"
    assert [row["cell"] for row in manifest["metrics"]["rows"]] == ["visionzip-7"]
    assert manifest["metrics"]["left_out"] == {"measured on other weights": 2}
    assert manifest["stamp"]["commit"] and manifest["stamp"]["versions"]["torch"]


def test_a_release_verifies_wherever_it_lies(copy: Path) -> None:
    (copy / ".gitattributes").write_text("the hub adds this")
    assert verify(copy)["format"] == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: (folder / "run.json").write_text("{}"), r"changed: run\.json"),
        (lambda folder: (folder / "run.json").unlink(), r"missing: run\.json"),
        (lambda folder: (folder / "secret.txt").write_text("x"), r"not listed: secret\.txt"),
        (lambda folder: (folder / "manifest.json").write_text("{}"), "is no manifest of format 1"),
        (lambda folder: (folder / "manifest.json").unlink(), "does not exist"),
    ],
)
def test_every_change_is_found(copy: Path, change, said: str) -> None:
    change(copy)
    with pytest.raises(ValueError, match=said):
        verify(copy)


def test_another_tower_is_found_by_its_logits(copy: Path) -> None:
    """The tower lies outside the release: no hash of the manifest covers it."""
    from tests.tiny import tiny_tower_folder

    shutil.rmtree(copy.parent / "tower")
    tiny_tower_folder(copy.parent / "tower", seed=5)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"mm_vision_tower": str(copy.parent / "tower")}))
    manifest = json.loads((copy / "manifest.json").read_text())
    size = (copy / "config.json").stat().st_size
    manifest["files"]["config.json"] = {"sha256": sha256_file(copy / "config.json"), "bytes": size}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="does not reproduce its recorded logits"):
        verify(copy)


def test_a_projector_release_needs_its_base(v15: Path, tmp_path: Path) -> None:
    tuned = tuned_projector(v15, tmp_path / "tuned")
    with pytest.raises(ValueError, match="pass model_base"):
        write_manifest(tuned)
    write_manifest(tuned, base=str(v15))
    assert verify(tuned, base=str(v15))["base_model"] == "org/base"
