"""Question and answer files: what is read, and what a broken line is told."""

import json

import pytest

from llava.eval.records import (
    COPY,
    Answer,
    Question,
    dump_line,
    key_answers,
    merge_answers,
    read_answers,
    read_jsonl,
    read_questions,
    recover_answers,
    write_lines,
)
from llava.eval.tasks.files import questions_of


def answer(identity, text="a"):
    return Answer(identity, "p", text, "m", {"visual_tokens": 3})


def test_questions_keep_their_order_and_optional_fields(tmp_path):
    file = tmp_path / "q.jsonl"
    file.write_text(
        '{"question_id": 2, "image": "a.jpg", "text": "x"}\n\n{"question_id": "1", "text": "y", "category": "c"}\n'
    )
    assert read_questions(file) == [Question(2, "x", "a.jpg"), Question("1", "y", None, "c")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"question_id": 1, "text": "x"}\n{"question_id": 1, "te', r"q\.jsonl line 2: not JSON"),
        ("[1]\n", r"q\.jsonl line 1: expected a JSON object, got list"),
        ('{"text": "x"}\n', r"q\.jsonl line 1: expected question_id .* got None"),
        ('{"question_id": true, "text": "x"}\n', "expected question_id"),
        ('{"question_id": 9}\n', r"q\.jsonl line 1, question_id 9: expected 'text' to be a string, got None"),
        ('{"question_id": 9, "text": "x", "image": 3}\n', "question_id 9: expected 'image' to be a string"),
        (
            '{"question_id": 9, "text": "x"}\n{"question_id": "9", "text": "x", "image": "b.png"}\n',
            r"line 2: question_id '9' was used on line 1 already, for the same text and another picture",
        ),
        ("\n", r"q\.jsonl: expected at least one question"),
    ],
)
def test_a_bad_question_line_is_named(tmp_path, content, message):
    file = tmp_path / "q.jsonl"
    file.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_questions(file)


def test_a_missing_file_a_folder_and_bad_bytes_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"nope\.jsonl: expected a JSON-lines file, found nothing"):
        read_jsonl(tmp_path / "nope.jsonl")
    with pytest.raises(ValueError, match="found a folder"):
        read_jsonl(tmp_path)
    (tmp_path / "bytes.jsonl").write_bytes(b'{}\n{"a": "\xff"}\n')
    with pytest.raises(ValueError, match=r"bytes\.jsonl line 2: expected UTF-8"):
        read_jsonl(tmp_path / "bytes.jsonl")


def test_only_a_newline_ends_a_line(tmp_path):
    file = tmp_path / "a.jsonl"
    said = answer(1, "one\u2028two\u0085three\x0cfour")
    write_lines(file, [said.to_row()])
    assert read_answers(file) == [said]
    assert recover_answers(file) == [said]


def test_answer_rows_have_the_public_keys_and_repeat_exactly():
    row = answer(1).to_row()
    assert list(row) == ["question_id", "prompt", "text", "answer_id", "model_id", "metadata"]
    assert row == answer(1).to_row() and row["answer_id"] != answer(2).to_row()["answer_id"]


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_torn_last_line_is_dropped_and_the_file_repaired(tmp_path, cut):
    file = tmp_path / "a.jsonl"
    write_lines(file, [answer(i).to_row() for i in range(3)])
    whole = file.read_bytes()
    file.write_bytes(whole[:-cut])
    assert [a.question_id for a in recover_answers(file)] == [0, 1]
    assert file.read_bytes() == whole[:-cut]  # reading alone changes nothing
    recover_answers(file, repair=True)
    assert file.read_text() == "".join(dump_line(answer(i).to_row()) for i in range(2))


def test_a_last_line_of_garbage_is_torn_too_but_one_before_it_is_an_error(tmp_path):
    file = tmp_path / "a.jsonl"
    line = dump_line(answer(0).to_row())
    file.write_text(line + '{"question_id": 1, "te\n')
    assert [a.question_id for a in recover_answers(file, repair=True)] == [0]
    assert file.read_text() == line
    file.write_text('{"question_id": 1, "te\n' + line)
    with pytest.raises(ValueError, match="line 1: not JSON"):
        recover_answers(file, repair=True)
    assert recover_answers(tmp_path / "nothing.jsonl") == []


def test_merging_joins_by_id_in_question_order():
    questions = [Question(i, "p") for i in (2, 0, 1)]
    merged = merge_answers(questions, [[answer(0), answer(1)], [answer(2), answer(1)]])
    assert [a.question_id for a in merged] == [2, 0, 1]
    with pytest.raises(ValueError, match=r"missing 1 \(2\)"):
        merge_answers(questions, [[answer(0), answer(1)]])
    with pytest.raises(ValueError, match="answered twice and differently: 'a' and 'b'"):
        merge_answers(questions, [[answer(0)], [answer(0, "b")]])


def test_questions_that_share_an_id_are_joined_by_their_text(tmp_path):
    """As in the public files of MME and TextVQA, whose id is the picture's."""
    file = tmp_path / "q.jsonl"
    rows = [("a.png", "cat?"), ("b.png", "cat?"), ("a.png", "dog?")]
    write_lines(file, [{"question_id": name, "image": name, "text": text} for name, text in rows])
    questions = read_questions(file)
    assert [question.shares_id for question in questions] == [True, False, True]
    assert len({question.key for question in questions}) == 3
    answers = [Answer(name, text, f"{name} {text}", "m") for name, text in rows]
    merged = merge_answers(questions, [answers[::-1]])
    assert [answer.text for answer in merged] == ["a.png cat?", "b.png cat?", "a.png dog?"]
    assert len({answer.to_row()["answer_id"] for answer in answers}) == 3
    with pytest.raises(ValueError, match=r"missing 1 \(a.png: dog\?\)"):
        merge_answers(questions, [answers[:2]])


def test_a_line_that_stands_there_twice_is_counted_twice(tmp_path):
    """As the public programs do; among ids that are shared, too."""
    file = tmp_path / "q.jsonl"
    rows = [(1, "cat?"), (2, "cat?"), ("1", "cat?"), (2, "dog?"), (2, "cat?")]
    write_lines(file, [{"question_id": name, "text": text} for name, text in rows])
    questions = read_questions(file)
    keys = ["1", "2: cat?", "1 (copy 2)", "2: dog?", "2: cat? (copy 2)"]
    assert [question.key for question in questions] == keys
    public = [Answer(name, text, "yes", "m") for name, text in rows]  # a public program numbers nothing
    assert [key for key, _ in key_answers(questions, public)] == keys
    assert merge_answers(questions, [public]) == public
    assert [one.key for one in questions_of(public)] == keys
    numbered = [Answer(1, "cat?", str(copy), "m", {COPY: copy}) for copy in (2, 1)]
    assert [key for key, _ in key_answers(questions, numbered)] == ["1 (copy 2)", "1"]
    with pytest.raises(ValueError, match=r"missing 1 \(1 \(copy 2\)\)"):
        merge_answers(questions, [[public[0], *public[3:], public[1]]])


def test_files_are_written_whole_or_not_at_all(tmp_path):
    file = tmp_path / "deep" / "a.jsonl"
    write_lines(file, [{"a": 1}])

    def rows():
        yield {"a": 2}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_lines(file, rows())
    assert json.loads(file.read_text()) == {"a": 1}
    assert [p.name for p in file.parent.iterdir()] == ["a.jsonl"]
