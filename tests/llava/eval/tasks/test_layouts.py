"""The public files of every benchmark: read, joined to their annotations, scored, and written for servers."""

import io
import json
from pathlib import Path

import openpyxl
import pandas as pd
import pytest

from llava.eval.judge.benchmarks import BENCHMARKS
from llava.eval.records import Answer
from llava.eval.tasks import TASKS
from llava.eval.tasks.files import index_labels, read_json
from tests.tiny_eval import (
    LETTER,
    TEN_RED,
    ask,
    dump,
    jsonl,
    mmbench_rows,
    pope_labels,
    vqav2_annotations,
    write_mmbench,
    write_root,
)

SERVED = {"vqav2", "vizwiz"}  # whose answers only a server knows
VQAV2_HIDDEN = TASKS["vqav2"].annotations[0]  # which nobody can get


@pytest.fixture
def root(tmp_path):
    return write_root(tmp_path)


def say(asked, *texts):
    return [Answer(one.question_id, one.text, text, "m") for one, text in zip(asked.questions, texts, strict=True)]


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def references(root, task):
    """What is right, for the questions of the benchmark's own file."""
    benchmark = TASKS[task]
    return benchmark.references(root, benchmark.read(root).questions)


def score(root, task, *texts):
    """Score these answers to the benchmark's questions, in file order."""
    benchmark = TASKS[task]
    asked = benchmark.read(root)
    return benchmark.score(asked.questions, references(root, benchmark.name), say(asked, *texts))


def test_the_benchmarks_and_their_column_heads_in_table_order():
    heads = [(name, task.title) for name, task in TASKS.items()]
    assert heads == [
        ("gqa", "GQA"),
        ("mmbench", "MMB"),
        ("mmbench_cn", "MMB-CN"),
        ("mme", "MME"),
        ("pope", "POPE"),
        ("sqa", "SQA"),
        ("vqav2", "VQAv2"),
        ("textvqa", "TextVQA"),
        ("vizwiz", "VizWiz"),
        ("seed", "SEED"),
        ("seed_image", "SEED-I"),
    ]
    long = {name for name, task in TASKS.items() if task.max_new_tokens == 1024}
    assert long == {"sqa", "mmbench", "mmbench_cn"} and {t.max_new_tokens for t in TASKS.values()} == {128, 1024}


def test_where_the_public_scripts_put_what_is_sent_in():
    places = {name: task.upload.format(name="m") for name, task in TASKS.items() if task.submit}
    assert places == {
        "gqa": "gqa/answers_upload/m/testdev_balanced_predictions.json",
        "vqav2": "vqav2/answers_upload/llava_vqav2_mscoco_test-dev2015/m.json",
        "vizwiz": "vizwiz/answers_upload/m.json",
        "mme": "MME/eval_tool/answers/m",
        "mmbench": "mmbench/answers_upload/mmbench_dev_20230712/m.xlsx",
        "mmbench_cn": "mmbench_cn/answers_upload/mmbench_dev_cn_20231003/m.xlsx",
        "seed": "seed_bench/answers_upload/m.jsonl",
        "seed_image": "seed_bench/answers_upload/m-images.jsonl",
    }


@pytest.mark.parametrize("task", sorted(TASKS))
def test_every_picture_opens_and_every_question_has_its_reference(root, task):
    benchmark = TASKS[task]
    benchmark.require_files(root)
    asked = benchmark.read(root)
    for question in asked.questions:
        assert question.image is None or asked.pictures.open(question.image).mode == "RGB"
    labels = references(root, benchmark.name)
    assert (labels is None) == (task in SERVED)
    if labels is not None:
        assert set(labels) == {question.key for question in asked.questions}


@pytest.mark.parametrize("task", sorted(TASKS))
def test_a_missing_file_is_named_with_where_to_get_it(root, task):
    benchmark = TASKS[task]
    (root / benchmark.questions).unlink()
    source = "download.openmmlab.com" if task.startswith("mmbench") else "eval.zip"
    for missing in (benchmark.require_files, benchmark.read):
        with pytest.raises(ValueError, match=rf"{benchmark.questions} not found; .*{source}"):
            missing(root)


