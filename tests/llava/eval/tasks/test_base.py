"""What is said of missing files: the real root, and for the miniature what writes it instead of the public places."""

import shutil
from pathlib import Path

import pytest

from llava.eval.judge.benchmarks import BENCHMARKS
from llava.eval.tasks import TASKS
from llava.eval.tasks.base import require
from tests.tiny_eval import write_root

RUN = "run python -m llava.miniature.benchmarks --out "


@pytest.mark.parametrize("name", BENCHMARKS)
def test_missing_files_name_the_real_root_and_where_they_come_from(name, tmp_path):
    with pytest.raises(ValueError) as error:
        BENCHMARKS[name].require_files(tmp_path)
    assert f"{BENCHMARKS[name].obtain} (the eval root is {tmp_path})" in str(error.value)
    assert "playground/data/eval" not in str(error.value)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_missing_files_of_the_miniature_are_written_not_downloaded(name, tmp_path):
    world = tmp_path / "miniature"
    with pytest.raises(ValueError) as error:
        BENCHMARKS[name].require_files(world / "eval")
    assert str(error.value).endswith(f"not found; {RUN}{world}") and "http" not in str(error.value)


def test_a_world_that_counts_as_complete_has_to_be_forgotten_first(tmp_path):
    world = tmp_path / "miniature"
    world.mkdir()
    (world / "world.json").touch()
    with pytest.raises(ValueError, match=f"not found; remove {world}/world.json and {RUN}{world}$"):
        require(world / "eval" / "pope" / "coco", "the public place")


@pytest.mark.parametrize("name", ["pope", "sqa", "seed_image"])
def test_missing_pictures_say_the_same(name, tmp_path):
    world = tmp_path / "miniature"
    write_root(world / "eval")
    own = shutil.copytree(world / "eval", tmp_path / "own")
    for root, expected in ((world / "eval", f"{RUN}{world}"), (own, f"(the eval root is {own})")):
        asked = TASKS[name].read(root)
        for question in asked.questions:
            if question.image:
                Path(asked.pictures.path / question.image).unlink(missing_ok=True)
        with pytest.raises(ValueError, match="pictures are not in") as error:
            asked.picture_digest()
        assert str(error.value).endswith(expected)


def test_what_a_server_wants_is_missed_before_anything_is_answered(tmp_path):
    """VQAv2's file for EvalAI lists every question of test2015, and answering test-dev takes hours."""
    write_root(tmp_path)
    TASKS["vqav2"].require_files(tmp_path)
    (tmp_path / "vqav2" / "llava_vqav2_mscoco_test2015.jsonl").unlink()
    with pytest.raises(ValueError, match=r"llava_vqav2_mscoco_test2015\.jsonl not found"):
        TASKS["vqav2"].require_files(tmp_path)
