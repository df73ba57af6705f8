"""Write the miniature's twins of lmms-eval's data sets: a folder laid out as the hub is.

    python -m llava.miniature.lmms_sets --out playground/data/miniature/lmms

`out/<owner>/<name>` is a data set repository: parquet files and a card that names configurations and splits. lmms-eval
started inside `out` therefore finds its built-in tasks' data there instead of on the hub, with nothing changed in the
tasks. `sets.json` says what was asked for and is written last: a half-written folder is redone.
"""

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from datasets import Dataset, Features, Image, List, Value

from llava.miniature import lmms_rows as rows
from llava.miniature.files import write_json
from llava.utils import write_text

logger = logging.getLogger(__name__)

TEXT, NUMBER = Value("string"), Value("int64")


@dataclass(frozen=True)
class HubSet:
    """One split of one configuration of a data set repository. rows: number of questions -> rows."""

    repository: str
    config: str
    split: str
    rows: Callable[[int], list[rows.Row]]
    features: Features


def _texts(*names: str) -> dict[str, Value]:
    return dict.fromkeys(names, TEXT)


SETS = (
    HubSet(
        "lmms-lab-encoder/POPE",
        "default",
        "test",
        rows.pope_rows,
        Features({**_texts("id", "question_id", "question", "answer", "image_source", "category"), "image": Image()}),
    ),
    HubSet(
        "lmms-lab-encoder/GQA",
        "testdev_balanced_instructions",
        "testdev",
        rows.gqa_instructions,
        Features({
            **_texts("id", "imageId", "question", "answer", "fullAnswer", "entailed", "equivalent", "semanticStr"),
            "isBalanced": Value("bool"),
            "groups": _texts("global", "local"),
            "types": _texts("structural", "semantic", "detailed"),
        }),
    ),
    HubSet(
        "lmms-lab-encoder/GQA",
        "testdev_balanced_images",
        "testdev",
        rows.gqa_images,
        Features({"id": TEXT, "image": Image()}),
    ),
    HubSet(
        "lmms-lab-encoder/MME",
        "default",
        "test",
        rows.mme_rows,
        Features({**_texts("question_id", "question", "answer", "category"), "image": Image()}),
    ),
    HubSet(
        "lmms-lab-encoder/textvqa",
        "default",
        "validation",
        rows.textvqa_rows,
        Features({
            **_texts("image_id", "question", "flickr_original_url", "flickr_300k_url", "set_name"),
            "question_id": Value("int32"),
            "question_tokens": List(TEXT),
            "image": Image(),
            "image_width": Value("int32"),
            "image_height": Value("int32"),
            "answers": List(TEXT),
            "image_classes": List(TEXT),
            "ocr_tokens": List(TEXT),
        }),
    ),
    HubSet(
        "lmms-lab-encoder/VQAv2",
        "default",
        "validation",
        rows.vqav2_rows,
        Features({
            **_texts("question_type", "multiple_choice_answer", "answer_type", "question"),
            "answers": List({**_texts("answer", "answer_confidence"), "answer_id": NUMBER}),
            "image_id": NUMBER,
            "question_id": NUMBER,
            "image": Image(),
        }),
    ),
    HubSet(
        "lmms-lab-encoder/ScienceQA",
        "ScienceQA-IMG",
        "test",
        rows.scienceqa_rows,
        Features({
            **_texts("question", "hint", "task", "grade", "subject", "topic", "category"),
            **_texts("skill", "lecture", "solution"),
            "choices": List(TEXT),
            "answer": Value("int8"),
            "image": Image(),
        }),
    ),
    HubSet(
        "lmms-lab-encoder/MMBench",
        "en",
        "dev",
        rows.mmbench_rows,
        Features({
            **_texts("question", "hint", "answer", "A", "B", "C", "D"),
            **_texts("category", "source", "L2-category", "comment", "split"),
            "index": NUMBER,
            "image": Image(),
        }),
    ),
    HubSet(
        "lmms-lab-encoder/SEED-Bench",
        "default",
        "test",
        rows.seed_rows,
        Features({
            **_texts("answer", "choice_a", "choice_b", "choice_c", "choice_d"),
            **_texts("data_id", "data_type", "question", "question_id"),
            "question_type_id": Value("int16"),
            "image": List(Image()),
            "segment": List(NUMBER),
        }),
    ),
    HubSet(
        "lmms-lab-encoder/MMMU",
        "default",
        "validation",
        rows.mmmu_rows,
        Features({
            **_texts("id", "question", "options", "explanation", "img_type", "answer"),
            **_texts("topic_difficulty", "question_type", "subfield"),
            **{f"image_{i}": Image() for i in range(1, 8)},
        }),
    ),
    HubSet(
        "lmms-lab-encoder/DocVQA",
        "DocVQA",
        "validation",
        rows.docvqa_rows,
        Features({
            **_texts("questionId", "question", "ucsf_document_id", "ucsf_document_page_no", "data_split"),
            "question_types": List(TEXT),
            "answers": List(TEXT),
            "docId": NUMBER,
            "image": Image(),
        }),
    ),
    HubSet(
        "lmms-lab-encoder/ChartQA",
        "default",
        "test",
        rows.chartqa_rows,
        Features({**_texts("type", "question", "answer"), "image": Image()}),
    ),
    HubSet(
        "echo840/OCRBench",
        "default",
        "test",
        rows.ocrbench_rows,
        Features({**_texts("dataset", "question", "question_type"), "answer": List(TEXT), "image": Image()}),
    ),
)


def write_sets(out: Path, questions: int) -> bool:
    """Write all sets below `out`; False when they were there already with the same number of questions.

    Raises:
        ValueError: fewer than one question asked for.
    """
    if questions < 1:
        raise ValueError(f"expected at least one question a set, got {questions}")
    repositories = sorted({one.repository for one in SETS})
    wanted = {"questions": questions, "sets": repositories}
    done = out / "sets.json"
    if done.exists() and json.loads(done.read_text(encoding="utf-8")) == wanted:
        logger.info("%s is complete; nothing to do", out)
        return False
    done.unlink(missing_ok=True)
    for repository in repositories:
        shutil.rmtree(out / repository, ignore_errors=True)
        mine = [one for one in SETS if one.repository == repository]
        for one in mine:
            _write_split(out / repository, one, questions)
        write_text(out / repository / "README.md", _card(mine))
    write_json(done, wanted)
    return True


def _file(one: HubSet) -> str:
    return f"{one.config}/{one.split}-00000-of-00001.parquet"


def _write_split(folder: Path, one: HubSet, questions: int) -> None:
    found = one.rows(questions)
    path = folder / _file(one)
    path.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_list(found, features=one.features).to_parquet(str(path))
    logger.info("%s %s: %d rows", one.repository, one.config, len(found))


def _card(splits: list[HubSet]) -> str:
    """The card's header: which file is which split of which configuration."""
    lines = ["---", "configs:"]
    for one in splits:
        lines += [f"- config_name: {one.config}", "  data_files:", f"  - split: {one.split}", f"    path: {_file(one)}"]
    return "\n".join([*lines, "---", ""])


def main(
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("playground/data/miniature/lmms"),
    questions: Annotated[int, typer.Option(help="Questions a set (MMBench: before their options are rotated).")] = 60,
) -> None:
    """Write the miniature's twins of lmms-eval's data sets, laid out as on the hub.

    Example: python -m llava.miniature.lmms_sets --out playground/data/miniature/lmms
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    write_sets(out, questions)


if __name__ == "__main__":
    typer.run(main)
