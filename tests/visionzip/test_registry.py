from __future__ import annotations

import json
from typing import Any

import pytest

from visionzip import METHODS, Compressor, VisionZip, from_config
from visionzip.methods import Downsample, Pool, Random, Uniform

SAMPLES = [
    VisionZip(54, 10),
    VisionZip(27, 5, "average"),
    Random(64),
    Random(64, seed=3),
    Uniform(64),
    Pool(64),
    Downsample(64),
]


@pytest.mark.parametrize("compressor", SAMPLES)
def test_round_trip_through_json(compressor: Compressor) -> None:
    config = json.loads(json.dumps(compressor.to_config()))
    assert from_config(config) == compressor


def test_the_written_form_is_fixed() -> None:
    assert VisionZip(54, 10).to_config() == {
        "method": "visionzip",
        "dominant": 54,
        "contextual": 10,
        "merge": "official",
    }


def test_every_method_is_listed_under_its_own_name_and_sampled() -> None:
    assert {name: cls.method for name, cls in METHODS.items()} == {name: name for name in METHODS}
    assert {type(sample) for sample in SAMPLES} == set(METHODS.values())


def test_defaults_may_be_left_out() -> None:
    assert from_config({"method": "visionzip", "dominant": 54, "contextual": 10}) == VisionZip(54, 10)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"method": "tome", "r": 8}, "unknown method 'tome'; known methods: visionzip, random, uniform, pool"),
        ({"dominant": 54, "contextual": 10}, "unknown method None"),
        ({"method": ["visionzip"]}, "unknown method"),
        ({"method": "visionzip", "dominant": 54, "contextal": 10}, "unknown key contextal and missing key contextual"),
        ({"method": "uniform", "tokens": 64, "seed": 1}, "unknown key seed; its keys are tokens"),
        ({"method": "random"}, "missing key tokens; its keys are tokens, seed"),
        ({"method": "uniform", "tokens": "64"}, "tokens must be a whole number"),
        (None, "must be a mapping"),
        ("visionzip", "must be a mapping"),
    ],
)
def test_wrong_configs(config: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_config(config)
