"""lmms-eval's own task code on the miniature's data sets, from data to score, each run in a process of its own.

The processes are lmms-eval's: its evaluator changes the process it runs in.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as parquet
import pytest

pytest.importorskip("lmms_eval")

from datasets import Dataset
from lmms_eval.api.instance import Instance

from llava.eval.answerer import LlavaAnswerer
from llava.eval.lmms_config import arguments, read_config, write_tasks
from llava.eval.lmms_plugin import LlavaVisionZip
from llava.eval.lmms_results import read_lmms_results
from llava.eval.records import Question
from llava.miniature.lmms_sets import write_sets
from tests.lmms_stub import JUDGED, rarest
from tests.stub_judge import StubJudge, serve

pytestmark = pytest.mark.slow  # lmms-eval alone takes half a minute to start

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "eval" / "lmms_miniature.yaml"
CHECKPOINT = ROOT / "playground" / "miniature" / "llava-mini-v1.5"
LIMIT = 6
QUESTIONS = 28  # two for each of MME's categories


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A working directory with the data where the configuration looks for them."""
    folder = tmp_path_factory.mktemp("lmms")
    write_sets(folder / "playground" / "data" / "miniature" / "lmms", QUESTIONS)
    return folder


def start(home, *command, cwd=None, path=ROOT, **settings):
    """A program without network and with a cache of its own."""
    env = {
        **os.environ,
        **settings,
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(home / "cache"),
    }
    env |= {"PYTHONPATH": os.pathsep.join([str(ROOT), str(path)]), "LLAVA_VENV": sys.prefix, "OMP_NUM_THREADS": "1"}
    env |= settings
    program = [str(word) for word in command]
    done = subprocess.run(program, cwd=cwd or home, env=env, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Where lmms-eval finds tests/lmms_stub.py as it finds our model: by an entry point."""
    place = tmp_path_factory.mktemp("installed")
    info = place / "lmms_stub-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lmms-stub\nVersion: 0\n")
    (info / "entry_points.txt").write_text("[lmms_eval.models]\nlmms_stub = tests.lmms_stub:manifest\n")
    return place


@pytest.fixture(scope="module")
def judge():
    """Says A to whatever lmms-eval asks it: of documents in whose answer it finds no option."""
    with serve(StubJudge(lambda body, number: "A")) as judge:
        yield judge


@pytest.fixture(scope="module")
def stub(home, judge, tmp_path_factory, installed):
    """All tasks answered by tests/lmms_stub.py, and MMBench's once more as the task that asks a judge; and the folder
    they are in."""
    file = tmp_path_factory.mktemp("config") / "stub.yaml"
    judged = f"  {JUDGED}: {{file: mmbench/mmbench_en_dev.yaml, differs: miniature data; judged}}\n"
    file.write_text(CONFIG.read_text("utf-8") + judged, encoding="utf-8")
    config, out = read_config(file), home / "stub"
    write_tasks(config, out / "tasks")
    words = arguments(config, {}, out / "tasks", out, None)
    words[words.index("llava_visionzip")] = "lmms_stub"
    words[words.index("--model_args") + 1] = ""
    endpoint = {"OPENAI_API_URL": f"{judge.url}/chat/completions", "OPENAI_API_KEY": "none"}
    start(home, sys.executable, "-m", "lmms_eval", *words, cwd=home / config.data, path=installed, **endpoint)
    return {result.task: result for result in read_lmms_results(out)}, out


def column(home, data_set, name):
    """One column of a data set, in its order."""
    (file,) = (home / "playground/data/miniature/lmms/lmms-lab-encoder" / data_set).rglob("*.parquet")
    return parquet.read_table(file, columns=[name])[name].to_pylist()


def soft(home, data_set, document):
    """VQA accuracy of the rarest answer by its definition: leave one human out, min(1, agreeing others / 3), mean."""
    answers = column(home, data_set, "answers")[document]
    answers = [one["answer"] if isinstance(one, dict) else one for one in answers]
    same = Counter(answers)[rarest(answers)]
    return (same * min(1, (same - 1) / 3) + (10 - same) * min(1, same / 3)) / 10


PLAIN = {  # right documents of 28
    "mini_gqa": 27,
    "mini_scienceqa_img": 26,
    "mini_seedbench": 27,
    "mini_seedbench_ppl": 27,
    "mini_mmmu_val": 26,
    "mini_chartqa": 26,
    "mini_textvqa_val_ocr": 28,
}


def test_every_task_of_the_configuration_is_scored(stub):
    assert set(stub[0]) == {JUDGED, *(task.name for task in read_config(CONFIG).tasks)}
    assert {result.n for name, result in stub[0].items() if "mmbench" not in name} == {QUESTIONS}


@pytest.mark.parametrize(("task", "right"), PLAIN.items(), ids=list(PLAIN))
def test_shares_of_right_answers(stub, task, right):
    result = stub[0][task]
    assert result.score == pytest.approx(100 * right / 28, abs=2e-3)
    assert sum(result.items.values()) == right


def test_pope(stub):
    """13 true positives, one false one; "Yes." is wrong and in no cell of F1."""
    result = stub[0]["mini_pope"]
    assert result.metrics["pope_accuracy"] == pytest.approx(26 / 28)
    assert result.metrics["pope_recall"] == 1.0 and result.metrics["pope_precision"] == pytest.approx(13 / 14)
    assert result.score == pytest.approx(100 * 26 / 27) and result.metric == "F1"


def test_mme(stub):
    """Existence loses one of two questions: 50 of 200. Common sense loses both. "Yes, indeed." counts."""
    result = stub[0]["mini_mme"]
    assert result.metrics["mme_perception_score"] == 9 * 200 + 50
    assert result.metrics["mme_cognition_score"] == 3 * 200
    assert result.score == 9 * 200 + 50 + 3 * 200


def test_mmbench(stub):
    """Circular: one wrong rotation fails its question; without a judge an answer with no option in it is wrong."""
    result = stub[0]["mini_mmbench_en_dev"]
    assert result.n == 4 * QUESTIONS and result.score == pytest.approx(100 * 25 / 28)
    assert not result.items and not result.ratios


def test_mmbench_with_a_judge(home, stub, judge):
    """Asked once, about the answer in which no option is found; its letter is right and makes one more than rules."""
    assert column(home, "MMBench", "answer")[3] == "A"
    assert [prompt.count("zzz") for prompt in judge.prompts()] == [1]
    assert stub[0][JUDGED].score == pytest.approx(100 * 26 / 28)


@pytest.mark.parametrize(("task", "data_set"), [("mini_textvqa_val", "textvqa"), ("mini_vqav2_val", "VQAv2")])
def test_soft_accuracy(home, stub, task, data_set):
    partly = soft(home, data_set, 2)
    assert stub[0][task].items["1"] == 0 and stub[0][task].items["2"] == pytest.approx(partly)
    assert stub[0][task].score == pytest.approx(100 * (26 + partly) / 28)


def test_docvqa(home, stub):
    """Case is no difference; one of n letters wrong costs 1/n; less than half right is nothing."""
    items = stub[0]["mini_docvqa_val"].items
    near = 1 - 1 / len(column(home, "DocVQA", "answers")[1][0])
    assert items["0"] == 1 and items["1"] == pytest.approx(near) and items["2"] == 0
    assert stub[0]["mini_docvqa_val"].score == pytest.approx(100 * (26 + near) / 28)


def test_chartqa_tolerates_five_percent(stub):
    result = stub[0]["mini_chartqa"]
    assert [result.items[str(i)] for i in range(4)] == [1, 0, 0, 1]
    assert result.metrics["relaxed_human_split"] == result.metrics["relaxed_augmented_split"] == pytest.approx(13 / 14)


def test_ocrbench_counts_points_of_a_thousand(stub):
    result = stub[0]["mini_ocrbench"]
    assert result.metrics["ocrbench_accuracy"] == 27 / 1000 and result.score == pytest.approx(27)
    assert result.items["0"] == 1 and result.items["1"] == 0


def test_seedbench_tells_pictures_from_videos(home, stub):
    kinds = column(home, "SEED-Bench", "data_type")
    for kind in ("image", "video"):
        expected = 1 - (kinds[1] == kind) / kinds.count(kind)
        assert stub[0]["mini_seedbench"].metrics[f"seed_{kind}"] == pytest.approx(expected)


SHORT = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."
PROMPTS = {  # how the prompt of document 0 ends
    "mini_pope": SHORT,
    "mini_gqa": SHORT,
    "mini_mme": "in the image?" + SHORT,
    "mini_textvqa_val": "?" + SHORT,
    "mini_scienceqa_img": LETTER,
    "mini_mmbench_en_dev": LETTER,
    "mini_seedbench": LETTER,
    "mini_seedbench_ppl": "? Answer :",
    "mini_vqav2_val": SHORT,
    "mini_mmmu_val": "\n" + LETTER,
    "mini_docvqa_val": SHORT,
    "mini_chartqa": "?\nAnswer the question with a single word.",
    "mini_ocrbench": "sign?",
}


@pytest.mark.parametrize(("task", "end"), PROMPTS.items(), ids=list(PROMPTS))
def test_prompts_are_lmms_evals(stub, task, end):
    assert prompts(stub[1], task)[0].endswith(end)


def test_the_ocr_switch_puts_the_words_read_into_the_prompt(stub):
    plain, with_words = prompts(stub[1], "mini_textvqa_val"), prompts(stub[1], "mini_textvqa_val_ocr")
    assert all("\nReference OCR token: " in text for text in with_words)
    assert [text.split("\nReference")[0] + SHORT for text in with_words] == plain


def prompts(out, task):
    (file,) = out.rglob(f"*_samples_{task}.jsonl")
    return [json.loads(line)["input"] for line in file.read_text().splitlines()]


def script(home, out, *options):
    """scripts/eval/lmms.sh on the miniature checkpoint -> results by task."""
    (home / "lmms.yaml").write_text(CONFIG.read_text().replace("data: playground", f"data: {home}/playground"))
    files = ("--config", home / "lmms.yaml", "--out", home / out)
    start(home, "bash", ROOT / "scripts" / "eval" / "lmms.sh", CHECKPOINT, *files, *options)
    return {result.task: result for result in read_lmms_results(home / out)}


@pytest.fixture(scope="module")
def zipped(home):
    """All tasks on the miniature at 48 tokens."""
    return script(home, "zipped", "--dominant", 40, "--contextual", 8, "--limit", LIMIT)


def test_the_script_runs_all_tasks_on_the_miniature(zipped):
    assert set(zipped) == {task.name for task in read_config(CONFIG).tasks}
    for name, result in zipped.items():
        assert result.n == result.limit == LIMIT, name
        assert result.tokens_per_image == (None if name == "mini_seedbench_ppl" else 48.0), name
        assert result.model_args["dominant"] == "40"
    assert (
        zipped["mini_pope"].score > 60 and zipped["mini_textvqa_val"].score > 50
    )  # it sees; six documents say no more


def test_two_processes_give_what_one_gives(home, zipped):
    """Five documents: one rank has one more. Another batch size, too."""
    asked = ("--tasks", "mini_pope,mini_gqa,mini_mmmu_val,mini_seedbench_ppl", "--dominant", 40, "--contextual", 8)
    two = script(home, "two", *asked, "--batch-size", 2, "--limit", LIMIT - 1, "--processes", 2)
    assert len(two) == 4
    for task, result in two.items():
        assert result.n == LIMIT - 1 and result.tokens_per_image == zipped[task].tokens_per_image
        assert said(home / "two", task) == said(home / "zipped", task)[: LIMIT - 1], task


def said(out, task):
    """(document, answer) in the order of the documents."""
    (file,) = out.rglob(f"*_samples_{task}.jsonl")
    samples = [json.loads(line) for line in file.read_text().splitlines()]
    return sorted((sample["doc_id"], sample["filtered_resps"]) for sample in samples)


@pytest.fixture(scope="module")
def documents(home):
    (file,) = (home / "playground/data/miniature/lmms/lmms-lab-encoder/POPE").rglob("*.parquet")
    return Dataset.from_parquet(str(file), cache_dir=str(home / "cache"))


def test_lmms_eval_gives_what_our_own_evaluation_gives(home, zipped, documents):
    """The same question and picture through the loop of the benchmark scripts."""
    model = LlavaVisionZip(str(CHECKPOINT), device="cpu", dominant=40, contextual=8)
    ours = LlavaAnswerer(model.model, model.tokenizer, model.image_processor, "ours")
    asked = [Question(i, text, "") for i, text in enumerate(prompts(home / "zipped", "mini_pope"))]
    replies = ours.reply([ours.load(one, documents[one.question_id]["image"].convert("RGB")) for one in asked])
    assert [(i, reply.text) for i, reply in enumerate(replies)] == said(home / "zipped", "mini_pope")


def test_lmms_evals_own_llava_runs_on_our_package_unmodified(home, documents):
    """On the CPU, from half precision pixels; at batch size 4 it gives what our model gives.

    The trained miniature answers, not a random one: half precision tips the near ties that random weights live on.
    """
    config, out = read_config(CONFIG).only(["mini_pope"]), home / "theirs"
    write_tasks(config, out / "tasks")
    words = arguments(config, {"pretrained": CHECKPOINT, "device_map": "auto"}, out / "tasks", out, 8)
    words[words.index("llava_visionzip")] = "llava"
    words[words.index("--batch_size") + 1] = "4"
    start(home, sys.executable, "-m", "lmms_eval", *words, "--device", "cpu", cwd=home / config.data)
    ours = LlavaVisionZip(str(CHECKPOINT), device="cpu", batch_size=8)
    ours.task_dict = {"pope": {"test": documents}}
    greedy = {"max_new_tokens": 16, "temperature": 0, "do_sample": False}
    asked = [
        Instance(
            "generate_until",
            (text, greedy, lambda doc: [doc["image"].convert("RGB")], i, "pope", "test"),
            0,
            {"task": "pope", "doc_id": i, "repeats": 1},
        )
        for i, text in enumerate(prompts(out, "mini_pope"))
    ]
    answers = [(i, answer.text) for i, answer in enumerate(ours.generate_until(asked))]
    theirs = said(out, "mini_pope")
    assert len(theirs) == 8
    assert sum(one == other for one, other in zip(answers, theirs, strict=True)) >= 7  # half precision may tip one
    (result,) = read_lmms_results(out)
    assert result.tokens_per_image is None and result.model == "llava"