@pytest.mark.parametrize("task", sorted(set(TASKS) - SERVED - {"mme", "mmbench", "mmbench_cn"}))
def test_missing_annotations_are_named_with_where_to_get_them(root, task):
    for name in TASKS[task].annotations:
        (root / name).rename(root / "away")
        with pytest.raises(ValueError, match=rf"{name} not found; .*http"):
            references(root, task)
        (root / "away").rename(root / name)


def test_the_page_about_the_data_names_every_file_of_every_benchmark():
    page = (Path(__file__).resolve().parents[4] / "playground" / "data" / "README.md").read_text(encoding="utf-8")
    for benchmark in BENCHMARKS.values():
        files = {benchmark.questions, benchmark.images, *benchmark.annotations} - {None, VQAV2_HIDDEN}
        assert [name for name in files if f"`{name}" not in page] == []


def test_gqa(root):
    result = score(root, "gqa", "No", "Dog.")
    assert result.headline == 50.0 and (result.extra["binary"], result.extra["open"]) == (0.0, 100.0)
    asked = TASKS["gqa"].read(root)
    written = TASKS["gqa"].submit(root, asked, say(asked, "No", "Dog.")[::-1], root / "out" / "p.json")
    expected = [{"questionId": "201", "prediction": "no"}, {"questionId": "202", "prediction": "dog"}]
    assert json.loads(written.read_text()) == expected
    dump(root / "gqa/data/testdev_balanced_questions.json", {"201": {"answer": "yes", "types": {}}})
    with pytest.raises(ValueError, match=r"testdev_balanced_questions.json has no reference for question_id '202'"):
        references(root, "gqa")


def test_pope_joins_by_category_picture_and_question(root):
    result = score(root, "pope", "yes", "yes", "no", "no", "yes")
    # adversarial: hit, false alarm -> F1 2/3. popular: miss -> 0. random: right twice -> 1.
    assert result.headline == pytest.approx(100 * (2 / 3 + 0 + 1) / 3)
    for category in ("random", "popular", "adversarial"):
        rows = pope_labels(category)[::-1]
        jsonl(root / f"pope/coco/coco_pope_{category}.json", [{**row, "question_id": n} for n, row in enumerate(rows)])
    assert score(root, "pope", "yes", "yes", "no", "no", "yes") == result


def test_pope_of_two_pictures_asked_the_same_with_labels_in_another_order(root):
    said = {(1, "cat"): "yes", (1, "dog"): "no", (2, "cat"): "no", (2, "dog"): "yes"}
    rows = [ask(n, f"COCO_{i}.jpg", f"Is there a {what}?", "random") for n, (i, what) in enumerate(said, start=1)]
    jsonl(root / "pope/llava_pope_test.jsonl", rows)
    labels = [{"image": f"COCO_{i}.jpg", "text": f"Is there a {what}?", "label": v} for (i, what), v in said.items()]
    shuffled = [labels[place] for place in (2, 0, 3, 1)]
    jsonl(root / "pope/coco/coco_pope_random.json", [{"question_id": n, **row} for n, row in enumerate(shuffled)])
    result = score(root, "pope", "Yes, there is", "No, there isn't", "No, there isn't", "No, there isn't.")
    assert list(result.items.values()) == [1.0, 1.0, 1.0, 0.0]
    assert result.headline == pytest.approx(200 / 3), "one hit, one miss, no false alarm"


def test_pope_refuses_labels_that_differ_or_lack(root):
    file = root / "pope/coco/coco_pope_random.json"
    rows = pope_labels("random")
    jsonl(file, [*rows, rows[0]])
    assert references(root, "pope")["5"] == {"answer": "yes"}
    jsonl(file, [*rows, {**rows[0], "label": "no"}])
    with pytest.raises(ValueError, match=r"coco_pope_random.json: two labels for \('COCO_1.jpg', 'Is there a cat"):
        references(root, "pope")
    jsonl(file, rows[1:])
    with pytest.raises(ValueError, match=r"coco_pope_random.json has no reference for question_id 5"):
        references(root, "pope")


