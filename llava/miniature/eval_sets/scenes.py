"""Which test scenes a twin asks about, what it asks of each, and what ten people would say."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from llava.miniature.questions import Asker, Question
from llava.miniature.world import SPLITS, Scene, sample_scene

SLICE = 10_000  # test seeds of one twin
ORDER = ("gqa", "pope", "vqav2", "textvqa", "mme", "mmbench", "seed", "sqa", "vizwiz", "mmbench_cn")


@dataclass(frozen=True)
class Asked:
    """A scene with the questions one twin asks about it, at least one."""

    scene: Scene
    questions: tuple[Question, ...]


def seeds_of(name: str) -> range:
    """The test seeds that belong to this twin alone."""
    first = ORDER.index(name) * SLICE
    return SPLITS["test"][first : first + SLICE]


def ask_scenes(
    name: str,
    count: int,
    ask_all: Callable[[Scene, Random], Sequence[Question]],
    wants_text: bool | None = None,
) -> list[Asked]:
    """Scenes of the twin in the order of their seeds until they hold `count` questions; a scene that allows none is
    left out.

    Raises: ValueError when the twin's scenes run out before.
    """
    asked, total = [], 0
    for scene in scenes_of(name, wants_text):
        questions = tuple(ask_all(scene, Random(f"{name}-{scene.seed}")))
        if questions:
            asked.append(Asked(scene, questions))
            total += len(questions)
        if total >= count:
            return asked
    raise ValueError(f"{name}: the {SLICE} scenes of this twin gave only {total} questions; ask for fewer than {count}")


def each(asked: Sequence[Asked]) -> list[tuple[Scene, Question]]:
    """Every question with its scene."""
    return [(one.scene, question) for one in asked for question in one.questions]


def scenes_of(name: str, wants_text: bool | None = None) -> Iterator[Scene]:
    """The twin's scenes in the order of their seeds."""
    return (sample_scene(seed, wants_text) for seed in seeds_of(name))


def one_of(*askers: Asker) -> Callable[[Scene, Random], tuple[Question, ...]]:
    """Ask one question by an asker drawn by chance."""

    def asked(scene: Scene, rng: Random) -> tuple[Question, ...]:
        question = rng.choice(askers)(scene, rng)
        return (question,) if question else ()

    return asked


def ten_people(rng: Random, answer: str, others: Sequence[str], most: int = 2) -> list[str]:
    """Ten human answers in any order: up to `most` people say one of `others`, the rest the answer."""
    said = rng.choices(others, k=rng.randint(0, most))
    said += [answer] * (10 - len(said))
    rng.shuffle(said)
    return said
