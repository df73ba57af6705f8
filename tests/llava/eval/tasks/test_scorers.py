"""Scorers against hand-made cases, with the traps of the official rules."""

import importlib.util
from dataclasses import replace
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
    categories = categories or ["count"] * len(texts)
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
        TASKS[task].score(questions, references, answers[:1])
    with pytest.raises(ValueError, match=r"without a question 1 \(7\)"):
        TASKS[task].score(questions, references, [*answers, Answer(7, "q", "no", "m")])
    with pytest.raises(ValueError, match=r"repeated 1 \(0\)"):
        TASKS[task].score(questions, references, [*answers, answers[0]])
    with pytest.raises(ValueError, match=r"no reference answer for 1 question ids, first \['1'\]"):
        TASKS[task].score(questions, {"0": references["0"]}, answers)
    with pytest.raises(ValueError, match="scoring rules official"):
        TASKS[task].score(questions, references, answers, rule="lenient")


@pytest.mark.parametrize("task", sorted(TASKS))
def test_order_of_the_answer_file_does_not_matter(task):
    gold = {"mme": "yes", "pope": "yes", "gqa": "red"}.get(task, "A")
    other = "no" if gold == "yes" else "B"
    questions, references, answers = case([gold, other, gold, gold], [gold] * 4, images=["a", "a", "b", "b"])
    straight = TASKS[task].score(questions, references, answers)
    assert straight == TASKS[task].score(questions, references, answers[::-1])
    assert straight.accuracy == 75.0 and straight.n == 4
    assert list(straight.items.values()) == [1.0, 0.0, 1.0, 1.0]


def test_gqa_drops_final_periods_and_case_of_the_prediction_only():
    result = TASKS["gqa"].score(
        *case(["Red.", "red..", "red dog", " red"], ["red"] * 4, categories=["c", "c", "d", "d"])
    )
    assert list(result.items.values()) == [1.0, 1.0, 0.0, 0.0]
    assert result.extra["per_category"] == {"c": 100.0, "d": 0.0}


@pytest.mark.parametrize(
    ("text", "official", "strict"),
    [
        ("No", "no", "no"),
        ("no.", "no", "no"),
        ("No, there is none", "no", "no"),
        ("No, there isn't", "no", "no"),
        ("There isn't a dog", "yes", None),
        ("Yes, and it is not hidden", "no", "yes"),
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
    result = TASKS["pope"].score(*case(texts, golds, categories=categories))
    # random: yes/yes, yes/no, no/yes. popular: no/no, yes/yes, and the NO that reads as yes
    assert result.headline == pytest.approx((50.0 + 200 / 3) / 2)
    assert result.accuracy == pytest.approx(50.0)
    assert result.extra["precision"] == pytest.approx(50.0)
    assert result.extra["recall"] == pytest.approx(200 / 3)
    assert result.extra["f1"] == pytest.approx(100 * 4 / 7)
    assert result.extra["yes_ratio"] == pytest.approx(400 / 6)
    random = result.extra["categories"]["random"]
    assert (random["f1"], random["accuracy"]) == (pytest.approx(50.0), pytest.approx(100 / 3))
    assert [random[name] for name in ("TP", "FP", "TN", "FN")] == [1, 1, 0, 1]
    assert result.extra["strict_accuracy"] == pytest.approx(400 / 6)
    assert TASKS["pope"].score(*case(texts, golds), rule="strict").accuracy == pytest.approx(400 / 6)


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.booleans(), st.booleans()), min_size=1))
def test_pope_headline_is_the_mean_of_the_categories_f1(rows):
    """Its sum of ratios against F1 from precision and recall."""
    words = {True: "yes", False: "no"}
    made = case([words[said] for _, said, _ in rows], [words[true] for *_, true in rows], None, [c for c, *_ in rows])
    f1s = []
    for category in {category for category, *_ in rows}:
        mine = [(said, true) for name, said, true in rows if name == category]
        hits = sum(said and true for said, true in mine)
        precision = hits / max(1, sum(said for said, _ in mine))
        recall = hits / max(1, sum(true for _, true in mine))
        f1s.append(200 * precision * recall / (precision + recall) if hits else 0.0)
    assert TASKS["pope"].score(*made).headline == pytest.approx(sum(f1s) / len(f1s))


