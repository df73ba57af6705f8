"""Reading lmms-eval's output: headlines made again from hand-made samples, and what is refused."""

import json

import pytest

from llava.eval.lmms_results import read_lmms_results


def pope(said, gold):
    cell = {"score": float(said == gold), "prediction": said, "ground_truth": gold}
    return {"pope_accuracy": cell, "pope_f1_score": cell}


def mme(name, category, picture, score):
    return {name: {"question_id": picture, "category": category, "score": score}}


def mmbench(index, said, gold):
    return {"gpt_eval_score": {"index": index, "prediction": said, "answer": gold}}


def mmmu(kind, gold, *said):
    return {"mmmu_acc": {"question_type": kind, "answer": gold, "parsed_pred": list(said)}}


SEEN, THOUGHT = "mme_perception_score", "mme_cognition_score"
# task -> (samples, lmms-eval's metrics, headline, items)
CASES = {
    "pope": (  # one true positive, one false, one missed, "maybe" in no cell: F1 = 2 / (2 + 1 + 1)
        [pope("yes", "yes"), pope("yes", "no"), pope("no", "yes"), pope("no", "no"), pope("maybe", "yes")],
        {"pope_f1_score": 0.5, "pope_accuracy": 0.4},
        50.0,
        [1, 0, 0, 1, 0],
    ),
    "mme": (  # color: one picture both, one picture one of two: 75 + 50; count: none; code: both: 200
        [
            mme(SEEN, "color", "a", 1.0),
            mme(SEEN, "color", "b", 0.0),
            mme(SEEN, "count", "a", 0.0),
            mme(SEEN, "color", "a", 1.0),
            mme(SEEN, "color", "b", 1.0),
            mme(SEEN, "count", "a", 0.0),
            mme(THOUGHT, "code_reasoning", "a", 1.0),
            mme(THOUGHT, "code_reasoning", "a", 1.0),
        ],
        {SEEN: 125.0, THOUGHT: 200.0},
        325.0,
        [1, 0, 0, 1, 1, 0, 1, 1],
    ),
    "gqa": ([{"exact_match": 1.0}, {"exact_match": 0.0}], {"exact_match": 0.5}, 50.0, [1, 0]),
    "vqa": ([{"exact_match": 0.6}, {"exact_match": 1}], {"exact_match": 0.8}, 80.0, [0.6, 1]),
    "seed": (
        [{"seed_all": {"pred": "a", "answer": "A"}}, {"seed_all": {"pred": "B", "answer": "C"}}],
        {"seed_all": 0.5, "seed_image": 0.9},
        50.0,
        [1, 0],
    ),
    "mmmu": (
        [
            mmmu("multiple-choice", "A", "A"),
            mmmu("multiple-choice", "B", "A"),
            mmmu("open", "1,000", ["about", 1000.0]),
            mmmu("open", "red", ["a red star"]),
            mmmu("open", "a", ["star"]),
            mmmu("open", ["two", "2"], [2.0]),
        ],
        {"mmmu_acc": 0.66667},
        100 * 4 / 6,
        [1, 0, 1, 1, 0, 1],
    ),
    "chartqa": ([{"relaxed_overall": 1.0}], {"relaxed_overall": 1.0, "relaxed_human_split": 1.0}, 100.0, [1]),
    "docvqa": ([{"anls": 0.75}, {"anls": 0}], {"anls": 0.375}, 37.5, [0.75, 0]),
    "ocrbench": (
        [{"ocrbench_accuracy": {"score": 1}}, {"ocrbench_accuracy": {"score": 0}}, {"ocrbench_accuracy": {"score": 1}}],
        {"ocrbench_accuracy": 0.002},
        2.0,
        [1, 0, 1],
    ),
    "ppl": ([{"acc": 1.0}, {"acc": 0.0}], {"acc": 0.5}, 50.0, [1, 0]),
}


