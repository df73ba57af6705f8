"""The wordings of the public question files: exact text, and the rows that teach them."""

from random import Random

from llava.eval.tasks.mmbench_table import LETTER_SUFFIX
from llava.miniature import forms
from llava.miniature.base import _in_forms
from llava.miniature.questions import SHORT_ANSWER, Question, choose_ground
from llava.miniature.world import SPLITS, sample_scene

WORD = Question("word", "What word is written on the sign?", "cafe")


def test_the_wordings_are_those_of_the_public_files():
    assert forms.with_tokens(WORD, ["CAFE", "7"]) == (
        f"What word is written on the sign?\nReference OCR token: CAFE, 7\n{SHORT_ANSWER}"
    )
    assert forms.with_permission(WORD) == (
        "What word is written on the sign?\nWhen the provided information is insufficient, respond with "
        f"'Unanswerable'.\n{SHORT_ANSWER}"
    )
    assert forms.shortly("Is it red?") == f"Is it red?\n{SHORT_ANSWER}"
    assert forms.yes_or_no("Is it red?") == f"Is it red? Please answer yes or no.\n{SHORT_ANSWER}"
    assert forms.LETTER_CN == LETTER_SUFFIX["cn"]


def test_the_chinese_suffix_stands_in_for_the_english_one():
    scene = sample_scene(SPLITS["train"][0], None)
    question = choose_ground(scene, Random(0))
    assert forms.in_chinese(question) == question.prompt.replace(LETTER_SUFFIX["en"], LETTER_SUFFIX["cn"])
    assert LETTER_SUFFIX["cn"] in forms.in_chinese(question)


def test_what_is_not_there_cannot_be_answered():
    for seed in SPLITS["train"][:200]:
        scene = sample_scene(seed, None)
        question = forms.ask_the_unanswerable(scene, Random(seed))
        if question is None:
            assert scene.word and scene.digit
            continue
        assert question.answer == "unanswerable"
        assert not any(f"the {thing.shape}?" in question.text for thing in scene.things)
        assert not (scene.word and "word" in question.text) and not (scene.digit and "number" in question.text)


def test_rows_teach_every_wording():
    lines = []
    for seed in SPLITS["train"][:60]:
        lines += _in_forms(sample_scene(seed, None), Random(seed))
    for part in ("Reference OCR token: ", forms.PERMISSION, "Please answer yes or no.\nAnswer", forms.LETTER_CN):
        share = sum(part in prompt for prompt, _ in lines) / len(lines)
        assert 0.02 < share < 0.5, (part, share)
    assert all(forms.PERMISSION in prompt for prompt, answer in lines if answer == "unanswerable")
    assert {answer for prompt, answer in lines if "Please answer yes or no." in prompt} == {"yes", "no"}