def test_pope_without_positives_does_not_divide_by_zero():
    assert TASKS["pope"].score(*case(["no"], ["no"])).extra["f1"] == 0.0


def test_pope_rejects_a_reference_that_is_neither():
    with pytest.raises(ValueError, match="question_id 0: expected the reference answer to be yes or no, got 'maybe'"):
        TASKS["pope"].score(*case(["no"], ["maybe"]))


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
    categories = ["existence", "existence", "existence", "existence", "code_reasoning", "code_reasoning"]
    result = TASKS["mme"].score(*case(texts, golds, images, categories))
    # existence: a = right, wrong; b = right, right. code_reasoning: a = wrong, right.
    assert result.accuracy == pytest.approx(400 / 6)
    assert result.extra["acc_plus"] == pytest.approx(100 / 3)
    assert result.extra["category_score"] == {"existence": 75.0 + 50.0, "code_reasoning": 50.0}
    assert (result.extra["perception_score"], result.extra["cognition_score"]) == (125.0, 50.0)
    assert result.headline == 175.0


def test_mme_names_no_figure_of_a_group_that_was_not_asked():
    result = TASKS["mme"].score(*case(["yes", "yes"], ["yes", "yes"], ["a", "a"], ["OCR", "OCR"]))
    assert result.headline == result.extra["perception_score"] == 200.0
    assert "cognition_score" not in result.extra


@given(
    st.lists(st.tuples(st.sampled_from(["OCR", "count", "code_reasoning"]), st.booleans(), st.booleans()), min_size=1)
)
def test_mme_headline_is_acc_and_acc_plus_by_category(pictures):
    """The sum of its ratios against the definition; each ratio counts items that exist."""
    said = [word for _, *pair in pictures for word in ("yes" if right else "no" for right in pair)]
    images = [f"{place}" for place in range(len(pictures)) for _ in range(2)]
    categories = [category for category, *_ in pictures for _ in range(2)]
    made = case(said, ["yes"] * len(said), images, categories)
    total = 0.0
    for category in set(categories):
        mine = [pair for name, *pair in pictures if name == category]
        total += 100 * sum(map(sum, mine)) / (2 * len(mine)) + 100 * sum(map(all, mine)) / len(mine)
    result = TASKS["mme"].score(*made)
    assert result.headline == pytest.approx(total)
    assert {key for ratio in result.ratios for key in ratio.keys} <= set(result.items)


def test_mme_wants_two_questions_for_each_picture():
    with pytest.raises(ValueError, match=r"expected 2 questions for each picture, got 1 for image 'b'"):
        TASKS["mme"].score(*case(["yes"] * 3, ["yes"] * 3, ["a", "a", "b"]))


def test_mme_knows_its_fourteen_categories():
    with pytest.raises(ValueError, match="question_id 0: unknown category 'smell'; known: existence, count"):
        TASKS["mme"].score(*case(["yes"] * 2, ["yes"] * 2, ["a", "a"], ["smell"] * 2))


