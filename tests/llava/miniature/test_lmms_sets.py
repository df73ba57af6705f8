"""The miniature's data sets for lmms-eval: the hub's layout, their columns, and what is right in them."""

import json

import pytest
from datasets import Image, load_dataset

from llava.miniature import lmms_rows as rows
from llava.miniature.eval_sets.scenes import ten_people
from llava.miniature.lmms_sets import SETS, write_sets

COUNT = 14


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    assert write_sets(folder, COUNT)
    return folder


def read(hub, name, config, split):
    """As lmms-eval reads it: by the repository's name, configuration and split."""
    return load_dataset(str(hub / name), config, split=split, cache_dir=str(hub / "cache"))


@pytest.mark.parametrize("one", SETS, ids=lambda one: f"{one.repository} {one.config}")
def test_every_set_is_read_as_from_the_hub(hub, one):
    data = read(hub, one.repository, one.config, one.split)
    assert data.features == one.features
    more = {"lmms-lab-encoder/MMBench": 4 * COUNT, "lmms-lab-encoder/textvqa": COUNT + 1}  # rotations; two a picture
    assert len(data) == more.get(one.repository, COUNT)
    pictures = [name for name, feature in data.features.items() if isinstance(feature, Image)]
    assert all(data[0][name] is None or data[0][name].width >= 180 for name in pictures)


def test_a_finished_folder_is_left_alone_and_a_half_one_redone(hub):
    card = hub / "lmms-lab-encoder" / "POPE" / "README.md"
    before = card.stat().st_mtime_ns
    assert not write_sets(hub, COUNT)
    assert card.stat().st_mtime_ns == before
    (hub / "sets.json").unlink()
    card.unlink()
    assert write_sets(hub, COUNT) and card.exists()
    assert json.loads((hub / "sets.json").read_text())["questions"] == COUNT


def test_no_questions_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one question a set, got 0"):
        write_sets(tmp_path, 0)


def test_gqa_keeps_each_picture_once_in_a_configuration_of_its_own():
    asked, pictures = rows.gqa_instructions(COUNT), rows.gqa_images(COUNT)
    ids = [row["id"] for row in pictures]
    assert {row["imageId"] for row in asked} == set(ids) and len(ids) == len(set(ids))
    assert [row["imageId"] for row in asked] != ids  # found by id, not by place


def test_mme_asks_two_questions_a_picture_in_every_category():
    found = rows.mme_rows(28)
    assert {row["category"] for row in found} == set(rows.MME_CATEGORIES)
    for first, second in zip(found[::2], found[1::2], strict=True):
        assert first["question_id"] == second["question_id"]
        assert (first["answer"], second["answer"]) == ("Yes", "No")
        assert first["question"].endswith(" Please answer yes or no.")


def test_mmbench_turns_the_options_and_the_answer_with_them():
    by_question: dict[int, list[dict]] = {}
    for row in rows.mmbench_rows(COUNT):
        by_question.setdefault(row["index"] % 1_000_000, []).append(row)
    for turned in by_question.values():
        assert len({row[row["answer"]] for row in turned}) == 1  # the right option stays the same
        assert sorted(row["answer"] for row in turned) == ["A", "B", "C", "D"][: len(turned)]


def test_mmmu_names_the_pictures_it_has():
    for row in rows.mmmu_rows(COUNT):
        shown = [i for i in range(1, 8) if row[f"image_{i}"] is not None]
        assert shown == [i for i in range(1, 8) if f"<image {i}>" in row["question"]]
        assert (row["question_type"] == "open") == (row["options"] == "[]")
    assert {len([i for i in range(1, 8) if row[f"image_{i}"]]) for row in rows.mmmu_rows(COUNT)} == {1, 2}


def test_people_mostly_agree():
    for row in rows.textvqa_rows(COUNT):
        assert len(row["answers"]) == 10 and max(map(row["answers"].count, row["answers"])) >= 8
    assert rows.ten_people is ten_people


def test_the_scenes_of_the_own_sets_are_test_scenes_of_no_other_set():
    seeds = [seed for name in rows.OWN_SEEDS for seed in (rows.OWN_SEEDS[name][0], rows.OWN_SEEDS[name][-1])]
    assert seeds == sorted(set(seeds)) and seeds[0] >= rows.SPLITS["test"].start + 100_000
    assert seeds[-1] in rows.SPLITS["test"]


def test_both_roads_ask_the_same(tmp_path):
    """The twin in LLaVA's layout and the one in lmms-eval's hold the same questions about the same scenes."""
    from llava.miniature.eval_sets.short import write_gqa, write_vqav2
    from llava.miniature.eval_sets.yes_no import write_pope

    for write, name, file, found in (
        (write_gqa, "gqa", "llava_gqa_testdev_balanced.jsonl", rows.gqa_instructions(6)),
        (write_vqav2, "vqav2", "llava_vqav2_mscoco_test-dev2015.jsonl", rows.vqav2_rows(6)),
        (write_pope, "pope", "llava_pope_test.jsonl", rows.pope_rows(6)),
    ):
        write(tmp_path, 6, 1)
        lines = [json.loads(line) for line in (tmp_path / name / file).read_text().splitlines()]
        assert sorted(line["text"].split("\n")[0] for line in lines) == sorted(row["question"] for row in found)
