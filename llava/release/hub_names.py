"""Names a release gives of other models: ids of the hub, never places of the machine it was made on."""

import re
from pathlib import Path

_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
# Folders of this repository that models are written to: such a path has the form of a hub id.
_FOLDERS = ("checkpoints", "playground", "runs", "results")


def is_hub_id(name: str) -> bool:
    """Whether `name` has the form owner/name (or the old form, name alone) and is no folder here.

    The hub is not asked.
    """
    return bool(_HUB_ID.fullmatch(name)) and name.split("/")[0] not in _FOLDERS and not Path(name).exists()


def require_hub_id(name: str, where: str, remedy: str) -> None:
    """Raises: ValueError if `name` is no hub id; `where` says what holds it, `remedy` how to write another."""
    if not is_hub_id(name):
        raise ValueError(f"{where} is {name!r}, a place of this machine; others need a hub id, owner/name: {remedy}")
