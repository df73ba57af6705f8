"""Every answer is true of the scene: checked here by looking at the scene again, not by the asker's own helpers."""

from random import Random

import pytest

from llava.miniature import questions as ask
from llava.miniature.world import Plate, Scene, Thing, sample_scene

SCENE = Scene(
    seed=0,
    size=(200, 200),
    ground="sand",
    things=(
        Thing("red", "star", "small", (10, 10, 30, 30)),
        Thing("blue", "circle", "large", (150, 20, 190, 60)),
        Thing("blue", "square", "small", (20, 150, 40, 170)),
    ),
    word=Plate("zoo", (90, 90, 140, 110)),
    digit=None,
)


def every(asker: ask.Asker, scene: Scene = SCENE, throws: int = 60) -> dict[str, str]:
    """Question text -> answer over many throws; a text with two answers would be ambiguous."""
    answers: dict[str, set[str]] = {}
    for throw in range(throws):
        question = asker(scene, Random(throw))
        if question is not None:
            answer = question.options["ABCD".index(question.answer)] if question.options else question.answer
            answers.setdefault(question.text, set()).add(answer)
    assert all(len(values) == 1 for values in answers.values()), answers
    return {text: values.pop() for text, values in answers.items()}


def test_attributes_are_asked_of_unique_things_only() -> None:
    assert every(ask.ask_color) == {
        "What color is the star?": "red",
        "What color is the circle?": "blue",
        "What color is the square?": "blue",
    }
    assert every(ask.ask_shape) == {"What shape is the red object?": "star"}
    assert every(ask.ask_size)["Is the blue circle small or large?"] == "large"


def test_relations() -> None:
    sides = every(ask.ask_left_right)
    assert sides["Is the star to the left or to the right of the circle?"] == "left"
    assert sides["Is the circle to the left or to the right of the square?"] == "right"
    assert not any("star" in text and "square" in text for text in sides), "too close along x to compare"
    assert every(ask.ask_above_below)["Is the square above or below the star?"] == "below"
    assert every(ask.ask_place) == {
        "Where in the image is the star?": "top left",
        "Where in the image is the circle?": "top right",
        "Where in the image is the square?": "bottom left",
    }


def test_parts_list_what_there_is_from_left_to_right() -> None:
    answers = {question.text: question.answer for question in ask.ask_parts(SCENE, Random(0), 30)}
    assert answers["Which objects are stars?"] == "1, red star small top left"
    assert answers["Which objects are blue?"] == "2, blue square small bottom left, blue circle large top right"
    assert answers["Which objects are at the bottom right?"] == answers["Which objects are crosses?"] == "0"
    assert answers["What is written?"] == "sign zoo"
    assert answers["Which shapes are there from left to right?"] == "star, square, circle"
    assert answers["Which shapes are there from top to bottom?"] == "star, circle, square"
    assert answers["Which shapes are to the left of the circle?"] == "2, star, square"
    assert answers["Which shapes are below the circle?"] == "1, square"
    assert answers["Which shapes are above the star?"] == "0"
    assert len(answers) == 30
    assert len(ask.ask_parts(SCENE, Random(1), 6)) == 6


def test_the_caption_names_everything_with_its_place_in_the_padded_square() -> None:
    assert ask.describe(SCENE) == "sand, red star small 1 1, blue square small 1 8, blue circle large 8 2, sign zoo"
    wide = Scene(0, (300, 200), "grass", (Thing("red", "star", "small", (0, 0, 30, 30)),), None, None)
    assert ask.describe(wide) == "grass, red star small 0 2"


def test_things_that_share_a_shape_are_not_told_apart_by_it() -> None:
    twins = Scene(
        0, (200, 200), "sand", tuple(Thing("red", "star", "small", (x, 10, x + 20, 30)) for x in (10, 150)), None, None
    )
    for asker in (ask.ask_left_right, ask.ask_above_below, ask.ask_place, ask.choose_extreme, ask.ask_color):
        assert every(asker, twins) == {}
    assert ask.mme_pair(twins, Random(0), "position") is None


def test_counts_and_ground_and_reading() -> None:
    counts = every(ask.ask_count)
    assert counts["How many objects are there?"] == "3"
    assert counts["How many blue objects are there?"] == "2"
    assert counts["How many stars are there?"] == "1"
    assert every(ask.ask_ground) == {"What is the background?": "sand"}
    assert every(ask.ask_word) == {"What word is written on the sign?": "zoo"}
    assert every(ask.ask_digit) == {}


@pytest.mark.parametrize("kind", ["random", "popular", "adversarial"])
def test_negatives_are_absent_and_adversarial_ones_are_made_of_what_is_there(kind: str) -> None:
    for throw in range(50):
        text = ask.absent(SCENE, Random(throw), kind).text
        assert not any(f" {thing.name} " in text for thing in SCENE.things)
        if kind == "adversarial":
            assert text in {
                "Is there a red circle in the image?",
                "Is there a red square in the image?",
                "Is there a blue star in the image?",
            }


def test_existence_is_balanced() -> None:
    answers = [ask.ask_existence(sample_scene(seed), Random(seed)) for seed in range(400)]
    yes = sum(question is not None and question.answer == "yes" for question in answers)
    assert 160 < yes < 240


def test_choices_hold_the_answer_once_and_letters_are_even() -> None:
    letters = []
    for seed in range(300):
        question = ask.choose_attribute(sample_scene(seed), Random(seed))
        if question is not None:
            assert len(set(question.options)) == len(question.options) == 4
            letters.append(question.answer)
    assert all(0.15 < letters.count(letter) / len(letters) < 0.35 for letter in "ABCD")
    assert every(ask.choose_extreme)["Which object is closest to the right?"] == "circle"


def test_mme_pairs_are_yes_then_no() -> None:
    pair = ask.mme_pair(SCENE, Random(0), "position")
    assert pair is not None
    assert [question.answer for question in pair] == ["yes", "no"]
    assert pair[0].text != pair[1].text
    assert pair[0].prompt.endswith("Please answer yes or no.")
    assert ask.mme_pair(sample_scene(0, wants_text=False), Random(0), "OCR") is None


def test_prompts_end_with_the_suffix_llava_uses() -> None:
    question = ask.ask_ground(SCENE, Random(0))
    assert question is not None
    assert question.prompt == "What is the background?\nAnswer the question using a single word or phrase."
    choice = ask.choose_ground(SCENE, Random(0))
    assert choice is not None
    lines = choice.prompt.split("\n")
    assert [line[:3] for line in lines[1:5]] == ["A. ", "B. ", "C. ", "D. "]
    assert lines[-1] == "Answer with the option's letter from the given choices directly."