def write(folder, task, samples, metrics, **changes):
    """A results file and its samples, as lmms-eval lays them out."""
    folder.mkdir(parents=True, exist_ok=True)
    counts = [{"visual_tokens": 64, "images": 1}]
    rows = [{"doc_id": i, "token_counts": counts, **sample} for i, sample in enumerate(samples)]
    run = {
        "results": {task: {"alias": task} | {f"{k},none": v for k, v in metrics.items()} | {"x_stderr,none": "N/A"}},
        "configs": {task: {"dataset_path": "lab/Set", "dataset_name": "full", "test_split": "test"}},
        "versions": {task: "Yaml"},
        "n-samples": {task: {"original": 99, "effective": len(samples)}},
        "config": {"model": "llava_visionzip", "model_args": "pretrained=a/b,dominant=54", "limit": None},
        "date": "20260101_000000",
    }
    run |= changes
    (folder / "20260101_000000_results.json").write_text(json.dumps(run))
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / f"20260101_000000_samples_{task}.jsonl").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("task", CASES)
def test_headline_and_items(tmp_path, task):
    samples, metrics, score, items = CASES[task]
    (result,) = read_lmms_results(write(tmp_path, task, samples, metrics))
    assert result.score == pytest.approx(score) and result.n == len(samples)
    assert list(result.items.values()) == items and list(result.items) == [str(i) for i in range(len(items))]
    assert sum(ratio.value for ratio in result.ratios) == pytest.approx(score)
    assert result.metrics == metrics


@pytest.mark.parametrize("task", [task for task in CASES if task != "chartqa"])
def test_samples_that_give_another_score_are_refused(tmp_path, task):
    samples, metrics, _, _ = CASES[task]
    name = next(iter(metrics))
    write(tmp_path, task, samples, {**metrics, name: metrics[name] + 0.01})
    with pytest.raises(ValueError, match=rf"task {task}: the samples give .* lmms-eval printed"):
        read_lmms_results(tmp_path)


def test_mmbench_by_letters_and_otherwise_without_items(tmp_path):
    """Question 7 has both rotations right, question 8 one of two; its items stand under the first rotation."""
    turned = [mmbench(7, "A", "A"), mmbench(8, "B", "B"), mmbench(1_000_007, "B.", "B"), mmbench(1_000_008, "A", "C")]
    (result,) = read_lmms_results(write(tmp_path / "a", "mmb", turned, {"gpt_eval_score": 50.0}))
    assert result.items == {"0": 1.0, "1": 0.0} and result.score == 50.0 and result.n == 4
    turned[3] = mmbench(1_000_008, "the red one", "C")
    (result,) = read_lmms_results(write(tmp_path / "b", "mmb", turned, {"gpt_eval_score": 50.0}))
    assert result.score == 50.0 and not result.items and not result.ratios


def test_words_prompts_and_pictures_are_kept(tmp_path):
    """The words before lmms-eval's filters; where they are the same it logs one of the two."""
    counts = [{"visual_tokens": 64, "images": 1, "pictures": "ab"}]
    samples = [
        {"filtered_resps": "a\u2028b\x85c", "input": "Who?", "target": "me", "token_counts": counts},
        {"filtered_resps": "yes", "resps": ["Yes, it is."], "input": "Is it?", "target": "['yes']"},
        {"filtered_resps": [["0.5", "True"], ["2", "False"]]},
    ]
    metrics = {"exact_match": 1 / 3}
    (result,) = read_lmms_results(
        write(tmp_path, "gqa", [{**row, "exact_match": float(i == 0)} for i, row in enumerate(samples)], metrics)
    )
    assert result.said == {"0": "a\u2028b\x85c", "1": "Yes, it is.", "2": '[["0.5", "True"], ["2", "False"]]'}
    assert result.asked == {"0": ("Who?", "me"), "1": ("Is it?", "['yes']"), "2": ("", "")}
    assert result.pictures == {"0": "ab"}


def test_a_question_of_mmbench_keeps_the_words_of_all_its_rotations(tmp_path):
    turned = [mmbench(7, "A", "A"), mmbench(8, "B", "B"), mmbench(1_000_007, "C.", "B"), mmbench(1_000_008, "A", "A")]
    (result,) = read_lmms_results(write(tmp_path, "mmb", turned, {"gpt_eval_score": 50.0}))
    assert result.said == {"0": "A (right: A)\nC. (right: B)", "1": "B (right: B)\nA (right: A)"}


