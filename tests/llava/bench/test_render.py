"""Pages and pictures follow the records; what was not measured says so."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from llava.bench.frontier import join
from llava.bench.published_speed import published_sheets
from llava.bench.render import (
    ACCURACY,
    app,
    first_model,
    links,
    model_name,
    pages,
    plots_of,
    read_folder,
    verdict,
)
from llava.bench.sheet import Sheet
from tests import bench_records as made

ROOT = Path(__file__).parents[3]
PUBLISHED = ROOT / "configs" / "paper"
NAMES = ("bench-cpu", "bench-gpu", "bench-goals")
README = "# R\n" + "".join(f"<!-- {name}:start -->\nold\n<!-- {name}:end -->\n" for name in NAMES) + "end\n"
PAGE = README + "<!-- bench-published:start -->\n<!-- bench-published:end -->\n"
TABLE = """Method,Tokens,GQA,Average
dense,144,60,100.0%
VisionZip,16,50,73.1%
VisionZip‡,16,55,78.1%
random,16,40,64.8%
"""


def between(page: str, name: str) -> str:
    assert page.count(f"<!-- {name}:start -->") == page.count(f"<!-- {name}:end -->") == 1
    return page.split(f"<!-- {name}:start -->\n")[1].split(f"\n<!-- {name}:end -->")[0]


def rendered(cpu: Path, gpu: Path) -> tuple[str, str]:
    return pages(PAGE, README, read_folder("cpu", cpu), read_folder("gpu", gpu), PUBLISHED, {"gpu": ["p/x.png"]})


def miniature() -> dict[str, object]:
    record = made.latency(made.CPU, "llava-mini-v1.5", weights="checkpoint")
    record["cases"] = [
        made.case("dense", None, 0.2, tokens=144),
        made.case("visionzip", 16, 0.1, tokens=16),
        made.case("fastv", 16, 0.15, tokens=144, mean=50.0),
        made.case("visionzip", 16, 0.05, tokens=16, path="fast"),
    ]
    return record


@pytest.fixture
def table(tmp_path: Path) -> Path:
    file = tmp_path / "table.csv"
    file.write_text(TABLE, encoding="utf-8")
    return file


def test_the_pages_show_the_records() -> None:
    cpu, gpu = (read_folder(role, ROOT / "results" / role) for role in ("cpu", "gpu"))
    page, readme = ROOT / "docs" / "measuring.md", ROOT / "README.md"
    texts = page.read_text(encoding="utf-8"), readme.read_text(encoding="utf-8")
    shown = {}
    for folder in (cpu, gpu):
        drawn = plots_of(folder, ROOT / ACCURACY, lambda _: None)
        shown[folder.role] = links(drawn, folder, ROOT / "results" / "plots", readme)
        assert not [name for name in drawn if not (ROOT / "results" / "plots" / name).is_file()]
    assert pages(*texts, cpu, gpu, PUBLISHED, shown) == texts, "run: python -m llava.bench.render"


def test_without_records_the_pages_say_what_to_run(tmp_path: Path) -> None:
    page, readme = rendered(tmp_path / "none", tmp_path / "none either")
    for text in (page, readme):
        assert between(text, "bench-gpu") == "not measured: no GPU record; run `bash scripts/bench/gpu.sh`"
        assert between(text, "bench-cpu") == "not measured: no CPU record; run `bash scripts/bench/cpu.sh`"
    assert between(readme, "bench-goals").startswith("Of 8 goals set beforehand: 8 not measured;")
    assert between(page, "bench-goals").count("not measured") == 8
    assert readme.startswith("# R\n") and readme.endswith("end\n")


def test_figures_reach_their_places(tmp_path: Path) -> None:
    for record in (made.encoder(), made.latency(), made.throughput()):
        made.write(tmp_path / "gpu", record)
    for record in (made.encoder(made.CPU, "reduced"), made.latency(made.CPU, "reduced")):
        made.write(tmp_path / "cpu", record, "small")
    page, readme = rendered(tmp_path / "cpu", tmp_path / "gpu")
    gpu, cpu = between(readme, "bench-gpu"), between(readme, "bench-cpu")
    expected = ["visionzip-32", "160", "20.0 [19.0-21.0]", "10.00x [9.50-10.50]", "2.00", "8.00x [7.60-8.40]"]
    assert f"| {' | '.join([*expected, '5.00x [4.75-5.25]'])} |" in gpu  # the last from the throughput record
    assert "| visionzip | 1.02 | 0.51 | 0.10 | 1.02 | 0.51 | 0.10 |" in gpu
    assert f"| {' | '.join([*expected[:2], *expected[3:]])} |" in cpu  # no ms of a CPU, and no loop was measured
    assert "ms" not in cpu and "![x](p/x.png)" in gpu and "![" not in cpu
    assert between(page, "bench-cpu").startswith("#### small\n\n**The encoder alone**")
    assert "**Many pictures, short answers**" in between(page, "bench-gpu")
    assert "2 not measured" not in between(readme, "bench-goals")


def test_the_headline_takes_the_encoder_of_its_model_only(tmp_path: Path) -> None:
    """Five tiles are another record beside it (configs/bench/cpu_tiles.yaml): shown on the page, not in README."""
    made.write(tmp_path / "cpu", made.latency(made.CPU), "small")
    made.write(tmp_path / "cpu", made.encoder(made.CPU) | {"budget": 65}, "small-tiles")
    page, readme = rendered(tmp_path / "cpu", tmp_path / "gpu")
    assert "VisionZip at 65" in between(page, "bench-cpu") and "**Encoder**" not in between(readme, "bench-cpu")
    made.write(tmp_path / "cpu", made.encoder(made.CPU) | {"budget": 64}, "small")
    page, readme = rendered(tmp_path / "cpu", tmp_path / "gpu")
    assert "VisionZip at 64" in between(readme, "bench-cpu") and "VisionZip at 65" not in between(readme, "bench-cpu")
    assert between(page, "bench-cpu").count("**The encoder alone**") == 2


def test_rendering_again_changes_nothing(tmp_path: Path) -> None:
    made.write(tmp_path / "gpu", made.latency())
    cpu, gpu = read_folder("cpu", tmp_path / "cpu"), read_folder("gpu", tmp_path / "gpu")
    once = pages(PAGE, README, cpu, gpu, PUBLISHED, {})
    assert pages(*once, cpu, gpu, PUBLISHED, {}) == once
    with pytest.raises(ValueError, match=r"bench-goals:start --> and .* once each"):
        pages(PAGE.replace("bench-goals:end", "x"), README, cpu, gpu, PUBLISHED, {})


@pytest.mark.parametrize(("role", "device"), [("gpu", made.CPU), ("cpu", made.GPU)])
def test_a_record_of_the_other_device_is_an_error(role: str, device: str, tmp_path: Path) -> None:
    made.write(tmp_path, made.latency(device))
    with pytest.raises(ValueError, match=rf"{made.NEXT_7B}\.latency\.json was made on .*{role.upper()}"):
        read_folder(role, tmp_path)


def test_the_headline_is_of_the_public_7b_shape(tmp_path: Path) -> None:
    made.write(tmp_path, made.latency(name="a", weights="checkpoint"))
    assert first_model(read_folder("gpu", tmp_path)) == "a"
    made.write(tmp_path, made.latency(name="0", bits=4))
    made.write(tmp_path, made.latency(name="b"))
    assert first_model(read_folder("gpu", tmp_path)) == "b"
    made.write(tmp_path, made.latency())
    assert first_model(read_folder("gpu", tmp_path)) == made.NEXT_7B
    assert model_name(Path("x") / "llava-v1.6-vicuna-13b-4bit.latency.json") == "llava-v1.6-vicuna-13b-4bit"


def test_a_goal_met_in_one_place_only_is_met_in_part() -> None:
    rows = [["a", "met"], ["a", "not met"], ["b", "met"], ["b", "met"], ["c", "not measured"]]
    assert verdict(Sheet("", ["goal", "verdict"], rows)).startswith(
        "Of 3 goals set beforehand: 1 met, 1 met in part, 1 not measured;"
    )


def test_published_figures_stand_beside_ours() -> None:
    speed, large, memory = published_sheets(PUBLISHED, [made.latency(), made.throughput(), made.memory(bits=4)])
    rows = {row[0]: row[1:] for row in speed.rows}
    assert rows["visionzip"] == ["160", "27.8 ms", "7.8x", "3.0x", "10.00x", "5.00x"]
    assert rows["fastv"] == ["160", "119 ms", "1.8x", "1.3x", "2.50x", "not measured"]
    assert "A800" in speed.note
    assert [row[-1] for row in large.rows] == ["not measured", "1.00", "not measured"]
    assert large.rows[-1][2] == "1246 s ?"  # the source is in doubt there
    assert {row[-1] for row in memory.rows} == {"not measured"}  # 7B in 4 bits is none of them
    quantised = made.memory(name=made.NEXT_13B, bits=4)
    quantised["cases"][1]["case"] = "visionzip-64"
    (*_, memory) = published_sheets(PUBLISHED, [quantised])
    assert [row[-1] for row in memory.rows] == ["not measured"] * 3 + ["14684 MB", "not measured"]
    together = made.throughput()
    together["cases"].reverse()  # eight at a time first: not what is shown
    assert published_sheets(PUBLISHED, [together])[0].rows[-1][-1] == "5.00x"
    assert published_sheets(PUBLISHED, [made.latency(made.CPU)])[0].rows[-1][-2] == "not measured"


def test_speed_and_accuracy_are_joined_by_method_and_budget(table: Path) -> None:
    joined = join(miniature(), table)
    assert joined.points == [("visionzip", 16, 2.0, 73.1), ("visionzip-tuned", 16, 2.0, 78.1)]
    assert joined.left_out == ["random 16", "fastv 16"]
    with pytest.raises(ValueError, match=r"none\.csv: no table of accuracies"):
        join(miniature(), table.with_name("none.csv"))


def test_missing_accuracy_leaves_the_picture_out_with_a_message(table: Path, tmp_path: Path) -> None:
    made.write(tmp_path / "cpu", miniature())
    said: list[str] = []
    folder = read_folder("cpu", tmp_path / "cpu")
    assert "cpu-frontier.png" in plots_of(folder, table, said.append)
    assert "random 16, fastv 16" in said.pop()
    assert "cpu-frontier.png" not in plots_of(folder, tmp_path / "none.csv", said.append)
    assert "none.csv" in said.pop()
    made.write(tmp_path / "gpu", made.latency())
    assert "gpu-frontier.png" not in plots_of(read_folder("gpu", tmp_path / "gpu"), table, said.append)
    assert "no latency record of llava-mini-v1.5" in said.pop()


def test_the_command(table: Path, tmp_path: Path) -> None:
    """Pages and pictures of every kind, the same bytes each time, and links that lead to them."""
    pytest.importorskip("matplotlib")
    made.write(tmp_path / "cpu", miniature())
    for record in (made.encoder(), made.latency(), made.scaling()):
        made.write(tmp_path / "gpu", record)
    page, readme = tmp_path / "page.md", tmp_path / "README.md"
    page.write_text(PAGE, encoding="utf-8")
    readme.write_text(README, encoding="utf-8")
    places = {"--page": page, "--readme": readme, "--plots": tmp_path / "plots", "--accuracy": table}
    arguments = ["--records", tmp_path / "cpu", tmp_path / "gpu", *(word for pair in places.items() for word in pair)]
    arguments += ["--published", PUBLISHED]
    drawn = []
    for _ in range(2):
        done = CliRunner().invoke(app, [str(word) for word in arguments], catch_exceptions=False)
        assert done.exit_code == 0 and "1 CPU and 3 GPU records" in done.output
        drawn.append({file.name: file.read_bytes() for file in (tmp_path / "plots").iterdir()})
    assert drawn[0] == drawn[1]
    stem = f"gpu-{made.NEXT_7B}"
    assert drawn[0].keys() == {
        "cpu-frontier.png",
        "cpu-llava-mini-v1.5-stages.png",
        "cpu-llava-mini-v1.5-tokens.png",
        f"{stem}-stages.png",
        f"{stem}-tokens.png",
        f"{stem}-scaling.png",
    }
    text = readme.read_text(encoding="utf-8")
    assert f"](plots/{stem}-stages.png)" in between(text, "bench-gpu")
    assert "](plots/cpu-frontier.png)" in between(text, "bench-cpu")


def test_folders_without_any_record_leave_the_pages_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE, encoding="utf-8")
    words = ["--records", tmp_path / "nope", tmp_path / "nor", "--page", page, "--readme", page]
    done = CliRunner().invoke(app, list(map(str, words)))
    assert "no record in either" in str(done.exception) and page.read_text("utf-8") == PAGE
