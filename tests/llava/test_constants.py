"""The constants are a format: their values are pinned."""

from __future__ import annotations

from llava import constants


def test_values() -> None:
    assert {name: value for name, value in vars(constants).items() if name.isupper()} == {
        "IGNORE_INDEX": -100,
        "IMAGE_TOKEN_INDEX": -200,
        "DEFAULT_IMAGE_TOKEN": "<image>",
        "DEFAULT_IMAGE_PATCH_TOKEN": "<im_patch>",
        "DEFAULT_IM_START_TOKEN": "<im_start>",
        "DEFAULT_IM_END_TOKEN": "<im_end>",
        "IMAGE_PLACEHOLDER": "<image-placeholder>",
        "CONTROLLER_HEART_BEAT_EXPIRATION": 30,
        "WORKER_HEART_BEAT_INTERVAL": 15,
        "LOGDIR": ".",
    }
