"""A hub id and a path of the same form are told apart."""

import contextlib
from pathlib import Path

import pytest

from llava.release.hub_names import is_hub_id, require_hub_id


@pytest.mark.parametrize("name", ["org/name", "liuhaotian/llava-v1.5-7b", "gpt2", "me/clip-vit_large.1"])
def test_ids(name: str) -> None:
    assert is_hub_id(name)


@pytest.mark.parametrize(
    "name",
    ["playground/miniature/x", "./x", "../x", "~/x", "/srv/x", "checkpoints/x", "runs/x", "a/b/c", "a\\b", "", "org/"],
)
def test_places(name: str) -> None:
    with pytest.raises(ValueError, match=r"base_model is .*, a place of this machine; .*owner/name: do that"):
        require_hub_id(name, "base_model", "do that")


def test_a_folder_that_is_here_is_no_id(tmp_path: Path) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    with contextlib.chdir(tmp_path):
        assert not is_hub_id("org/name") and is_hub_id("org/other")