def test_vqav2(root):
    benchmark = TASKS["vqav2"]
    asked = benchmark.read(root)
    answers = say(asked, "The Red.", "two")
    written = benchmark.submit(root, asked, answers[::-1], root / "out.json")
    expected = [(11, ""), (12, "red"), (13, "2")]
    assert json.loads(written.read_text()) == [{"question_id": key, "answer": said} for key, said in expected]
    with pytest.raises(ValueError, match=r"missing 1 \(13\)"):
        benchmark.submit(root, asked, answers[:1], root / "out.json")
    dump(root / benchmark.annotations[0], vqav2_annotations(14, 13, 12))
    result = score(root, "vqav2", "The Red.", "two")
    assert result.headline == 50.0 and result.extra["per_answer_type"] == {"other": 50.0}
    dump(root / benchmark.annotations[0], vqav2_annotations(12))
    with pytest.raises(ValueError, match=r"test-dev2015_annotations.json has no reference for question_id 13"):
        references(root, benchmark.name)


def test_vizwiz(root):
    benchmark = TASKS["vizwiz"]
    asked = benchmark.read(root)
    written = benchmark.submit(root, asked, say(asked, "Unanswerable.", "a dog")[::-1], root / "out.json")
    expected = [("VizWiz_test_00000000.jpg", "unanswerable"), ("VizWiz_test_00000001.jpg", "dog")]
    assert json.loads(written.read_text()) == [{"image": image, "answer": said} for image, said in expected]
    with pytest.raises(ValueError, match=r"missing 1 \(1\)"):
        benchmark.submit(root, asked, say(asked, "x", "y")[:1], root / "out.json")
    rows = json.loads((root / "vizwiz/test.json").read_text())  # the second picture comes first
    told = [["dog"] * 3 + ["cat"] * 7, ["unanswerable"] * 10]
    labels = [
        {**row, "answers": [{"answer": word, "answer_confidence": "yes"} for word in words], "answer_type": kind}
        for row, words, kind in zip(rows, told, ("other", "unanswerable"), strict=True)
    ]
    dump(root / "vizwiz/test.json", labels)
    result = score(root, "vizwiz", "Unanswerable", "a dog")
    assert list(result.items.values()) == [1.0, pytest.approx(0.9)] and result.headline == pytest.approx(95.0)
    dump(root / "vizwiz/test.json", labels[:1])
    with pytest.raises(ValueError, match=r"test.json has no reference for question_id 0"):
        references(root, benchmark.name)


def test_textvqa_joins_by_picture_and_question(root):
    result = score(root, "textvqa", "Red", "2001")
    assert list(result.items.values()) == [1.0, 0.0]
    assert len(result.items) == 2, "two questions about one picture share its id"
    file = root / "textvqa/TextVQA_0.5.1_val.json"
    row = {"question": "what year is it?", "image_id": "0a1b", "answers": TEN_RED}
    dump(file, {"data": [row]})
    with pytest.raises(ValueError, match=r"no reference for question_id '0a1b' .*'what brand is it\?'"):
        references(root, "textvqa")
    dump(file, {"data": [{**row, "answers": ["red"]}]})
    with pytest.raises(ValueError, match=r"TextVQA_0.5.1_val.json: expected 10 human answers, got 1"):
        references(root, "textvqa")


def test_textvqa_takes_the_last_of_two_labels_that_differ_and_says_so_once(root, caplog):
    """The public scorer joins by picture and question as well, and there the later row replaces the earlier one."""
    file = root / "textvqa/TextVQA_0.5.1_val.json"
    rows = json.loads(file.read_text())["data"]  # the year is 1999, the brand red
    year, brand = ({**row, "question": row["question"].upper()} for row in rows)
    dump(file, {"data": [*rows, {**brand, "answers": [*brand["answers"]]}, {**year, "answers": ["2001"] * 10}]})
    assert list(score(root, "textvqa", "red", "2001").items.values()) == [1.0, 1.0]
    (said,) = caplog.messages
    assert "TextVQA_0.5.1_val.json: 1 questions are there more than once with different answers" in said
    assert "('0a1b', 'what year is it?')" in said and "the last row counts" in said
    caplog.clear()
    mixed = ["red"] * 9 + ["blue"]
    many = [{**year, "answers": ["2001"] * 10}, {**brand, "answers": mixed}, {**brand, "answers": mixed[::-1]}, *rows]
    dump(file, {"data": many})
    assert list(score(root, "textvqa", "red", "2001").items.values()) == [1.0, 0.0], "the last says 1999"
    assert len(caplog.messages) == 1 and "2 questions" in caplog.messages[0]
    caplog.clear()
    dump(file, {"data": [*rows, {**brand, "answers": brand["answers"]}]})
    references(root, "textvqa")
    assert caplog.messages == []