@pytest.mark.parametrize(
    ("text", "exact", "leading", "science", "fixed"),
    [
        ("B", "B", "B", "B", "B"),
        ("B.", None, "B", None, "B"),
        ("B. a dog", None, "B", "B", "B"),
        ("B. ", None, "B", "B", "B"),
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


def test_mmbench_wants_every_rotation_right():
    rows = [("7", "A", "B"), ("1000007", "B.", "B"), ("2000007", "C", "C"), ("8", "D", "D"), ("1000008", "A", "A")]
    questions = [Question(int(key), "q", "7.jpg", "c" if key.endswith("7") else "d") for key, *_ in rows]
    references = {key: {"answer": gold} for key, _, gold in rows}
    answers = [Answer(int(key), "q", said, "m") for key, said, _ in rows]
    result = TASKS["mmbench"].score(questions, references, answers)
    assert result.headline == 50.0 and result.accuracy == result.extra["plain_accuracy"] == 80.0
    assert result.extra["circular_per_category"] == {"c": 0.0, "d": 100.0} and result.extra["n_circular"] == 2
    alone = TASKS["mmbench"].score(questions[1:2], references, answers[1:2])
    assert alone.headline == 100.0


def test_mmbench_by_hand_with_four_rotations_and_with_three():
    """5: all right, in every form a letter is read in. 6: a word that begins with the right letter. 9: one rotation is
    not in the table, and the others are right."""
    said = {
        5: [("A", "A"), ("B.", "B"), ("(C) cat", "C"), ("D: dog", "D")],
        6: [("A dog", "A"), ("B", "B"), ("C", "C"), ("D", "D")],
        9: [("B", "B"), ("A", "A"), ("D", "D")],
    }
    rows = [(turn * 1_000_000 + key, *pair) for key, turns in said.items() for turn, pair in enumerate(turns)][::-1]
    questions = [Question(key, "q", str(key % 1_000_000)) for key, *_ in rows]
    answers = [Answer(key, "q", text, "m") for key, text, _ in rows]
    references = {str(key): {"answer": gold} for key, _, gold in rows}
    result = TASKS["mmbench"].score(questions, references, answers)
    assert [key for key, value in result.items.items() if value == 0] == ["6"]
    assert result.headline == pytest.approx(200 / 3)
    with pytest.raises(ValueError, match=r"expected 11 answers.*missing 1 \(3000005\)"):
        TASKS["mmbench"].score(questions, references, [one for one in answers if one.question_id != 3_000_005])


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.booleans()), min_size=1, unique_by=lambda r: r[:2]))
def test_mmbench_headline_is_the_share_of_questions_without_a_wrong_rotation(rows):
    ids = [turn * 1_000_000 + number for number, turn, _ in rows]
    questions = [Question(key, "q", "p") for key in ids]
    answers = [Answer(key, "q", "A" if right else "B", "m") for key, (*_, right) in zip(ids, rows, strict=True)]
    result = TASKS["mmbench_cn"].score(questions, {str(key): {"answer": "A"} for key in ids}, answers)
    asked, spoilt = {number for number, *_ in rows}, {number for number, _, right in rows if not right}
    assert result.name == "mmbench_cn"
    assert result.headline == pytest.approx(100 * len(asked - spoilt) / len(asked))


def test_seed_by_kind_and_type():
    kinds = [("image", "Scene"), ("image", "Count"), ("video", "Action"), ("video", "Action")]
    golds = [{"answer": "A", "data_type": kind, "question_type": name} for kind, name in kinds]
    result = TASKS["seed"].score(*case(["A", "B", "A", "A"], golds))
    assert result.headline == result.extra["total"] == 75.0
    assert (result.extra["image"], result.extra["video"]) == (50.0, 100.0)
    assert result.extra["per_type"] == {"Action": 100.0, "Count": 0.0, "Scene": 100.0}
    assert "video" not in TASKS["seed"].score(*case(["A", "B"], golds[:2])).extra


def test_sqa_headline_counts_questions_with_a_picture():
    questions, references, answers = case(["A", "B", "A", "hm"], ["A"] * 4)
    questions = [replace(one, image=None) if one.question_id in (1, 2) else one for one in questions]
    result = TASKS["sqa"].score(questions, references, answers)
    assert (result.headline, result.extra["img"], result.extra["n_img"]) == (50.0, 50.0, 2)
    assert (result.accuracy, result.extra["total"], result.extra["text"]) == (50.0, 50.0, 50.0)
    assert result.extra["unreadable"] == 25.0
    first = TASKS["sqa"].score(questions[:1], references, answers[:1])
    assert first.headline == 100.0 and "text" not in first.extra
    with pytest.raises(ValueError, match="none of 2 has one"):
        TASKS["sqa"].score(questions[1:3], references, answers[1:3])


