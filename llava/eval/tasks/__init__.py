"""Scoring as pure functions of files. `TASKS` is the whole list; a new task is one module and one line here."""

from collections.abc import Mapping

from llava.eval.tasks import gqa, mmbench, mme, pope, seed, sqa, textvqa, vqav2
from llava.eval.tasks.base import Scorer, TaskScore

TASKS: Mapping[str, Scorer] = {
    "gqa": gqa.score,
    "pope": pope.score,
    "vqav2": vqav2.score,
    "textvqa": textvqa.score,
    "mme": mme.score,
    "mmbench": mmbench.score,
    "seed": seed.score,
    "sqa": sqa.score,
}

__all__ = ["TASKS", "Scorer", "TaskScore"]
