"""SEED-Bench: the answer must be the option letter exactly; `fixed` also reads `B.` and `B) a dog`."""

from llava.eval.tasks.base import OFFICIAL
from llava.eval.tasks.choice import FIXED, choice_scorer, letter_exact, letter_leading

score = choice_scorer("seed", {OFFICIAL: letter_exact, FIXED: letter_leading})