def test_mme_joins_by_category_picture_and_question(root):
    result = score(root, "mme", "No", "Yes", "no", "no.")
    assert result.extra["category_score"] == {"posters": 200.0, "OCR": 50.0} and result.headline == 250.0
    asked = TASKS["mme"].read(root)
    folder = TASKS["mme"].submit(root, asked, say(asked, "No", "Yes", "no\tnever\n", "no."), root / "answers" / "m")
    assert sorted(file.name for file in folder.iterdir()) == ["OCR.txt", "posters.txt"]
    assert (folder / "OCR.txt").read_text().splitlines() == [
        "0001.png\tIs it a map?  Please answer yes or no.\tNo\tno never",
        "0001.png\tIs it  a film? Please answer yes or no.\tYes\tno.",
    ]
    labels = root / "MME/MME_Benchmark_release_version/OCR/0001.txt"
    labels.write_text("Is it a map? Please answer yes or no.\tNo\n")
    with pytest.raises(ValueError, match=r"no reference for question_id 'OCR/0001.png' .*'Is it a film\?'"):
        references(root, "mme")
    labels.write_text("Is it a map? Yes\n")
    with pytest.raises(ValueError, match=r"0001.txt: expected lines of a question, a tab, and Yes or No"):
        references(root, "mme")


def test_mmbench_prompts_and_pictures(root):
    asked = TASKS["mmbench"].read(root)
    assert [one.text for one in asked.questions] == [
        f"Look.\nWhat?\nA. cat\nB. dog\n{LETTER}",
        f"Where?\n{LETTER}",  # an option `None` ends the list, as in LLaVA's program, and here it is the first
        f"Look.\nWhat?\nA. dog\nB. cat\n{LETTER}",
        f"Where?\nA. left\nB. right\n{LETTER}",
    ]
    assert [one.question_id for one in asked.questions] == [7, 8, 1000007, 1000008]
    assert [one.image for one in asked.questions] == ["7", "8", "7", "8"], "rotations are about one picture"
    assert [one.category for one in asked.questions] == ["animal", "place"] * 2
    assert asked.pictures.open("7").getpixel((0, 0)) == (10, 10, 10)
    assert TASKS["mmbench_cn"].read(root).questions[0].text.endswith("B. dog\n请直接回答选项字母。")


@pytest.mark.parametrize("word", ["None", "none", "nan", "NaN", "NA", "N/A", "n/a", "null", "NULL", "<NA>", "#N/A"])
def test_mmbench_words_that_llavas_program_takes_for_empty_cells(root, word):
    """pandas reads them as missing (or LLaVA's own check does): no such hint, no such option and none after it."""
    rows = mmbench_rows()
    rows[0][2:7] = [word, "cat", word, "dog", "cow"]
    write_mmbench(root / TASKS["mmbench"].questions, rows)
    assert TASKS["mmbench"].read(root).questions[0].text == f"What?\nA. cat\n{LETTER}"
    assert word.lower() in ("none", "nan") or pd.read_csv(io.StringIO(f"a\tb\n{word}\t1\n"), sep="\t")["a"].isna().all()
    rows[0][2:7] = [f"{word}.", "cat", f"{word}!", "dog", "0"]
    write_mmbench(root / TASKS["mmbench"].questions, rows)
    asked = f"{word}.\nWhat?\nA. cat\nB. {word}!\nC. dog\nD. 0\n{LETTER}"
    assert TASKS["mmbench"].read(root).questions[0].text == asked


def test_mmbench_scores_by_question_and_knows_a_test_split(root):
    result = score(root, "mmbench", "B", "A", "A.", "B")
    assert (result.headline, result.accuracy) == (50.0, 75.0)
    rows = mmbench_rows()
    for row in rows:
        row[7] = ""
    write_mmbench(root / TASKS["mmbench"].questions, rows)
    assert references(root, "mmbench") is None
    rows[1][7] = "A"
    write_mmbench(root / TASKS["mmbench"].questions, rows)
    with pytest.raises(ValueError, match=r"mmbench_dev_20230712.tsv has no reference for 3 rows, first index 7"):
        references(root, "mmbench")


