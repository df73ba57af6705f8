"""What answers are made from."""

from pathlib import Path

from llava.eval import inputs
from llava.eval.inputs import answer_inputs
from llava.eval.question_set import Folder, QuestionSet
from llava.eval.records import Question


def asked(*images):
    return QuestionSet(tuple(Question(i, "what?", image) for i, image in enumerate(images)), Folder(Path()))


def test_a_hub_model_is_its_name_and_its_revision_once_it_is_in_the_cache(monkeypatch):
    cached = {}
    monkeypatch.setattr(inputs, "try_to_load_from_cache", lambda name, file: cached.get(name))
    before = answer_inputs("some/llava", "some/base", asked("a.png"), "0")
    assert (before["model"], before["base"], before["pictures"]) == ("some/llava", "some/base", "0")
    assert not [name for name in before if name.startswith("revision")]
    cached["some/llava"] = "cache/models--some--llava/snapshots/abc/config.json"
    assert answer_inputs("some/llava", "some/base", asked("a.png"), "0") == before | {"revision of model": "abc"}


def test_pictures_that_change_places_are_noticed():
    first, second = (answer_inputs("m", None, asked(*images), "0") for images in (("a", "b"), ("b", "a")))
    assert [name for name in first if first[name] != second[name]] == ["questions and their pictures"]
