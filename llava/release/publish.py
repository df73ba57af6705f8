"""Check a release and send it to the Hugging Face hub. The hub's client is handed in; nothing is sent unless asked."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import yaml

from llava.model.weight_files import read_json
from llava.provenance import without_machine_paths
from llava.release.folders import CARD, CONFIG, MANIFEST, RUN
from llava.release.hub_names import require_hub_id
from llava.release.manifest import verify
from llava.release.model_card import require_named_tower

logger = logging.getLogger(__name__)

TOKEN_VARIABLE = "HF_TOKEN"
_TEXTS = (CONFIG, RUN, MANIFEST, CARD)


class Hub(Protocol):
    """What of huggingface_hub.HfApi is used."""

    def create_repo(self, repo_id: str, *, repo_type: str, private: bool, exist_ok: bool) -> Any: ...

    def upload_folder(
        self, *, repo_id: str, folder_path: str, repo_type: str, commit_message: str, ignore_patterns: list[str]
    ) -> Any: ...


@dataclass(frozen=True)
class Plan:
    """What an upload sends. files: names, the manifest included; size: bytes of those it lists."""

    repo: str
    files: tuple[str, ...]
    size: int


def publish(
    folder: Path,
    repo: str,
    hub: Hub | None,
    private: bool = False,
    base: str | None = None,
    device: str = "cpu",
) -> Plan:
    """Check a release folder and, with a `hub`, upload it; without one this is a dry run.

    Args:
        repo: owner/name on the hub; made if it is not there.
        private: whether a new repository is.
        base, device: as `manifest.verify`.

    Raises:
        ValueError: no card, a place of this machine in a text, or whatever `verify` finds. Nothing is sent then.
    """
    check_card(folder)
    check_texts(folder)
    check_manifest(folder)
    manifest = verify(folder, base, device)
    files = manifest["files"]
    plan = Plan(repo, (*files, MANIFEST), sum(file["bytes"] for file in files.values()))
    if hub is None:
        return plan
    hub.create_repo(repo, repo_type="model", private=private, exist_ok=True)
    hub.upload_folder(
        repo_id=repo,
        folder_path=str(folder),
        repo_type="model",
        commit_message=f"Release of {manifest['stamp']['date']}",
        ignore_patterns=[".*", "**/.*"],
    )
    logger.info("sent %d files to %s", len(plan.files), repo)
    return plan


def check_card(folder: Path) -> None:
    """Raises: ValueError without a README.md whose front matter names a licence and a base model of the hub."""
    path = folder / CARD
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    parts = text.split("---\n", 2)
    front = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0] else None
    lost = [key for key in ("license", "base_model") if not isinstance(front, dict) or not front.get(key)]
    if lost:
        raise ValueError(
            f"{path} has no {' and no '.join(lost)} in its front matter: write it with python -m llava.release card"
        )
    assert isinstance(front, dict)
    for base in _strings(front["base_model"]):
        require_hub_id(base, f"base_model in {path}", "python -m llava.release card --base-model owner/name")


def check_manifest(folder: Path) -> None:
    """Raises: ValueError where manifest.json names a base model others cannot get."""
    base = read_json(folder / MANIFEST).get("base_model")
    if base:
        remedy = "python -m llava.release manifest --base-model owner/name"
        require_hub_id(str(base), f"base_model in {folder / MANIFEST}", remedy)


def check_texts(folder: Path) -> None:
    """Raises: ValueError where a text of the release, or its tower's name, is a place of the machine it was made on."""
    for name in _TEXTS:
        path = folder / name
        if not path.is_file():
            continue
        content: Any = read_json(path) if path.suffix == ".json" else path.read_text(encoding="utf-8").splitlines()
        if name == CONFIG:
            require_named_tower(folder, content)
        for text in _strings(content):
            if without_machine_paths(text) != text:
                raise ValueError(
                    f"{path} names a place of this machine, {text!r}: write it so that others can use it (for "
                    f"mm_vision_tower: python -m llava.release merge --tower owner/name), then the manifest anew"
                )


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for item in items for text in _strings(item)]
