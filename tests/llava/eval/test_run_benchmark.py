"""What a record says was run: as asked for, as saved, and when VisionZip is the tuned one."""

from types import SimpleNamespace

import pytest

from llava.eval.answer_command import ModelOptions
from llava.eval.run_benchmark import what_runs
from visionzip import Budget, VisionZip
from visionzip.methods import Pool


def runs(compressor, saved=None, **asked):
    tower = SimpleNamespace(compressor=compressor)
    model = SimpleNamespace(get_vision_tower=lambda: tower)
    source = {"saved": None if saved is None else saved.to_config()}
    options = ModelOptions(model_path="ckpt", **asked)
    return what_runs(SimpleNamespace(model=model, source=source), options)


def test_dense_and_what_was_asked_for():
    assert runs(None) == ("dense", None)
    assert runs(None, saved=VisionZip(5, 2), method="dense") == ("dense", None)
    assert runs(VisionZip(5, 2), dominant=5, contextual=2) == ("visionzip", Budget(5, 2))
    assert runs(Pool(7), method="pool", dominant=5, contextual=2) == ("pool", Budget(5, 2))


def test_a_checkpoint_saved_under_visionzip_is_the_tuned_one():
    zipped = VisionZip(5, 2)
    assert runs(zipped, saved=zipped) == ("visionzip-tuned", Budget(5, 2))
    assert runs(zipped, saved=zipped, dominant=5, contextual=2) == ("visionzip-tuned", Budget(5, 2))
    assert runs(VisionZip(4, 1), saved=zipped, dominant=4, contextual=1) == ("visionzip", Budget(4, 1))


def test_another_saved_compressor_has_to_be_named():
    with pytest.raises(ValueError, match=r"ckpt was saved with .*'pool'.*; say --method"):
        runs(Pool(7), saved=Pool(7))