def test_sqa_guesses_nothing():
    """The public program's random choice for an answer without a letter is behind a return: such an answer is wrong,
    and so is a letter that is no choice."""
    texts = ["The answer is B.", "B", "B. a dog", "The answer is E.", "Either of them"]
    result = TASKS["sqa"].score(*case(texts, ["B", "B", "B", "A", "A"]))
    assert list(result.items.values()) == [1.0, 1.0, 1.0, 0.0, 0.0]
    assert (result.headline, result.extra["unreadable"]) == (60.0, 20.0)


def test_gqa_by_structure():
    golds = [{"answer": "yes", "structural": kind, "semantic": "rel"} for kind in ("verify", "query", "query")]
    result = TASKS["gqa"].score(*case(["Yes", "no", "yes"], golds))
    assert (result.extra["binary"], result.extra["open"]) == (100.0, 50.0)
    assert result.extra["per_structural"] == {"query": 50.0, "verify": 100.0}
    assert result.extra["per_semantic"] == {"rel": pytest.approx(200 / 3)}


def test_vqa_by_answer_type():
    golds = [{"answer": word, "answer_type": kind} for word, kind in (("yes", "yes/no"), ("2", "number"))]
    assert TASKS["vizwiz"].score(*case(["Yes", "three"], golds)).extra["per_answer_type"] == {
        "number": 0.0,
        "yes/no": 100.0,
    }


def test_choice_tasks_report_unreadable_answers_and_the_other_rule():
    seed = TASKS["seed"].score(*case(["B", "B.", "dog"], ["B", "B", "B"]))
    assert (seed.accuracy, seed.extra["fixed_accuracy"]) == (pytest.approx(100 / 3), pytest.approx(200 / 3))
    assert seed.extra["unreadable"] == pytest.approx(200 / 3)
    sqa = TASKS["sqa"].score(*case(["The answer is B", "The answer is Apple."], ["B", "A"]))
    assert (sqa.accuracy, sqa.extra["fixed_accuracy"]) == (50.0, 50.0)
    assert list(sqa.items.values()) == [0.0, 1.0]
    with pytest.raises(ValueError, match="question_id 0: expected the reference answer to be a letter"):
        TASKS["mmbench"].score(*case(["B"], ["dog"]))


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("The Dog.", "dog"),
        ("two", "2"),
        ("none", "0"),
        ("eleven", "eleven"),
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("10,000.50.", "10000.50"),
        ("1, 2", "1 2"),
        ("isnt an apple", "isn't apple"),
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


@pytest.mark.parametrize("task", ["vqav2", "textvqa", "vizwiz"])
def test_soft_accuracy_cleans_what_the_humans_said_too(task):
    """Ten humans, who agree once they are cleaned: 2 four times, 1000 once, 3.5 twice, isn't it thrice."""
    humans = ["two", "2", "2.", "The two", "1,000", "3.5", "3.5.", "isnt it", "Isn't it?", "isnt, it"]
    texts = ["Two", "1000", "3.5", "isn't it", "35", "the"]
    result = TASKS[task].score(*case(texts, [{"answers": humans}] * len(texts)))
    assert list(result.items.values()) == pytest.approx([1.0, 0.3, 0.6, 0.9, 0.0, 0.0])
    assert result.headline == pytest.approx(100 * 2.8 / 6)


def test_vqa_references():
    many = {"answer": "red", "answers": ["red"] * 3 + ["blue"] * 7}
    result = TASKS["vqav2"].score(*case(["red", "blue.", "red"], [many, many, "red"]))
    assert list(result.items.values()) == [pytest.approx(0.9), 1.0, 1.0]
    with pytest.raises(ValueError, match="question_id 0: expected 'answers' to be 10 strings"):
        TASKS["textvqa"].score(*case(["red"], [{"answers": ["red"]}]))


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
