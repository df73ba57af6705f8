"""Scorers against hand-made cases, with the traps of the official rules."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava.eval.records import Answer, Question
from llava.eval.tasks import TASKS, choice, pope
from llava.eval.tasks.mme import parse as parse_mme
from llava.eval.tasks.vqa import soft_accuracy
from llava.eval.tasks.vqa_text import normalise


def case(texts, golds, images=None, categories=None):
    """Questions, references and answers from parallel lists; ids 0..n-1."""
    images = images or [f"{i}.jpg" for i in range(len(texts))]
    categories = categories or [None] * len(texts)
    questions = [
        Question(i, "q", image, category) for i, (image, category) in enumerate(zip(images, categories, strict=True))
    ]
    references = {str(i): gold if isinstance(gold, dict) else {"answer": gold} for i, gold in enumerate(golds)}
    answers = [Answer(i, "q", text, "m") for i, text in enumerate(texts)]
    return questions, references, answers


@pytest.mark.parametrize("task", sorted(TASKS))
def test_ids_that_do_not_match_are_named(task):
    gold = {"mme": "yes", "pope": "yes", "gqa": "red"}.get(task, "A")
    questions, references, answers = case(["yes", "yes"], [gold, gold], images=["a.jpg", "a.jpg"])
    with pytest.raises(ValueError, match=r"missing 1 \(1\)"):
        TASKS[task](questions, references, answers[:1])
    with pytest.raises(ValueError, match=r"without a question 1 \(7\)"):
        TASKS[task](questions, references, [*answers, Answer(7, "q", "no", "m")])
    with pytest.raises(ValueError, match=r"repeated 1 \(0\)"):
        TASKS[task](questions, references, [*answers, answers[0]])
    with pytest.raises(ValueError, match=r"no reference answer for 1 question ids, first \['1'\]"):
        TASKS[task](questions, {"0": references["0"]}, answers)
    with pytest.raises(ValueError, match="scoring rules official"):
        TASKS[task](questions, references, answers, rule="lenient")


@pytest.mark.parametrize("task", sorted(TASKS))
def test_order_of_the_answer_file_does_not_matter(task):
    gold = {"mme": "yes", "pope": "yes", "gqa": "red"}.get(task, "A")
    other = "no" if gold == "yes" else "B"
    questions, references, answers = case([gold, other, gold, gold], [gold] * 4, images=["a", "a", "b", "b"])
    straight = TASKS[task](questions, references, answers)
    assert straight == TASKS[task](questions, references, answers[::-1])
    assert straight.accuracy == 75.0 and straight.n == 4
    assert list(straight.items.values()) == [1.0, 0.0, 1.0, 1.0]


def test_gqa_drops_final_periods_and_case_of_the_prediction_only():
    result = TASKS["gqa"](*case(["Red.", "red..", "red dog", " red"], ["red"] * 4, categories=["c", "c", "d", "d"]))
    assert list(result.items.values()) == [1.0, 1.0, 0.0, 0.0]
    assert result.extra["per_category"] == {"c": 100.0, "d": 0.0}


@pytest.mark.parametrize(
    ("text", "official", "strict"),
    [
        ("No", "no", "no"),
        ("no.", "no", "no"),
        ("No, there is none", "no", "no"),
        ("There is not a dog", "no", None),
        ("Yes. There is no dog", "yes", "yes"),
        ("NO", "yes", "no"),
        ("No\n", "yes", "no"),
        ("Nope", "yes", None),
        ("", "yes", None),
        ("yes", "yes", "yes"),
    ],
)
def test_pope_reads_yes_and_no_as_published_and_strictly(text, official, strict):
    assert pope.parse_official(text) == official
    assert pope.parse_strict(text) == strict


def test_pope_figures_by_hand():
    texts = ["yes", "yes", "no", "no", "yes", "NO"]
    golds = ["yes", "no", "yes", "no", "yes", "no"]
    categories = ["random"] * 3 + ["popular"] * 3
    result = TASKS["pope"](*case(texts, golds, categories=categories))
    # yes/yes 2, yes/no 1 + the misread NO, no/yes 1, no/no 1
    assert result.accuracy == pytest.approx(50.0)
    assert result.extra["precision"] == pytest.approx(50.0)
    assert result.extra["recall"] == pytest.approx(200 / 3)
    assert result.extra["f1"] == pytest.approx(100 * 4 / 7)
    assert result.extra["yes_ratio"] == pytest.approx(400 / 6)
    assert result.extra["f1_mean"] == pytest.approx((50.0 + 200 / 3) / 2)
    assert result.extra["strict_accuracy"] == pytest.approx(400 / 6)
    assert TASKS["pope"](*case(texts, golds), rule="strict").accuracy == pytest.approx(400 / 6)


def test_pope_without_positives_does_not_divide_by_zero():
    assert TASKS["pope"](*case(["no"], ["no"])).extra["f1"] == 0.0


def test_pope_rejects_a_reference_that_is_neither():
    with pytest.raises(ValueError, match="question_id 0: expected the reference answer to be yes or no, got 'maybe'"):
        TASKS["pope"](*case(["no"], ["maybe"]))


@pytest.mark.parametrize(
    ("text", "label"),
    [("Yes", "yes"), ("no.", "no"), ("Oh no", "other"), ("is no", "other"), ("Nope", "no"), ("", "other")],
)
def test_mme_looks_at_four_letters(text, label):
    assert parse_mme(text) == label


def test_mme_counts_questions_and_pictures():
    texts = ["yes", "no", "yes", "yes", "no", "no"]
    golds = ["yes", "no"] * 3
    images = ["a", "b", "b", "a", "a", "a"]  # file order does not pair them
    categories = ["existence", "existence", "existence", "existence", "count", "count"]
    result = TASKS["mme"](*case(texts, golds, images, categories))
    # existence: a = right, wrong; b = right, right. count: a = wrong, right.
    assert result.accuracy == pytest.approx(400 / 6)
    assert result.extra["acc_plus"] == pytest.approx(100 / 3)
    assert result.extra["category_score"] == {"count": 50.0, "existence": 75.0 + 50.0}
    assert result.extra["score"] == 175.0


def test_mme_wants_two_questions_for_each_picture():
    with pytest.raises(ValueError, match=r"expected 2 questions for each picture, got 1 for image 'b'"):
        TASKS["mme"](*case(["yes"] * 3, ["yes"] * 3, ["a", "a", "b"]))


@pytest.mark.parametrize(
    ("text", "exact", "leading", "science", "fixed"),
    [
        ("B", "B", "B", "B", "B"),
        ("B.", None, "B", None, "B"),
        ("B. a dog", None, "B", "B", "B"),
        ("(B) a dog", None, "B", None, "B"),
        (" B", None, "B", None, "B"),
        ("b", None, None, None, None),
        ("A dog", None, None, None, None),
        ("The answer is B.", None, None, "B", "B"),
        ("The answer is B", None, None, None, "B"),
        ("The answer is Apple.", None, None, "A", None),
        ("The answer is A. The answer is B.", None, None, None, None),
        ("F", None, None, None, None),
        ("", None, None, None, None),
    ],
)
def test_letters_by_each_benchmarks_rule(text, exact, leading, science, fixed):
    assert choice.letter_exact(text) == exact
    assert choice.letter_leading(text) == leading
    assert choice.letter_science(text) == science
    assert choice.letter_science_fixed(text) == fixed


def test_choice_tasks_report_unreadable_answers_and_the_other_rule():
    seed = TASKS["seed"](*case(["B", "B.", "dog"], ["B", "B", "B"]))
    assert (seed.accuracy, seed.extra["fixed_accuracy"]) == (pytest.approx(100 / 3), pytest.approx(200 / 3))
    assert seed.extra["unreadable"] == pytest.approx(200 / 3)
    sqa = TASKS["sqa"](*case(["The answer is B", "The answer is Apple."], ["B", "A"]))
    assert (sqa.accuracy, sqa.extra["fixed_accuracy"]) == (50.0, 50.0)
    assert list(sqa.items.values()) == [0.0, 1.0]
    with pytest.raises(ValueError, match="question_id 0: expected the reference answer to be a letter"):
        TASKS["mmbench"](*case(["B"], ["dog"]))


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("The Dog.", "dog"),
        ("two", "2"),
        ("none", "0"),
        ("eleven", "eleven"),
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("a.5", "a.5"),
        ("5.", "5"),
        ("dont", "don't"),
        ("the dog's", "dog 's"),
        ("black-white", "black white"),
        ("black -white", "black white"),
        ("couldn'tve", "couldn't've"),
        ("Im", "im"),
        ("what?", "what"),
        ("x\ny", "x y"),
    ],
)
def test_vqa_normalisation_by_hand(raw, clean):
    assert normalise(raw) == clean


def test_vqa_drops_only_the_first_32_periods_unless_asked():
    text = "." * 40
    assert normalise(text) == "." * 8
    assert normalise(text, periods=0) == ""


@pytest.mark.parametrize(("agreeing", "value"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_soft_accuracy_by_the_leave_one_out_rule(agreeing, value):
    assert soft_accuracy("Red", ["red"] * agreeing + ["blue"] * (10 - agreeing)) == pytest.approx(value)


def test_vqa_references():
    many = {"answer": "red", "answers": ["red"] * 3 + ["blue"] * 7}
    result = TASKS["vqav2"](*case(["red", "blue.", "red"], [many, many, "red"]))
    assert list(result.items.values()) == [pytest.approx(0.9), 1.0, 1.0]
    with pytest.raises(ValueError, match="question_id 0: expected 'answers' to be 10 strings"):
        TASKS["textvqa"](*case(["red"], [{"answers": ["red"]}]))


def _published_processor() -> ModuleType:
    """The challenge's own normaliser as lmms-eval ships it, loaded from its file (importing the package is slow)."""
    package = importlib.util.find_spec("lmms_eval")
    if package is None or package.origin is None:
        pytest.skip("lmms-eval is not installed")
    path = Path(package.origin).parent / "tasks" / "_task_utils" / "vqa_eval_metric.py"
    spec = importlib.util.spec_from_file_location("published_vqa_metric", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_WORDS = st.sampled_from([
    *"the a an none zero ten dont couldntve couldnt've couldn'tve whats let's she's shes Im Id've somebody'd".split(),
    *"yall'd've y'alld've 'owsat ow's'at oclock 3.5 5. .5 1,000 a-b a - / x_y (red) red, ! ' U.S.A. dog's".split(),
])


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.lists(_WORDS, max_size=8).map(" ".join), st.text(alphabet="ab 'st.,?!-/5\n\t\"", max_size=60)))
def test_vqa_normalisation_equals_the_published_one(text):
    published = _published_processor().EvalAIAnswerProcessor()
    assert normalise(text) == published(text)


def test_every_published_contraction_is_restored():
    table = _published_processor().EvalAIAnswerProcessor.CONTRACTIONS
    for raw in table:
        assert normalise(raw) == _published_processor().EvalAIAnswerProcessor()(raw)
