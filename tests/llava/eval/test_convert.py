"""LLaVA's conversion scripts as subcommands, on its folder layout."""

import json

import openpyxl
import pytest
from typer.testing import CliRunner

from llava.eval.convert import app
from llava.eval.records import Answer, write_lines
from llava.eval.tasks import TASKS
from tests.tiny_eval import answer_file, jsonl, write_root


@pytest.fixture
def root(tmp_path):
    return write_root(tmp_path)


def run(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, " ".join(result.output.replace("│", " ").split())


def convert(*words):
    code, output = run(*words)
    assert code == 0, output
    return output


def test_vqav2(root):
    split = "llava_vqav2_mscoco_test-dev2015"
    answer_file(root, "vqav2", f"vqav2/answers/{split}/m/merge.jsonl", "The Red.", "two")
    output = convert("vqav2", "--dir", root / "vqav2", "--split", split, "--ckpt", "m")
    assert "3 questions, 2 answered" in output
    rows = json.loads((root / "vqav2/answers_upload" / split / "m.json").read_text())
    expected = [(11, ""), (12, "red"), (13, "2")]
    assert rows == [{"question_id": key, "answer": said} for key, said in expected]
    jsonl(root / "vqav2/llava_vqav2_mscoco_test2015.jsonl", [{"question_id": 12, "text": "What?"}])
    code, output = run("vqav2", "--dir", root / "vqav2", "--split", split, "--ckpt", "m")
    assert code == 2 and "1 answers to questions that are not in test2015, first ['13']" in output


def test_gqa(root):
    source = answer_file(root, "gqa", "a.jsonl", "Yes.", "A Dog..")
    convert("gqa", "--src", source, "--dst", root / "p.json")
    rows = {row["questionId"]: row["prediction"] for row in json.loads((root / "p.json").read_text())}
    assert rows == {"201": "yes", "202": "a dog"}


def test_vizwiz(root):
    source = answer_file(root, "vizwiz", "a.jsonl", "Unanswerable", "a dog")
    words = ["vizwiz", "--annotation-file", root / "vizwiz/llava_test.jsonl", "--result-file", source]
    convert(*words, "--result-upload-file", root / "up" / "v.json")
    rows = json.loads((root / "up" / "v.json").read_text())
    assert rows[0] == {"image": "VizWiz_test_00000000.jpg", "answer": "unanswerable"} and rows[1]["answer"] == "dog"
    source.write_text(source.read_text().splitlines()[0] + "\n")
    code, output = run(*words, "--result-upload-file", root / "up" / "w.json")
    assert code == 2 and "missing 1 (0)" in output and not (root / "up" / "w.json").exists()


def test_mmbench(root):
    answer_file(root, "mmbench", "answers/m.jsonl", "B", "A", "C", "D")
    table = root / TASKS["mmbench"].questions
    words = ["mmbench", "--annotation-file", table, "--result-dir", root / "answers", "--upload-dir", root / "up"]
    convert(*words, "--experiment", "m")
    rows = list(openpyxl.load_workbook(root / "up" / "m.xlsx").active.iter_rows(values_only=True))
    assert rows[0][6] == "prediction" and [row[6] for row in rows[1:]] == ["B", "A", "C", "D"]
    lines = (root / "answers/m.jsonl").read_text()
    (root / "answers/m.jsonl").write_text(lines.replace("1000008", "99"))
    code, output = run(*words, "--experiment", "m")
    assert code == 2 and "1 of them not there ['99']" in output
    (root / "answers/m.jsonl").write_text(lines + lines.splitlines()[0] + "\n")
    code, output = run(*words, "--experiment", "m")
    assert code == 2 and "got 5 to 4 rows" in output


def test_seed(root):
    source = answer_file(root, "seed", "a.jsonl", "A", "B")
    labels = root / "seed_bench/SEED-Bench.json"
    files = ["--annotation-file", labels, "--result-file", source, "--result-upload-file", root / "up.jsonl"]
    output = convert("seed", *files, "--out", root / "seed.json")
    assert "Action Recognition: 0.00% Scene Understanding: 100.00%" in output
    assert "Total accuracy: 50.00% (2 of 3 questions answered)" in output
    assert "Image accuracy: 100.00% Video accuracy: 0.00%" in output
    assert '{"question_id": "101", "prediction": "A"}' in (root / "up.jsonl").read_text()
    record = json.loads((root / "seed.json").read_text())
    assert (record["headline"], record["n"]) == (50.0, 2)
    assert set(record["inputs"]) == {"SEED-Bench.json", "a.jsonl"} and "commit" in record["stamp"]


def test_mme(root):
    answer_file(root, "mme", "MME/answers/m.jsonl", "No", "Yes", "no", "no.")
    output = convert("mme", "--dir", root / "MME", "--experiment", "m")
    assert "posters: 200.00" in output and "OCR: 50.00" in output and "perception total: 250.00" in output
    assert "cognition" not in output
    lines = (root / "MME/eval_tool/answers/m/posters.txt").read_text().splitlines()
    assert lines == [
        "tt1.jpg\tIs it  a film? Please answer yes or no.\tYes\tYes",
        "tt1.jpg\tIs it a map?  Please answer yes or no.\tNo\tNo",
    ]


def test_mmvet(root):
    write_lines(root / "a.jsonl", [Answer(3, "q", "Three.", "m").to_row()])
    convert("mmvet", "--src", root / "a.jsonl", "--dst", root / "out" / "m.json")
    assert json.loads((root / "out" / "m.json").read_text()) == {"v1_3": "Three."}


def test_a_missing_file_is_a_usage_error(root):
    code, output = run("gqa", "--src", root / "none.jsonl", "--dst", root / "p.json")
    assert code == 2 and "found nothing there" in output
