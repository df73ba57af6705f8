"""The benchmark twins in their public layouts, one small function a benchmark.

`write_eval(out, ...)` writes `out/eval`, which mirrors playground/data/eval of the public LLaVA scripts: the same
files, keys and places of pictures; only what the files say is about the miniature world. Two things the public files
keep back are there: the answers of VQAv2 test-dev and of VizWiz test, which only their servers know.
"""

import logging
from collections.abc import Callable
from pathlib import Path

from llava.miniature.eval_sets import choice, short, yes_no
from llava.miniature.judged import write_judged

logger = logging.getLogger(__name__)

# name -> writer(folder of the eval sets, number of questions, processes that paint)
EVAL_SETS: dict[str, Callable[[Path, int, int], None]] = {
    "gqa": short.write_gqa,
    "pope": yes_no.write_pope,
    "vqav2": short.write_vqav2,
    "textvqa": short.write_textvqa,
    "mme": yes_no.write_mme,
    "mmbench": choice.write_mmbench,
    "seed": choice.write_seed,
    "sqa": choice.write_sqa,
    "vizwiz": short.write_vizwiz,
    "mmbench_cn": choice.write_mmbench_cn,
}


def write_eval(out: Path, questions: int, workers: int) -> None:
    """Write every twin below `out/eval`, each with at least so many questions; those a judge scores have their own
    number.

    Raises: ValueError when the scenes set aside for a twin give too few.
    """
    for name, write in EVAL_SETS.items():
        write(out / "eval", questions, workers)
        logger.info("eval set %s: done", name)
    write_judged(out / "eval", workers=workers)
