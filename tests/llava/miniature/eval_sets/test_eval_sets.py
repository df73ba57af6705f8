"""What holds for all twins: they follow from the seeds, and no twin shares a scene with training or with another."""

from pathlib import Path

from llava.miniature.eval_sets import EVAL_SETS, write_eval
from llava.miniature.eval_sets.scenes import ORDER, seeds_of, ten_people
from llava.miniature.judged import BENCH_SEEDS, VET_SEEDS
from llava.miniature.world import SPLITS, split_of


def test_every_twin_has_test_scenes_of_its_own() -> None:
    slices = [seeds_of(name) for name in ORDER] + [BENCH_SEEDS, VET_SEEDS]
    assert set(EVAL_SETS) == set(ORDER)
    for number, seeds in enumerate(slices):
        assert split_of(seeds[0]) == split_of(seeds[-1]) == "test"
        for other in slices[number + 1 :]:
            assert seeds[-1] < other[0] or other[-1] < seeds[0]
    assert max(SPLITS["train"][-1], SPLITS["tune"][-1]) < min(seeds[0] for seeds in slices)


def test_two_runs_write_the_same_bytes(tmp_path: Path) -> None:
    contents = []
    for name, workers in (("one", 1), ("two", 2)):
        write_eval(tmp_path / name, 8, workers)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        contents.append({path.relative_to(tmp_path / name): path.read_bytes() for path in files})
    assert contents[0] == contents[1]
    assert not [path for path in contents[0] if path.suffix == ".part"]


def test_public_folders_and_files(root: Path) -> None:
    folders = {path.name for path in root.iterdir()}
    judged = {"llava-bench-in-the-wild", "mm-vet"}
    scored = {"vqav2", "gqa", "vizwiz", "scienceqa", "textvqa", "pope", "MME", "mmbench", "mmbench_cn", "seed_bench"}
    assert folders == scored | judged


def test_ten_people_mostly_agree() -> None:
    from random import Random

    for seed in range(50):
        said = ten_people(Random(seed), "two", ["one"], most=2)
        assert len(said) == 10 and said.count("two") >= 8 and set(said) <= {"one", "two"}
    assert any("one" in ten_people(Random(seed), "two", ["one"]) for seed in range(50))
