"""LLaVA's scoring scripts: eval_pope, eval_textvqa, eval_science_qa."""

import json

import pytest
import typer
from typer.testing import CliRunner

from llava.eval import eval_pope, eval_science_qa, eval_textvqa
from tests.tiny_eval import answer_file, jsonl, pope_labels, write_root


@pytest.fixture
def root(tmp_path):
    return write_root(tmp_path)


def run(program, **flags):
    app = typer.Typer()
    app.command()(program.main)
    words = [word for key, value in flags.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    result = CliRunner().invoke(app, words)
    return result.exit_code, " ".join(result.output.replace("│", " ").split())


def test_pope_per_category_and_mean(root):
    said = answer_file(root, "pope", "a.jsonl", "Yes", "Yes", "No", "No", "Yes")
    files = {"annotation_dir": root / "pope/coco", "question_file": root / "pope/llava_pope_test.jsonl"}
    code, output = run(eval_pope, **files, result_file=said, out=root / "pope.json")
    assert code == 0, output
    random = "Category: random, # samples: 2 TP FP TN FN 1 0 1 0 Accuracy: 1.0000 Precision: 1.0000 Recall: 1.0000"
    assert f"{random} F1 score: 1.0000 Yes ratio: 0.5000" in output
    assert "Category: adversarial, # samples: 2 TP FP TN FN 1 1 0 0" in output
    assert "Average F1 score: 0.5556" in output and "Accuracy over all 5: 0.6000" in output
    assert output.index("random") < output.index("popular") < output.index("adversarial")
    record = json.loads((root / "pope.json").read_text())
    assert record["headline"] == pytest.approx(100 * 5 / 9) and "coco_pope_popular.json" in record["inputs"]
    for category in ("random", "popular", "adversarial"):
        jsonl(root / f"pope/coco/coco_pope_{category}.json", pope_labels(category)[::-1])
    assert run(eval_pope, **files, result_file=said) == (0, output)


def test_pope_names_a_missing_label_file(root):
    said = answer_file(root, "pope", "a.jsonl", "Yes", "Yes", "No", "No", "Yes")
    code, output = run(
        eval_pope, annotation_dir=root, question_file=root / "pope/llava_pope_test.jsonl", result_file=said
    )
    joined = output.replace(" ", "")  # the message box cuts long words
    assert code == 2 and "coco_pope_adversarial.jsonnotfound" in joined and "AoiDragon/POPE" in joined


def test_textvqa_needs_no_question_file(root):
    said = answer_file(root, "textvqa", "answers/m.jsonl", "Red", "2001")
    labels = root / "textvqa/TextVQA_0.5.1_val.json"
    code, output = run(eval_textvqa, annotation_file=labels, result_file=said, out=root / "t.json")
    assert code == 0 and "m Samples: 2 Accuracy: 50.00%" in output
    assert json.loads((root / "t.json").read_text())["headline"] == 50.0
    answer_file(root, "textvqa", "answers/n.jsonl", "Red", "1999")
    assert "n Samples: 2 Accuracy: 100.00%" in run(eval_textvqa, annotation_file=labels, result_dir=root / "answers")[1]


def test_textvqa_flags_that_do_not_fit(root):
    labels = root / "textvqa/TextVQA_0.5.1_val.json"
    code, output = run(eval_textvqa, annotation_file=labels)
    assert code == 2 and "either --result-file or --result-dir" in output
    code, output = run(eval_textvqa, annotation_file=labels, result_dir=root / "scienceqa")
    assert code == 2 and "expected answer files (*.jsonl), found none" in output
    code, output = run(eval_textvqa, annotation_file=labels, result_dir=root, out=root / "o.json")
    assert code == 2 and "--out holds one result" in output


def test_science_figures_and_files(root):
    said = answer_file(root, "sqa", "a.jsonl", "The answer is C.", "I cannot say")
    flags = {"base_dir": root / "scienceqa", "result_file": said}
    written = {"output_file": root / "o" / "out.jsonl", "output_result": root / "o" / "result.json"}
    code, output = run(eval_science_qa, **flags, **written, out=root / "s.json")
    assert code == 0, output
    assert "Total: 2, Correct: 1, Accuracy: 50.00%, IMG-Accuracy: 0.00%" in output and "Failed: 1" in output
    result = json.loads(written["output_result"].read_text())
    assert result["results"] == {"4": 2, "5": -1} and result["outputs"]["5"] == "I cannot say"
    assert (result["acc"], result["correct"], result["count"]) == (50.0, 1, 2)
    sorted_out = json.loads(written["output_file"].read_text())
    assert [row["question_id"] for row in sorted_out["correct"]] == ["4"]
    wrong = sorted_out["incorrect"][0]
    assert (wrong["parsed_ans"], wrong["ground_truth"], wrong["is_multimodal"]) == ("FAILED", "B", True)
    assert json.loads((root / "s.json").read_text())["headline"] == 0.0


def test_science_has_no_place_for_a_letter_that_is_no_choice(root):
    said = answer_file(root, "sqa", "a.jsonl", "C", "The answer is C.")  # of three choices, of two
    written = {"output_file": root / "out.jsonl", "output_result": root / "result.json"}
    code, output = run(eval_science_qa, base_dir=root / "scienceqa", result_file=said, **written)
    assert code == 0, output
    assert json.loads(written["output_result"].read_text())["results"] == {"4": 2, "5": -1}
    assert "Correct: 1" in output and "Failed: 0" in output


def test_science_counts_a_missing_answer_as_failed_and_says_so(root):
    said = answer_file(root, "sqa", "a.jsonl", "C", "B")
    said.write_text(said.read_text().splitlines()[0] + "\n")
    written = {"output_file": root / "out.jsonl", "output_result": root / "result.json"}
    code, output = run(eval_science_qa, base_dir=root / "scienceqa", result_file=said, **written)
    assert code == 0, output
    assert "1 of 2 questions have no answer and count as failed ones without a picture" in output
    assert "first 4" in output
    assert "Total: 2, Correct: 1, Accuracy: 50.00%, IMG-Accuracy: 100.00%" in output and "Failed: 1" in output
    assert json.loads(written["output_result"].read_text())["results"] == {"4": -1, "5": 1}
    (wrong,) = json.loads(written["output_file"].read_text())["incorrect"]
    assert (wrong["question_id"], wrong["parsed_ans"], wrong["pred"]) == ("4", "FAILED", "FAILED")
    assert (wrong["question"], wrong["is_multimodal"]) == ("Unknown", False)
    code, output = run(eval_science_qa, base_dir=root / "scienceqa", result_file=said, split="val", **written)
    assert code == 2 and "has no split 'val'; it has train, test" in output
