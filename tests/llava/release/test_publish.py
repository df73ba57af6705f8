"""Publishing against a stand-in for the hub: nothing goes out unchecked or unasked."""

import json
import shutil
from pathlib import Path

import pytest

from llava.release.manifest import write_manifest
from llava.release.model_card import write_card
from llava.release.publish import publish
from tests.tiny_release import tuned_projector


class StandIn:
    """Notes what it is asked, with the names of HfApi."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict]] = []

    def create_repo(self, repo_id: str, *, repo_type: str, private: bool, exist_ok: bool) -> None:
        self.calls.append(("create_repo", {"repo_id": repo_id, "private": private, "exist_ok": exist_ok}))

    def upload_folder(
        self, *, repo_id: str, folder_path: str, repo_type: str, commit_message: str, ignore_patterns: list[str]
    ) -> None:
        self.calls.append(("upload_folder", {"repo_id": repo_id, "folder_path": folder_path, "repo_type": repo_type}))


@pytest.fixture(scope="module")
def made(v15: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A projector release, ready to go."""
    folder = tuned_projector(v15, tmp_path_factory.mktemp("release") / "tuned", mm_vision_tower="org/tower")
    write_card(folder, "me/mini", "llama2")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"mm_vision_tower": "tower"}))
    write_manifest(folder, base=str(v15))
    return folder


@pytest.fixture
def release(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "release")


def test_a_dry_run_checks_and_sends_nothing(release: Path, v15: Path) -> None:
    plan = publish(release, "me/mini", None, base=str(v15))
    assert set(plan.files) == {"README.md", "config.json", "manifest.json", "mm_projector.bin", "run.json"}
    listed = json.loads((release / "manifest.json").read_text())["files"]
    assert plan.size == sum(file["bytes"] for file in listed.values())


def test_an_upload_makes_the_repository_and_sends_the_folder(release: Path, v15: Path) -> None:
    hub = StandIn()
    publish(release, "me/mini", hub, private=True, base=str(v15))
    assert [name for name, _ in hub.calls] == ["create_repo", "upload_folder"]
    assert hub.calls[0][1] == {"repo_id": "me/mini", "private": True, "exist_ok": True}
    assert hub.calls[1][1] == {"repo_id": "me/mini", "folder_path": str(release), "repo_type": "model"}


def test_the_stand_in_has_the_hubs_signatures() -> None:
    import inspect

    from huggingface_hub import HfApi

    for name in ("create_repo", "upload_folder"):
        wanted = inspect.signature(getattr(StandIn, name)).parameters
        assert wanted.keys() <= inspect.signature(getattr(HfApi, name)).parameters.keys()


def rewrite(file: Path, **keys: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | keys))


def place_of_this_machine(folder: Path) -> None:
    rewrite(folder / "config.json", mm_vision_tower="/srv/towers/clip")


def relative_tower(folder: Path) -> None:
    rewrite(folder / "config.json", mm_vision_tower="playground/miniature/clip")


def relative_base_in_the_card(folder: Path) -> None:
    card = (folder / "README.md").read_text()
    (folder / "README.md").write_text(card.replace("base_model: org/base", "base_model: playground/miniature/llava"))


def relative_base_in_the_manifest(folder: Path) -> None:
    rewrite(folder / "manifest.json", base_model="checkpoints/mini")


def path_in_the_run(folder: Path) -> None:
    rewrite(folder / "run.json", data={"path": "/srv/data/mix.json"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: (folder / "README.md").unlink(), "has no license and no base_model in its front matter"),
        (lambda folder: (folder / "README.md").write_text("---\nlicense: x\n---\n"), "has no base_model"),
        (place_of_this_machine, r"mm_vision_tower in .* is '/srv/towers/clip', a place of this machine.*--tower"),
        (relative_tower, r"mm_vision_tower in .* is 'playground/miniature/clip', a place"),
        (relative_base_in_the_card, r"base_model in .*README\.md is 'playground/miniature/llava', a place"),
        (relative_base_in_the_manifest, r"base_model in .*manifest\.json is 'checkpoints/mini', a place"),
        (path_in_the_run, r"run\.json names a place of this machine, '/srv/data/mix\.json'"),
        (lambda folder: (folder / "mm_projector.bin").write_bytes(b"x"), r"changed: mm_projector\.bin"),
        (lambda folder: (folder / "left.txt").write_text("x"), r"not listed: left\.txt"),
    ],
)
def test_nothing_is_sent_when_a_check_fails(release: Path, v15: Path, change, said: str) -> None:
    change(release)
    hub = StandIn()
    with pytest.raises(ValueError, match=said):
        publish(release, "me/mini", hub, base=str(v15))
    assert not hub.calls