def test_where_a_result_comes_from(tmp_path):
    samples, metrics, *_ = CASES["gqa"]
    settings = {"model": "m", "model_args": {"pretrained": "a,b"}, "limit": 2.0}
    (plain,) = read_lmms_results(write(tmp_path / "a", "gqa", samples, metrics))
    assert plain.dataset == "lab/Set full test" and plain.version == "Yaml" and plain.limit is None
    assert plain.model_args == {"pretrained": "a/b", "dominant": "54"} and plain.model == "llava_visionzip"
    (other,) = read_lmms_results(write(tmp_path / "b", "gqa", samples, metrics, config=settings))
    assert other.limit == 2.0 and other.model_args == {"pretrained": "a,b"}
    assert other.source.parent == tmp_path / "b" and other.date == "20260101_000000"


@pytest.mark.parametrize(
    ("counts", "mean"),
    [
        ([[{"visual_tokens": 100, "images": 2}], [{"visual_tokens": 20, "images": 1}]], 40.0),
        ([[{"visual_tokens": 64, "images": 1}], [{"visual_tokens": 0, "images": 0}]], 64.0),
        ([[None], [{"output_tokens": 3}]], None),
        ([[], None], None),
    ],
)
def test_tokens_are_counted_per_picture(tmp_path, counts, mean):
    samples = [{"exact_match": 1.0, "token_counts": count} for count in counts]
    (result,) = read_lmms_results(write(tmp_path, "gqa", samples, {"exact_match": 1.0}))
    assert result.tokens_per_image == mean


def test_samples_of_several_processes_come_in_the_order_of_the_documents(tmp_path):
    samples = [{"doc_id": i, "exact_match": float(i == 2)} for i in (0, 2, 1)]
    (result,) = read_lmms_results(write(tmp_path, "gqa", samples, {"exact_match": 1 / 3}))
    assert result.items == {"0": 0.0, "1": 0.0, "2": 1.0} and list(result.items) == ["0", "1", "2"]


def test_runs_below_a_folder_are_all_read_and_submissions_left_out(tmp_path):
    samples, metrics, *_ = CASES["gqa"]
    write(tmp_path / "a", "gqa", samples, metrics)
    write(tmp_path / "b" / "c", "vqa", *CASES["vqa"][:2])
    (tmp_path / "submissions").mkdir()
    (tmp_path / "submissions" / "mmbench_en_dev_static_results.json").write_text("{}")
    assert [result.task for result in read_lmms_results(tmp_path)] == ["gqa", "vqa"]
    (one,) = read_lmms_results(tmp_path / "a" / "20260101_000000_results.json")
    assert one.task == "gqa"


def gone(folder):
    next(folder.glob("*.jsonl")).unlink()


def twice(folder):
    file = next(folder.glob("*.jsonl"))
    file.write_text(file.read_text() * 2)


def short(folder):
    file = next(folder.glob("*.jsonl"))
    file.write_text(file.read_text().splitlines()[0] + "\n")


def empty(folder):
    next(folder.glob("*_results.json")).write_text("{}")


def torn(folder):
    file = next(folder.glob("*.jsonl"))
    file.write_text(file.read_text()[:-9])


def torn_results(folder):
    file = next(folder.glob("*_results.json"))
    file.write_text(file.read_text()[:-9])


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        (torn, r"samples_gqa\.jsonl line 2: not JSON"),
        (torn_results, r"20260101_000000_results\.json: not JSON"),
        (gone, "samples_gqa.jsonl is missing; run lmms-eval with --log_samples"),
        (twice, "document 0 twice"),
        (short, "1 samples for 2 documents; the run was not finished"),
        (empty, "no results file of lmms-eval as known here: results, configs"),
    ],
)
def test_broken_output_is_refused(tmp_path, breaks, message):
    breaks(write(tmp_path, "gqa", *CASES["gqa"][:2]))
    with pytest.raises(ValueError, match=message):
        read_lmms_results(tmp_path)


def test_unknown_layouts_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no \*_results\.json"):
        read_lmms_results(tmp_path)
    write(tmp_path, "new", [{"bleu": 1.0}], {"bleu": 1.0})
    with pytest.raises(ValueError, match=r"task new: none of its metrics \(bleu\) is a headline known here"):
        read_lmms_results(tmp_path)
    write(tmp_path, "pope", [{"pope_f1_score": 1.0}], {"pope_f1_score": 1.0})
    with pytest.raises(ValueError, match="task pope: a sample is not laid out as known here"):
        read_lmms_results(tmp_path)
