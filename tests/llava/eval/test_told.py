"""What a run says at its end: the figure and what it counts, few figures and rounded, and where to go on."""

from pathlib import Path

import pytest

from llava.eval.cells import ANSWERED, COMPLETE, Record
from llava.eval.judge.benchmarks import BENCHMARKS
from llava.eval.told import tell


def told(task, figures, n=40, status=COMPLETE, tokens=16.0, out="runs/x"):
    record = Record(
        "dense", task, "dense", status, {}, headline=85.71428, n=n, figures=figures, tokens_per_image=tokens
    )
    return tell(BENCHMARKS[task], record, Path(out))


def pope(*kinds):
    one = {"f1": 85.71428571428571, "precision": 90.0, "TP": 3}
    return {"rule": "official", "categories": dict.fromkeys(kinds, one), "f1": 85.7, "yes_ratio": 63.199999999999974}


@pytest.mark.parametrize(
    ("task", "figures", "headline", "own"),
    [
        (
            "gqa",
            {"rule": "official", "binary": 63.199999999999974, "open": 100.0, "per_semantic": {"attr": 1.0}},
            "GQA: 85.71 (accuracy, exact match on testdev-balanced; 40 questions, 16.0 visual tokens an image)",
            "  binary 63.20, open 100.00",
        ),
        (
            "sqa",
            {"n_img": 32, "total": 50.0, "img": 85.7, "unreadable": 2.5},
            "SQA: 85.71 (accuracy over questions with a picture (IMG); 32 of 40 questions, "
            "16.0 visual tokens an image)",
            "  all questions 50.00, no letter 2.50",
        ),
        (
            "mmbench",
            {"plain_accuracy": 85.71428, "n_circular": 40, "circular_per_category": {"place": 1.0}},
            "MMB: 85.71 (circular accuracy on dev; 40 questions without rotations, 16.0 visual tokens an image)",
            "  row by row 85.71",
        ),
        (
            "mmbench_cn",
            {"n_circular": 11},
            "MMB-CN: 85.71 (circular accuracy on dev; 11 questions in 40 rows, 16.0 visual tokens an image)",
            None,
        ),
        (
            "pope",
            pope("random"),
            "POPE: 85.71 (F1 over random alone, no popular and no adversarial among the questions; 40 questions, "
            "16.0 visual tokens an image)",
            "  share of yes 63.20",
        ),
        (
            "pope",
            pope("adversarial", "random"),
            "POPE: 85.71 (mean F1 over random and adversarial alone, no popular among the questions; 40 questions, "
            "16.0 visual tokens an image)",
            "  F1 adversarial 85.71, F1 random 85.71, share of yes 63.20",
        ),
        (
            "mme",
            {"acc_plus": 3.0, "category_score": {"count": 60.0}, "perception_score": 60.0},
            "MME: 85.71 (perception + cognition, points (2800 at most); 40 questions, 16.0 visual tokens an image)",
            "  perception 60.00",
        ),
        (
            "llavabench",
            {"judge": "dear", "per_category": {"conv": 50.0}, "mean_model": 0.12345},
            "LLaVA-Bench: 85.71 (judged score relative to GPT-4's answers, judge dear; 40 questions, "
            "16.0 visual tokens an image)",
            "  conv 50.00",
        ),
        (
            "textvqa",
            {"rule": "official", "fixed_accuracy": 75.74999999999999, "per_category": {"default": 75.74999999999999}},
            "TextVQA: 85.71 (VQA accuracy on val; 40 questions, 16.0 visual tokens an image)",
            None,
        ),
    ],
)
def test_a_headline_and_at_most_one_line_of_own_figures(task, figures, headline, own):
    lines = told(task, figures)
    assert lines[:-2] == [headline, *([] if own is None else [own])]


def test_all_of_popes_kinds_are_the_mean_that_papers_report():
    assert (
        "(mean F1 over random, popular and adversarial; 40" in told("pope", pope("popular", "random", "adversarial"))[0]
    )


def test_the_last_lines_say_where_the_record_is_and_what_makes_a_table():
    assert told("textvqa", {}, tokens=None, out="runs/my model-first5")[-2:] == [
        "record: runs/my model-first5/cells/dense/textvqa.json",
        "table: visionzip eval report --records 'runs/my model-first5' --out 'runs/my model-first5/report'",
    ]


def test_answers_for_a_server_say_what_to_send_and_how_its_figure_gets_in():
    lines = told("vqav2", {"server": "the server", "submission": "up/load.json"}, status=ANSWERED)
    assert lines == [
        "VQAv2: answered (scored by the server; 40 questions, 16.0 visual tokens an image)",
        "  send it up/load.json, then add its figure to the last line: --server dense/vqav2=SCORE",
        "record: runs/x/cells/dense/vqav2.json",
        "table: visionzip eval report --records runs/x --out runs/x/report",
    ]
