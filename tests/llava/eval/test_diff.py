"""The diff of two cells: which items flip, the page, the kept patches, what is refused."""

import json
import re
import shutil
from dataclasses import replace

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from llava.eval import diff
from llava.eval.cells import Items, Record, items_file, write_items
from llava.eval.kept import DIM, KeptTokens, shade
from llava.eval.lmms_records import write_questions
from llava.eval.records import write_lines
from llava.eval.tasks import TASKS
from llava.eval.tasks.base import mean_ratio
from tests.llava.eval.test_lmms_records import result
from tests.tiny_checkpoints import tiny_vicuna_llava, write_v15

TYPES = {"structural": "query", "semantic": "attr", "detailed": "x"}
IDS = ("0", "1", "2", "3")


def items(scores, said=None):
    return Items(
        IDS, ("a.png", "a.png", "b.png", "b.png"), tuple(scores), tuple(said or IDS), (mean_ratio(IDS, scores),)
    )


def test_items_flip_where_the_score_crosses_one_half():
    found = diff.flips(items([1, 0.3, 0.6, 0]), items([0.4, 0, 1, 0.9], said=("x", "y", "z", "w")))
    assert [(flip.id, flip.lost, flip.said) for flip in found] == [("0", True, ("0", "x")), ("3", False, ("3", "w"))]
    assert found[1].image == "b.png" and found[1].scores == (0, 0.9)
    with pytest.raises(ValueError, match="asked different questions"):
        diff.flips(items([1] * 4), replace(items([1] * 4), ids=("0", "1", "2", "9")))


