"""The written world has LLaVA's own schema, and no scene of one split leaks into another."""

import json
from pathlib import Path

import pytest
from PIL import Image

from llava.miniature.benchmarks import MIX_FILE, TASKS, mix_row, write_mix, write_world
from llava.miniature.world import SPLITS, split_of


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world")
    assert write_world(out, rows=60, questions=12, workers=1)
    return out


def test_the_mix_has_the_public_schema(world: Path) -> None:
    rows = json.loads((world / MIX_FILE).read_text())
    assert len(rows) == 60 and len({row["id"] for row in rows}) == 60
    for row in rows:
        speakers = [turn["from"] for turn in row["conversations"]]
        assert speakers == ["human", "gpt"] * (len(speakers) // 2) and len(speakers) >= 4
        placeholders = sum(turn["value"].count("<image>") for turn in row["conversations"])
        assert placeholders == ("image" in row)
        if "image" in row:
            assert row["conversations"][0]["value"].startswith("<image>\n")
            with Image.open(world / row["image"]) as picture:
                assert picture.mode == "RGB"
    folders = {row["image"].rsplit("/", 1)[0] for row in rows if "image" in row}
    assert folders <= {"coco/train2017", "gqa/images", "ocr_vqa/images", "textvqa/train_images", "vg/VG_100K"}


@pytest.mark.parametrize("task", TASKS)
def test_each_task_has_questions_pictures_and_answers(world: Path, task: str) -> None:
    lines = (world / "eval" / task / "questions.jsonl").read_text().splitlines()
    questions = [json.loads(line) for line in lines]
    answers = json.loads((world / "eval" / task / "answers.json").read_text())
    assert len(questions) >= 12
    assert {str(q["question_id"]) for q in questions} == set(answers)
    for question in questions:
        assert set(question) == {"question_id", "image", "text", "category"}
        assert (world / "eval" / "images" / question["image"]).is_file()
        assert answers[str(question["question_id"])]["answer"]


def test_train_tune_and_test_scenes_are_disjoint(world: Path) -> None:
    tuned = {int(row["id"]) for row in json.loads((world / MIX_FILE).read_text())}
    tested = {int(path.stem.rsplit("_", 1)[1]) for path in (world / "eval" / "images").glob("*.jpg")}
    assert {split_of(seed) for seed in tuned} == {"tune"}
    assert {split_of(seed) for seed in tested} == {"test"}
    assert tuned.isdisjoint(tested)


def test_rows_of_another_split_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"seed 2000000 belongs to split 'test', not to 'tune'"):
        write_mix(tmp_path, "mix.json", SPLITS["test"][:3], "tune", workers=1)


def test_a_finished_world_is_kept_and_a_torn_one_is_made_again(world: Path) -> None:
    assert not write_world(world, rows=60, questions=12, workers=1)
    (world / "world.json").unlink()
    (world / "eval" / "gqa" / "questions.jsonl").write_text("torn")
    assert write_world(world, rows=60, questions=12, workers=1)
    assert json.loads((world / "eval" / "gqa" / "questions.jsonl").read_text().splitlines()[0])["question_id"] == 0


def test_mme_and_pope_ask_in_balanced_pairs(world: Path) -> None:
    for task in ("mme", "pope"):
        questions = [json.loads(line) for line in (world / "eval" / task / "questions.jsonl").read_text().splitlines()]
        answers = json.loads((world / "eval" / task / "answers.json").read_text())
        by_image: dict[str, list[str]] = {}
        for question in questions:
            by_image.setdefault(question["image"], []).append(answers[str(question["question_id"])]["answer"])
        assert all(sorted(pair) == ["no", "yes"] for pair in by_image.values())


def test_every_seed_gives_a_row() -> None:
    """Scenes exist that allow none of a source's questions; their rows must not be empty."""
    assert all(len(mix_row(seed)[0]["conversations"]) >= 2 for seed in range(3000))