def test_mmbench_workbook(root):
    asked = TASKS["mmbench"].read(root)
    written = TASKS["mmbench"].submit(root, asked, say(asked, "B", "A", "C", "D")[::-1], root / "up" / "m.xlsx")
    rows = list(openpyxl.load_workbook(written).active.iter_rows(values_only=True))
    assert rows[0] == ("index", "question", "A", "B", "C", "D", "prediction", "answer", "split")
    assert rows[1] == (7, "What?", "cat", "dog", None, None, "B", "B", "dev")
    assert [row[6] for row in rows[1:]] == ["B", "A", "C", "D"]
    odd = TASKS["mmbench"].submit(root, asked, say(asked, "B\x17", "A", "C", "D"), root / "up" / "odd.xlsx")
    assert openpyxl.load_workbook(odd).active["G2"].value == "B\ufffd"  # what no workbook can hold
    with pytest.raises(ValueError, match=r"missing 3"):
        TASKS["mmbench"].submit(root, asked, say(asked, "B", "A", "C", "D")[:1], root / "up" / "m.xlsx")


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (9, "77", "row 8: expected a picture in base64 or the index of a row with one: '77'"),
        (9, "", "row 8: expected a picture"),
        (3, "", "row 8 has no option A"),
        (0, "7", r"its own whole number as index, got \['7'\]"),
        (0, "x", r"its own whole number as index, got \['x'\]"),
    ],
)
def test_mmbench_refuses_a_broken_row(root, column, value, message):
    rows = mmbench_rows()
    rows[1][column] = value
    write_mmbench(root / TASKS["mmbench"].questions, rows)
    with pytest.raises(ValueError, match=f"mmbench_dev_20230712.tsv: .*{message}"):
        TASKS["mmbench"].read(root)


def test_seed_images_alone(root):
    asked = TASKS["seed_image"].read(root)
    labels = references(root, "seed")
    assert [labels[one.key]["data_type"] for one in asked.questions] == ["image"]
    result = score(root, "seed_image", labels[asked.questions[0].key]["answer"])
    assert (result.name, result.headline, result.n) == ("seed_image", 100.0, 1)


def test_seed(root):
    result = score(root, "seed", "A", "B")
    assert (result.headline, result.extra["image"], result.extra["video"]) == (50.0, 100.0, 0.0)
    assert result.extra["per_type"] == {"Action Recognition": 0.0, "Scene Understanding": 100.0}
    asked = TASKS["seed"].read(root)
    written = TASKS["seed"].submit(root, asked, say(asked, "A", "B.")[::-1], root / "out.jsonl")
    expected = [{"question_id": "101", "prediction": "A"}, {"question_id": "v7", "prediction": "B."}]
    assert lines(written) == expected


def test_sqa(root):
    asked = TASKS["sqa"].read(root)
    assert [(one.question_id, one.image) for one in asked.questions] == [("4", None), ("5", "5/image.png")]
    assert asked.questions[0].text == f"Which?\nA. a\nB. b\nC. c\n{LETTER}"
    assert asked.questions[1].text == f"<image>\nContext: c\nWhat?\nA. a\nB. b\n{LETTER}"
    result = score(root, "sqa", "C", "A")
    assert (result.headline, result.accuracy) == (0.0, 50.0)
    dump(root / "scienceqa/pid_splits.json", {"test": ["4"]})
    with pytest.raises(ValueError, match=r"problems.json has no reference for question_id '5'"):
        references(root, "sqa")
    dump(root / "scienceqa/pid_splits.json", {"test": ["4", "9"]})
    with pytest.raises(ValueError, match=r"problems.json lacks 1 problems of the split 'test', first \['9'\]"):
        references(root, "sqa")


def test_labels_and_json_of_the_wrong_kind(tmp_path):
    assert index_labels([("a", {"answer": "x"}), ("a", {"answer": "x"})], tmp_path) == {"a": {"answer": "x"}}
    dump(tmp_path / "a.json", [])
    with pytest.raises(ValueError, match=r"a.json: expected a JSON dict, got list"):
        read_json(tmp_path / "a.json", dict, "get it")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match=r"a.json: not JSON"):
        read_json(tmp_path / "a.json", dict, "get it")
