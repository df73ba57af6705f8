"""Names and budgets to compressors."""

import pytest

from llava.eval.methods import METHODS, apply_method, compressor_of, named_run, parse_budget, requested_budget
from visionzip import Budget, VisionZip, visionzip


class Tower:
    compressor = None


class Model:
    """The least a host needs: a config and a tower with the slot."""

    def __init__(self, **config):
        self.config = type("Config", (), config)()
        self.tower = Tower()

    def get_vision_tower(self):
        return self.tower


def test_every_method_makes_its_budget():
    for name in METHODS:
        if name != "dense":
            assert compressor_of(name, Budget(14, 2)).tokens_per_tile(144) == 16
    assert compressor_of("dense", None) is None


@pytest.mark.parametrize(
    ("name", "budget", "message"),
    [
        ("fastv", None, "unknown method 'fastv'; known: dense, visionzip"),
        ("dense", Budget(14, 2), "keeps all tokens"),
        ("pool", None, "needs a budget"),
    ],
)
def test_what_does_not_go_together_is_refused(name, budget, message):
    with pytest.raises(ValueError, match=message):
        compressor_of(name, budget)


@pytest.mark.parametrize(("value", "budget"), [(48, Budget(40, 8)), ("128", Budget(108, 20)), ([27, 5], Budget(27, 5))])
def test_budgets_have_three_spellings(value, budget):
    assert parse_budget(value) == budget


@pytest.mark.parametrize("value", [None, True, 3.5, [1, 2, 3], "x"])
def test_other_spellings_are_refused(value):
    with pytest.raises(ValueError):
        parse_budget(value)


def test_what_a_command_line_asks_for():
    assert requested_budget(None, None, None) == (None, None)
    assert requested_budget(None, 54, 10) == ("visionzip", Budget(54, 10))
    assert requested_budget("dense", None, None) == ("dense", None)
    with pytest.raises(ValueError, match="go together, got 54 and None"):
        requested_budget(None, 54, None)
    with pytest.raises(ValueError, match="method 'pool' needs a budget"):
        requested_budget("pool", None, None)


def test_a_run_is_named_as_asked_for_else_as_the_checkpoint_was_saved():
    tuned, budget = VisionZip(5, 2).to_config(), Budget(5, 2)
    assert named_run(None, None, None, "c") == named_run("dense", None, None, "c") == ("dense", None)
    assert named_run("visionzip", budget, None, "c") == ("visionzip", budget)
    for method, asked in ((None, None), ("visionzip", budget), ("visionzip-tuned", budget)):
        assert named_run(method, asked, tuned, "c") == ("visionzip-tuned", budget)
    assert named_run("visionzip", Budget(4, 1), tuned, "c") == ("visionzip", Budget(4, 1))
    assert named_run("pool", budget, tuned, "c") == ("pool", budget)
    with pytest.raises(ValueError, match=r"c was saved with .*'pool'.*; say --method"):
        named_run(None, None, {"method": "pool", "tokens": 7}, "c")


def test_methods_replace_each_other_on_one_model():
    model = Model()
    apply_method(model, "visionzip", Budget(14, 2))
    assert model.tower.compressor == VisionZip(14, 2)
    apply_method(model, "pool", Budget(14, 2))
    assert model.config.mm_compressor == {"method": "pool", "tokens": 16}
    apply_method(model, "dense", None)
    assert model.tower.compressor is None


def test_a_tuned_checkpoint_must_bring_the_compressor_of_its_cell():
    apply_method(visionzip(Model(), 14, 2), "visionzip-tuned", Budget(14, 2))
    for other in (Model(), visionzip(Model(), 13, 2), detached_in_secret()):
        with pytest.raises(ValueError, match=r"expects a checkpoint tuned with .*'dominant': 14"):
            apply_method(other, "visionzip-tuned", Budget(14, 2))


def detached_in_secret():
    """The config says compressed, the tower is not: what counts is what runs."""
    model = visionzip(Model(), 14, 2)
    model.tower.compressor = None
    return model


def test_an_order_is_that_of_the_checkpoint_unless_another_is_asked_for():
    model = visionzip(Model(), 14, 2, order="spatial")
    apply_method(model, "visionzip", Budget(7, 1))
    assert model.config.mm_compressed_order == "spatial"
    apply_method(model, None, None)
    assert (model.tower.compressor, model.config.mm_compressed_order) == (VisionZip(7, 1), "spatial")
    apply_method(model, None, None, "official")
    assert (model.tower.compressor, model.config.mm_compressed_order) == (VisionZip(7, 1), "official")
    apply_method(model, "uniform", Budget(7, 1), "spatial")
    assert model.config.mm_compressed_order == "spatial"


def test_an_order_that_cannot_be_had_is_refused():
    tuned = visionzip(Model(), 14, 2, order="spatial")
    with pytest.raises(ValueError, match="was tuned with order 'spatial', 'official' was asked for"):
        apply_method(tuned, "visionzip-tuned", Budget(14, 2), "official")
    with pytest.raises(ValueError, match="order 'spatial' is for compressed tokens"):
        apply_method(Model(), None, None, "spatial")
    with pytest.raises(ValueError, match="order must be one of official, spatial, got 'nonsense'"):
        apply_method(Model(), "visionzip", Budget(14, 2), "nonsense")
