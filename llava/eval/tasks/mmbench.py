"""MMBench, single pass: option letter. (The benchmark's own server asks every rotation of the options; that needs
its files.)"""

from llava.eval.tasks.base import OFFICIAL
from llava.eval.tasks.choice import choice_scorer, letter_leading

score = choice_scorer("mmbench", {OFFICIAL: letter_leading})