def test_dropped_patches_are_darkened_and_kept_ones_are_not():
    patches = torch.tensor([[1.0, DIM], [DIM, 1.0]])
    picture = shade(torch.full((3, 4, 4), 0.8), patches)
    rows = [[picture.getpixel((x, y))[0] for x in range(4)] for y in range(4)]
    assert rows == [[204, 204, 51, 51]] * 2 + [[51, 51, 204, 204]] * 2


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Records of two cells of a tiny model on four questions of GQA."""
    folder = tmp_path_factory.mktemp("diff")
    checkpoint = write_v15(tiny_vicuna_llava(folder), folder / "llava-tiny")
    gqa, data = TASKS["gqa"], folder / "data"
    (data / gqa.images).mkdir(parents=True)
    for name, color in (("a.png", (250, 10, 10)), ("b.png", (10, 250, 10))):
        Image.new("RGB", (60, 60), color).save(data / gqa.images / name)
    rows = [{"question_id": int(i), "text": f"What <{i}>?", "image": "ab"[int(i) // 2] + ".png"} for i in IDS]
    write_lines(data / gqa.questions, rows)
    answers = {i: {"imageId": "a", "question": "q", "answer": "red & round", "types": TYPES} for i in IDS}
    (data / gqa.annotations[0]).write_text(json.dumps(answers))
    model = {"path": str(checkpoint), "base": None}
    for cell, method, budget, scores in (
        ("dense", "dense", None, [1, 1, 0, 0]),
        ("visionzip-7", "visionzip", {"dominant": 5, "contextual": 2, "total": 7}, [1, 0, 0, 1]),
    ):
        record = Record(cell, "gqa", method, "complete", model, budget, headline=50.0, accuracy=50.0, n=4)
        (folder / "out" / "cells" / cell).mkdir(parents=True)
        # the checkpoint is named as it lies: records of real runs name it from the repository root
        (folder / "out" / "cells" / cell / "gqa.json").write_text(json.dumps(vars(record)))
        write_items(folder / "out", cell, "gqa", items(scores))
    return folder


def run(world, *flags, cells=("dense", "visionzip-7"), task="gqa"):
    arguments = [world / "out" / "cells" / cell for cell in cells]
    arguments += ["--task", task, "--data", world / "data", "--out", world / "diff", "--device", "cpu", *flags]
    return CliRunner().invoke(diff.app, [str(argument) for argument in arguments])


def test_the_command_writes_a_page_with_both_answers_and_pictures(world):
    result = run(world)
    assert result.exit_code == 0, result.output
    assert "gqa: 2 items differ, 1 only dense has right, 1 only visionzip-7" in result.output
    page = (world / "diff" / "gqa" / "diff.html").read_text()
    assert (
        page.count("<img") == 4
        and "What &lt;1&gt;?" in page
        and "red &amp; round" in page
        and "What &lt;0&gt;" not in page
    )
    assert len(re.findall(r'class="right"', page)) == len(re.findall(r'class="wrong"', page)) == 2
    written = json.loads((world / "diff" / "gqa" / "diff.json").read_text())
    assert [flip["id"] for flip in written] == ["1", "3"]
    assert run(world, "--limit", "1").exit_code == 0
    cut = (world / "diff" / "gqa" / "diff.html").read_text()
    assert cut.count("<img") == 2 and "2 of 4 items differ: 1 only dense has right" in cut
    assert "The first 1 are shown." in cut and "are shown" not in page
    assert "<th>dense sees</th><th>visionzip-7 sees</th>" in page and "<th>dense says</th>" in page


def test_the_drawn_patches_are_those_the_method_keeps(world):
    record = json.loads((world / "out" / "cells" / "visionzip-7" / "gqa.json").read_text())
    kept = KeptTokens.of(Record(**record), "cpu")
    (picture,) = kept.draw([Image.new("RGB", (56, 56), (200, 200, 200))])
    tower = kept.model.get_vision_tower()
    patch = picture.width // tower.num_patches_per_side
    light = [
        picture.getpixel((patch * (i % tower.num_patches_per_side), patch * (i // tower.num_patches_per_side)))[0] > 150
        for i in range(tower.num_patches)
    ]
    assert sum(light) == 4  # five dominant tokens, one of them CLS


def record(world, cell, task, scores, said=None, keep=4):
    """A record of a cell beside those of GQA, made with the same model; the first `keep` items."""
    gqa = Record(**json.loads((world / "out" / "cells" / cell / "gqa.json").read_text()))
    (world / "out" / "cells" / cell / f"{task}.json").write_text(json.dumps(vars(replace(gqa, task=task))))
    kept = items(scores, said)
    columns = {name: getattr(kept, name)[:keep] for name in ("ids", "images", "scores", "said")}
    write_items(world / "out", cell, task, Items(**columns, ratios=(mean_ratio(IDS[:keep], scores[:keep]),)))


def test_a_task_of_lmms_eval_is_shown_without_pictures(world):
    record(world, "dense", "lmms:pope", [1, 1, 0, 0])
    record(world, "visionzip-7", "lmms:pope", [1, 0, 0, 1], said=("a", "<no>\nmaybe", "c", "d"))
    assert run(world, task="lmms:pope").exit_code == 0
    page = (world / "diff" / "lmms:pope" / "diff.html").read_text()
    assert "item 1" in page and "<td>?</td>" in page  # its questions were not kept
    write_questions(world / "out", result(task="pope", asked={"1": ("Is it?\nOne word.", "yes"), "3": ("Or?", "no")}))
    said = run(world, task="lmms:pope")
    assert "lmms:pope: 2 items differ, 1 only dense has right" in said.output
    page = (world / "diff" / "lmms:pope" / "diff.html").read_text()
    assert "<img" not in page and "Pictures are not shown" in page and "darkened" not in page
    assert "<td>Is it?<br>One word.</td><td>yes</td>" in page and "&lt;no&gt;<br>maybe" in page


def test_a_judged_benchmark_is_shown_with_pictures_where_both_were_judged(world):
    folder = world / "data" / "mm-vet"
    (folder / "images").mkdir(parents=True)
    (folder / "mm-vet.json").write_text("{}")
    for name in ("a.png", "b.png"):
        Image.new("RGB", (60, 60), "red").save(folder / "images" / name)
    rows = [{"question_id": int(i), "text": f"Why {i}?", "image": "ab"[int(i) // 2] + ".png"} for i in IDS]
    write_lines(folder / "llava-mm-vet.jsonl", rows)
    record(world, "dense", "mmvet", [1, 0.8, 0, 0])
    record(world, "visionzip-7", "mmvet", [1, 0.4, 0, 1], keep=3)
    said = run(world, task="mmvet")
    assert said.exit_code == 0 and "mmvet: 1 items differ" in said.output, said.output
    page = (world / "diff" / "mmvet" / "diff.html").read_text()
    assert page.count("<img") == 2 and "Why 1?" in page and "1 of 3 items differ" in page and "half of the best" in page


def test_what_cannot_be_compared_is_named(world):
    for task in ("vqa", "pope"):
        result = run(world, task=task)
        said = " ".join(result.output.replace("│", " ").split())
        assert result.exit_code == 2 and f"with {task}.json in it, found gqa" in said
    items_file(world / "out", "dense", "gqa").rename(world / "kept.json")
    result = run(world)
    (world / "kept.json").rename(items_file(world / "out", "dense", "gqa"))
    assert "were not kept" in " ".join(result.output.replace("│", " ").split())


def test_two_cells_of_one_name_are_told_apart_by_their_folders(world):
    """12 + 4 and 14 + 2 are both visionzip-16."""
    shutil.copytree(world / "out", world / "more")
    cells = [world / folder / "cells" / "visionzip-7" for folder in ("out", "more")]
    words = [*cells, "--task", "gqa", "--data", world / "data", "--out", world / "twice", "--device", "cpu"]
    said = CliRunner().invoke(diff.app, [str(word) for word in words])
    assert "0 only visionzip-7 in out has right, 0 only visionzip-7 in more" in said.output, said.output
    assert "<th>visionzip-7 in more sees</th>" in (world / "twice" / "gqa" / "diff.html").read_text()
