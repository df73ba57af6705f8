"""What the miniature's lmms-eval tasks share: references, pictures, prompts, and our own scorers as the metric.

Everything is read from playground/data/miniature below the working directory, so lmms_eval is started at the
repository root. The figure a task prints is exactly the one of `python -m llava.eval.grid`.
"""

from pathlib import Path

from llava.eval.inputs import read_references
from llava.eval.records import Answer, Question
from llava.eval.tasks import TASKS
from llava.mm_utils import load_image

ROOT = Path("playground/data/miniature/eval")


def _with_references(task):
    """The step lmms-eval runs on a task's dataset: add the reference answers."""

    def add(dataset):
        references = read_references(ROOT / task / "answers.json")
        rows = [references[str(identity)] for identity in dataset["question_id"]]
        dataset = dataset.add_column("task", [task] * len(rows))
        dataset = dataset.add_column("answer", [row["answer"] for row in rows])
        return dataset.add_column("answers", [row.get("answers", [row["answer"]] * 10) for row in rows])

    return add


gqa_docs = _with_references("gqa")
pope_docs = _with_references("pope")
vqav2_docs = _with_references("vqav2")
textvqa_docs = _with_references("textvqa")
mme_docs = _with_references("mme")
mmbench_docs = _with_references("mmbench")
seed_docs = _with_references("seed")
sqa_docs = _with_references("sqa")


def doc_to_visual(doc):
    """The picture, or none for a text-only question."""
    return [load_image(str(ROOT / "images" / doc["image"]))] if doc["image"] else []


def doc_to_text(doc, lmms_eval_specific_kwargs=None):
    """The question as our question file has it, answer format included."""
    return doc["text"]


def process_results(doc, results):
    """Keep what the scorer needs; scores are made over the whole set."""
    row = {key: doc[key] for key in ("task", "question_id", "text", "image", "category", "answer", "answers")}
    return {"accuracy": {**row, "said": results[0]}}


def accuracy(rows):
    """Percent by the task's scorer."""
    questions = [Question(row["question_id"], row["text"], row["image"], row["category"]) for row in rows]
    references = {str(row["question_id"]): {"answer": row["answer"], "answers": row["answers"]} for row in rows}
    answers = [Answer(row["question_id"], row["text"], row["said"], "lmms-eval") for row in rows]
    return TASKS[rows[0]["task"]](questions, references, answers).accuracy
