"""The generation loop with a stub for the model: resume, shards, settings, errors."""

import contextlib
import json
import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from PIL import Image

from llava.eval.generate import Reply, generate, generate_here, generate_part, settings_file
from llava.eval.question_set import read_question_set
from llava.eval.records import read_answers, write_lines
from llava.eval.shards import Shard, part_files, process_start


@dataclass
class Stub:
    """Answers with the question's text upside down; counts what it was asked; dies after `fuse` batches."""

    model_id: str = "stub"
    settings: dict = field(default_factory=lambda: {"temperature": 0.0})
    fuse: int = 1000
    batches: list = field(default_factory=list)
    how: dict = field(default_factory=dict)

    def load(self, question, image):
        assert (image is None) == (question.image is None) and (image is None or image.mode == "RGB")
        return question

    def reply(self, batch):
        if len(self.batches) == self.fuse:
            raise KeyboardInterrupt
        self.batches.append([question.question_id for question in batch])
        return [Reply(q.text[::-1], 0 if q.image is None else 10 + int(q.question_id)) for q in batch]


@pytest.fixture
def world(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    rows = [{"question_id": i, "text": f"what {i}", "image": "a.png"} for i in range(7)]
    del rows[6]["image"]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def run(world, stub, name="a.jsonl", **options):
    return generate(stub, asked(world), world / name, **options)


def asked(world):
    return read_question_set(world / "q.jsonl", world)


def test_answers_are_complete_in_order_and_counted(world):
    result = run(world, Stub(), batch_size=3)
    assert [a.text for a in result.answers] == [f"what {i}"[::-1] for i in range(7)]
    assert result.asked == 7
    assert result.tokens_per_image == pytest.approx(sum(range(10, 16)) / 6)  # the text-only question does not count
    assert read_answers(world / "a.jsonl") == result.answers


@pytest.mark.parametrize("batch_size", [2, 4, 9])
def test_batch_size_does_not_change_the_file(world, batch_size):
    run(world, Stub(), batch_size=1)
    run(world, Stub(), "b.jsonl", batch_size=batch_size)
    assert (world / "a.jsonl").read_bytes() == (world / "b.jsonl").read_bytes()


def test_a_killed_run_loses_one_batch_and_a_torn_line_is_asked_again(world):
    run(world, Stub(), "whole.jsonl")
    with pytest.raises(KeyboardInterrupt):
        run(world, Stub(fuse=2), batch_size=2)
    file = world / "a.jsonl"
    assert [a.question_id for a in read_answers(file)] == [0, 1, 2, 3]
    file.write_bytes(file.read_bytes()[:-9])
    again = Stub()
    result = run(world, again, batch_size=2)
    assert again.batches == [[3, 4], [5, 6]] and result.asked == 4
    assert file.read_bytes() == (world / "whole.jsonl").read_bytes()
    done = Stub()
    assert run(world, done).tokens_per_image == result.tokens_per_image and done.batches == []


def test_a_run_says_where_it_goes_on_and_where_it_stopped(world, caplog):
    caplog.set_level("INFO")

    def said(stub):
        caplog.clear()
        with contextlib.suppress(KeyboardInterrupt):
            run(world, stub, batch_size=2)
        return caplog.messages

    stopped = "stopped at %d of 7; the same command goes on"
    assert said(Stub(fuse=1)) == [stopped % 2]
    assert said(Stub(fuse=2)) == ["going on at 3 of 7", stopped % 6]
    assert said(Stub()) == ["going on at 7 of 7"]
    assert said(Stub()) == ["7 of 7 answered already"]


def test_every_batch_is_on_disk_before_the_next_one_is_asked(world):
    class Watching(Stub):
        def reply(self, batch):
            on_disk.append((world / "a.jsonl").read_text().count("\n"))
            return super().reply(batch)

    on_disk = []
    run(world, Watching(), batch_size=3)
    assert on_disk == [0, 3, 6]


def test_shards_join_to_the_whole_even_when_there_are_more_than_questions(world):
    whole = run(world, Stub()).answers
    parts = [run(world, Stub(), f"{i}.jsonl", shard=Shard(i, 5)).answers for i in range(5)]
    assert [len(part) for part in parts] == [2, 2, 2, 1, 0]
    assert [answer for part in parts for answer in part] == whole
    assert (world / "4.jsonl").read_text() == ""


def test_ranks_write_parts_and_the_last_one_merges(world):
    whole = run(world, Stub(), "whole.jsonl").answers

    def rank(index, count, stub):
        return generate_part(stub, asked(world), world / "a.jsonl", shard=Shard(index, count), batch_size=2)

    assert rank(1, 2, Stub()) is None and not (world / "a.jsonl").exists()
    with pytest.raises(KeyboardInterrupt):
        rank(0, 2, Stub(fuse=1))
    # Started again with another number of ranks: what any part holds is not asked again.
    stubs = [Stub(), Stub(), Stub()]
    outcomes = [rank(index, 3, stub) for index, stub in enumerate(stubs)]
    assert [stub.batches for stub in stubs] == [[[2]], [[3]], []]
    assert outcomes[0] is None and outcomes[1] is not None and outcomes[1].answers == whole
    assert (world / "a.jsonl").read_bytes() == (world / "whole.jsonl").read_bytes()
    assert len(part_files(world / "a.jsonl")) == 5


def test_one_rank_of_a_launch_merges_and_a_former_launch_stops_nobody(world, monkeypatch):
    def rank(parent):
        monkeypatch.setattr("os.getppid", lambda: parent)
        return generate_part(Stub(), asked(world), world / "a.jsonl", shard=Shard(0, 1))

    whole = rank(7).answers
    assert rank(7) is None and rank(8) is None, "a launch's other ranks, on this node and on another"
    for claim in world.glob(".*.claim"):
        os.utime(claim, (0, process_start() - 1))
    assert rank(7).answers == whole, "a later launch with the same ids"
    assert rank(8) is None and len(list(world.glob(".*.claim"))) == 1


def test_a_merge_that_fails_leaves_no_claim(world):
    def rank(index):
        return generate_part(Stub(), asked(world), world / "a.jsonl", shard=Shard(index, 2))

    rank(0)
    other = world / "a.part0of3.jsonl"
    line = read_answers(world / "a.part0of2.jsonl")[0].to_row() | {"text": "something else"}
    write_lines(other, [line])
    shutil.copy(settings_file(world / "a.part0of2.jsonl"), settings_file(other))
    with pytest.raises(ValueError, match="answered twice and differently"):
        rank(1)
    other.unlink()
    assert len(rank(1).answers) == 7


def test_a_single_process_goes_on_from_the_parts_of_killed_ranks(world):
    with pytest.raises(KeyboardInterrupt):
        generate_part(Stub(fuse=2), asked(world), world / "a.jsonl", shard=Shard(0, 2))
    alone = Stub()
    assert len(generate_here(alone, asked(world), world / "a.jsonl").answers) == 7
    assert alone.batches == [[2], [3], [4], [5], [6]]


def test_chunks_and_a_launcher_are_not_mixed(world, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="--num-chunks 3 under a launcher of 2 ranks"):
        generate_here(Stub(), asked(world), world / "a.jsonl", shard=Shard(0, 3))


def test_questions_that_share_an_id_survive_a_kill_and_sharding(world):
    rows = [{"question_id": i // 2, "text": f"{word} {i // 2}"} for i in range(6) for word in [("is", "no")[i % 2]]]
    (world / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    whole = run(world, Stub()).answers
    assert [answer.text for answer in whole] == [row["text"][::-1] for row in rows]
    with pytest.raises(KeyboardInterrupt):
        run(world, Stub(fuse=3), "killed.jsonl")
    rest = Stub()
    assert run(world, rest, "killed.jsonl").answers == whole
    assert rest.batches == [[1], [2], [2]]
    parts = [generate_part(Stub(), asked(world), world / "s.jsonl", shard=Shard(index, 2)) for index in range(2)]
    assert [part.answers for part in parts if part is not None] == [whole]  # pairs are torn apart by the shards


def test_copies_of_a_line_are_asked_answered_and_counted_each(world):
    rows = [{"question_id": i, "text": f"what {i}"} for i in (3, 4, 3, 3)]
    (world / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    whole = run(world, Stub(), batch_size=2).answers
    assert [answer.question_id for answer in whole] == [3, 4, 3, 3]
    assert read_answers(world / "a.jsonl") == whole
    with pytest.raises(KeyboardInterrupt):
        run(world, Stub(fuse=3), "killed.jsonl")
    rest = Stub()
    assert run(world, rest, "killed.jsonl").answers == whole and rest.batches == [[3]]
    parts = [generate_part(Stub(), asked(world), world / "s.jsonl", shard=Shard(index, 2)) for index in range(2)]
    assert [part.answers for part in parts if part is not None] == [whole]  # the copies are torn apart by the shards


def test_a_file_made_from_other_weights_or_pictures_is_not_continued(world):
    was = {"model/a.safetensors": "1", "pictures": "x"}
    run(world, Stub(), made_from=was)
    assert run(world, Stub(), made_from=was).asked == 0
    message = r"a\.jsonl was begun with other inputs than are there now \(model/a\.safetensors\); to ask anew delete "
    with pytest.raises(ValueError, match=message + r"a\.jsonl, or answer into another file \(--name\)$"):
        run(world, Stub(), made_from={**was, "model/a.safetensors": "2"}, file_flag="--name")
    with pytest.raises(ValueError, match=r"there now \(pictures, model/a\.safetensors\).* delete b\.jsonl, a\.jsonl$"):
        shutil.copy(world / "a.jsonl", world / "b.jsonl")
        shutil.copy(settings_file(world / "a.jsonl"), settings_file(world / "b.jsonl"))
        run(world, Stub(), "b.jsonl", also_done=[world / "a.jsonl"], made_from={"pictures": "y"})


def test_a_file_begun_with_other_settings_is_not_continued(world):
    generate(Stub(), asked(world).first(2), world / "a.jsonl")
    with pytest.raises(
        ValueError, match=r"a\.jsonl was begun with other settings \(temperature: 0\.0 then, 0\.7 now\)"
    ):
        run(world, Stub(settings={"temperature": 0.7}))
    with pytest.raises(ValueError, match="model_id: 'stub' then, 'other' now"):
        run(world, Stub(model_id="other"))
    with pytest.raises(ValueError, match="other settings"):
        run(world, Stub(model_id="other"), "b.jsonl", also_done=[world / "a.jsonl"])
    settings_file(world / "a.jsonl").unlink()
    with pytest.raises(ValueError, match=r"settings\.json is missing"):
        run(world, Stub())


def test_an_edited_question_is_noticed(world):
    run(world, Stub())
    text = (world / "q.jsonl").read_text()
    (world / "q.jsonl").write_text(text.replace("what 3", "who 3"))
    with pytest.raises(
        ValueError, match="question_id 3 was answered for the prompt 'what 3', the question file now says 'who 3'"
    ):
        run(world, Stub())


def test_a_missing_or_corrupt_image_is_named_and_what_was_answered_is_kept(world):
    rows = (
        (world / "q.jsonl")
        .read_text()
        .replace('"text": "what 4", "image": "a.png"', '"text": "what 4", "image": "b.png"')
    )
    (world / "q.jsonl").write_text(rows)
    with pytest.raises(ValueError, match=r"question_id 4, image b\.png: .*b\.png (does not exist|cannot be read)"):
        run(world, Stub(), batch_size=2)
    assert [a.question_id for a in read_answers(world / "a.jsonl")] == [0, 1, 2, 3]
    (world / "b.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"question_id 4, image b\.png: .*b\.png (does not exist|cannot be read)"):
        run(world, Stub(), batch_size=2)


def test_workers_give_the_same_answers_and_name_the_image_too(world):
    run(world, Stub(), batch_size=2)
    run(world, Stub(), "b.jsonl", batch_size=2, num_workers=1)
    assert (world / "a.jsonl").read_bytes() == (world / "b.jsonl").read_bytes()
    (world / "a.png").unlink()
    with pytest.raises(ValueError, match="question_id 0, image"):
        run(world, Stub(), "c.jsonl", num_workers=1)


@dataclass
class Waiting(Stub):
    """A reply to the first batch comes once the second is loaded; a load leaves a mark in `folder`."""

    folder: Path = Path()

    def load(self, question, image):
        (self.folder / f"loaded-{question.question_id}").touch()
        return super().load(question, image)

    def reply(self, batch):
        end = time.monotonic() + 20
        while not self.batches and not (self.folder / "loaded-2").exists():
            assert time.monotonic() < end, "the next batch is only loaded when this one is answered"
            time.sleep(0.01)
        return super().reply(batch)


def test_workers_load_the_next_batch_while_one_is_answered(world):
    assert run(world, Waiting(folder=world), batch_size=2, num_workers=1).asked == 7


def test_sizes_below_one_are_refused(world):
    with pytest.raises(ValueError, match="batch size of at least 1, got 0"):
        run(world, Stub(), batch_size=0)
    with pytest.raises(ValueError, match="limit of at least 1, got 0"):
        asked(world).first(0)
