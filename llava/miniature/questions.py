"""Questions about a scene, by family: each family is the twin of public benchmarks.

    attribute, relation   GQA                      existence      POPE (random, popular, adversarial negatives), MME
    count, ground, size   VQAv2                    reading        TextVQA, OCR-VQA
    choice, place, extreme   MMBench, SEED, ScienceQA (multiple choice)

Each asker takes a scene and a `random.Random` and returns a `Question`, or None when the scene does not allow it (say,
no unique star).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from llava.miniature.world import COLORS, DIGITS, GROUNDS, SHAPES, WORDS, Scene, Thing

SHORT_ANSWER = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."
YES_NO = "Please answer yes or no."
# Names asked for most often when a negative is wanted: POPE's "popular" sampling needs an uneven world of questions.
POPULAR = ("red circle", "blue square", "yellow star", "green triangle", "purple cross", "orange circle")
PLACES = tuple(f"{row} {column}" for row in ("top", "bottom") for column in ("left", "right"))
CLEAR = 0.1  # of the longer side: centres closer than this along an axis are not compared along it


@dataclass(frozen=True)
class Question:
    """`text` carries no suffix such as SHORT_ANSWER; `options` is empty unless the answer is a letter."""

    category: str
    text: str
    answer: str
    options: tuple[str, ...] = ()
    suffix: str = SHORT_ANSWER

    @property
    def prompt(self) -> str:
        """Question, options and suffix on lines of their own, as LLaVA's question files have them."""
        lines = [self.text, *(f"{letter}. {option}" for letter, option in zip("ABCD", self.options, strict=False))]
        return "\n".join([*lines, self.suffix])


Asker = Callable[[Scene, Random], Question | None]


def ask_color(scene: Scene, rng: Random) -> Question | None:
    thing = _only(scene, rng, lambda t: t.shape)
    return thing and Question("attribute", f"What color is the {thing.shape}?", thing.color)


def ask_shape(scene: Scene, rng: Random) -> Question | None:
    thing = _only(scene, rng, lambda t: t.color)
    return thing and Question("attribute", f"What shape is the {thing.color} object?", thing.shape)


def ask_size(scene: Scene, rng: Random) -> Question | None:
    thing = _only(scene, rng, lambda t: t.name)
    return thing and Question("size", f"Is the {thing.name} small or large?", thing.size)


def ask_left_right(scene: Scene, rng: Random) -> Question | None:
    pair = pair_apart(scene, rng, axis=0)
    if pair is None:
        return None
    one, other = pair
    side = "left" if one.center[0] < other.center[0] else "right"
    return Question("relation", f"Is the {one.shape} to the left or to the right of the {other.shape}?", side)


def ask_above_below(scene: Scene, rng: Random) -> Question | None:
    pair = pair_apart(scene, rng, axis=1)
    if pair is None:
        return None
    one, other = pair
    side = "above" if one.center[1] < other.center[1] else "below"
    return Question("relation", f"Is the {one.shape} above or below the {other.shape}?", side)


def ask_existence(scene: Scene, rng: Random) -> Question | None:
    """Half yes; the negatives mostly adversarial (its colour and its shape are both there, but not together)."""
    if rng.random() < 0.5:
        return present(scene, rng)
    return absent(scene, rng, rng.choice(("adversarial", "adversarial", "popular", "random")))


def present(scene: Scene, rng: Random, category: str = "existence") -> Question:
    return Question(category, f"Is there {_a(rng.choice(scene.things).name)} in the image?", "yes")


def absent(scene: Scene, rng: Random, kind: str, category: str = "existence") -> Question:
    """A name that is not in the scene. kind: random, popular or adversarial."""
    there = {thing.name for thing in scene.things}
    every = [f"{color} {shape}" for color in COLORS for shape in SHAPES]
    pools = {
        "random": every,
        "popular": list(POPULAR),
        "adversarial": [f"{a.color} {b.shape}" for a in scene.things for b in scene.things],
    }
    pool = [name for name in pools[kind] if name not in there] or [name for name in every if name not in there]
    return Question(category, f"Is there {_a(rng.choice(pool))} in the image?", "no")


def ask_count(scene: Scene, rng: Random) -> Question | None:
    kind = rng.randrange(3)
    if kind == 0:
        return Question("count", "How many objects are there?", str(len(scene.things)))
    thing = rng.choice(scene.things)
    if kind == 1:
        total = sum(t.color == thing.color for t in scene.things)
        return Question("count", f"How many {thing.color} objects are there?", str(total))
    total = sum(t.shape == thing.shape for t in scene.things)
    return Question("count", f"How many {plural(thing.shape)} are there?", str(total))


def ask_ground(scene: Scene, rng: Random) -> Question | None:
    return Question("ground", "What is the background?", scene.ground)


def ask_word(scene: Scene, rng: Random) -> Question | None:
    return scene.word and Question("word", "What word is written on the sign?", scene.word.text)


def ask_digit(scene: Scene, rng: Random) -> Question | None:
    return scene.digit and Question("number", "What number is shown?", scene.digit.text)


def ask_place(scene: Scene, rng: Random) -> Question | None:
    thing = _only(scene, rng, lambda t: t.shape)
    place = thing and _place(scene, thing)
    return place and thing and Question("place", f"Where in the image is the {thing.shape}?", place)


def choose(scene: Scene, rng: Random, asker: Asker, values: Sequence[str]) -> Question | None:
    """Turn a question with a short answer into one of four choices."""
    question = asker(scene, rng)
    if question is None:
        return None
    wrong = rng.sample([value for value in values if value != question.answer], min(3, len(values) - 1))
    return _options(rng, question.category, question.text, question.answer, wrong)


def choose_attribute(scene: Scene, rng: Random) -> Question | None:
    if rng.random() < 0.5:
        return choose(scene, rng, ask_color, tuple(COLORS))
    return choose(scene, rng, ask_shape, SHAPES)


def choose_place(scene: Scene, rng: Random) -> Question | None:
    return choose(scene, rng, ask_place, PLACES)


def choose_reading(scene: Scene, rng: Random) -> Question | None:
    if scene.word is not None:
        return choose(scene, rng, ask_word, WORDS)
    return choose(scene, rng, ask_digit, DIGITS)


def choose_ground(scene: Scene, rng: Random) -> Question | None:
    return choose(scene, rng, ask_ground, tuple(GROUNDS))


def choose_count(scene: Scene, rng: Random) -> Question | None:
    return choose(scene, rng, ask_count, ("1", "2", "3", "4", "5"))


def choose_extreme(scene: Scene, rng: Random) -> Question | None:
    """Which shape lies furthest to one side; the choices are shapes that are there."""
    side, axis, sign = rng.choice((("top", 1, 1), ("bottom", 1, -1), ("left", 0, 1), ("right", 0, -1)))
    ranked = sorted(scene.things, key=lambda t: sign * t.center[axis])
    if len({thing.shape for thing in ranked}) < len(ranked) or len(ranked) < 3:
        return None
    if abs(ranked[0].center[axis] - ranked[1].center[axis]) < CLEAR * max(scene.size):
        return None
    wrong = rng.sample([thing.shape for thing in ranked[1:]], min(3, len(ranked) - 1))
    return _options(rng, "extreme", f"Which object is closest to the {side}?", ranked[0].shape, wrong)


def mme_pair(scene: Scene, rng: Random, category: str) -> tuple[Question, Question] | None:
    """MME asks two questions about a picture: one to be answered yes, one no. category: a key of MME."""
    asked = MME[category](scene, rng)
    if asked is None:
        return None
    return tuple(  # type: ignore[return-value]  # always two
        Question(category, text, answer, suffix=YES_NO) for text, answer in zip(asked, ("yes", "no"), strict=True)
    )


def describe(scene: Scene) -> str:
    """Everything in the picture in words, from left to right: what the base model learns to see by, before questions.

    Each thing comes with its column and row of ten, in the picture padded to a square.
    """
    things = sorted(scene.things, key=lambda thing: thing.center[0])
    named = [f"{thing.name} {thing.size} {_grid(scene, thing)}" for thing in things]
    return ", ".join([scene.ground, *named, *_writing(scene)])


def _grid(scene: Scene, thing: Thing) -> str:
    side = max(scene.size)
    return " ".join(
        str(int(10 * (at + (side - length) / 2) / side)) for at, length in zip(thing.center, scene.size, strict=True)
    )


def _writing(scene: Scene) -> list[str]:
    sign = [f"sign {scene.word.text}"] if scene.word else []
    return sign + ([f"number {scene.digit.text}"] if scene.digit else [])


def ask_parts(scene: Scene, rng: Random, turns: int) -> list[Question]:
    """Questions whose answers list things: every answer word is a look at the picture, found by shape, by colour, by
    place or by order. The base model learns from them what the one-word questions take for granted."""
    asked = [_list(scene, f"Which objects are {plural(shape)}?", lambda t, s=shape: t.shape == s) for shape in SHAPES]
    asked += [_list(scene, f"Which objects are {color}?", lambda t, c=color: t.color == c) for color in COLORS]
    asked += [
        _list(scene, f"Which objects are at the {place}?", lambda t, p=place: _place(scene, t) == p) for place in PLACES
    ]
    asked.append(Question("parts", "What is written?", ", ".join(_writing(scene)) or "0"))
    asked += _orders(scene)
    return rng.sample(asked, turns)


def _orders(scene: Scene) -> list[Question]:
    """Shapes along both axes, and those on each side of every thing whose shape is unique."""
    asked = []
    shapes = [thing.shape for thing in scene.things]
    ways = (("from left to right", "to the left of", "to the right of"), ("from top to bottom", "above", "below"))
    for axis, (along, before, after) in enumerate(ways):
        ranked = sorted(scene.things, key=lambda thing, axis=axis: thing.center[axis])
        asked.append(Question("parts", f"Which shapes are there {along}?", ", ".join(t.shape for t in ranked)))
        for place, thing in enumerate(ranked):
            if shapes.count(thing.shape) == 1:
                for side, there in ((before, ranked[:place]), (after, ranked[place + 1 :])):
                    answer = ", ".join([str(len(there)), *(other.shape for other in there)])
                    asked.append(Question("parts", f"Which shapes are {side} the {thing.shape}?", answer))
    return asked


def _list(scene: Scene, text: str, matches: Callable[[Thing], bool]) -> Question:
    """How many things match, then each from left to right with its place."""
    found = sorted((thing for thing in scene.things if matches(thing)), key=lambda thing: thing.center[0])
    named = [f"{thing.name} {thing.size} {_place(scene, thing) or 'middle'}" for thing in found]
    return Question("parts", text, ", ".join([str(len(found)), *named]))


def ask_verify(scene: Scene, rng: Random) -> Question | None:
    """One of MME's yes/no questions."""
    pair = mme_pair(scene, rng, rng.choice(tuple(MME)))
    return pair and rng.choice(pair)


def _mme_existence(scene: Scene, rng: Random) -> tuple[str, str] | None:
    return present(scene, rng).text, absent(scene, rng, "adversarial").text


def _mme_count(scene: Scene, rng: Random) -> tuple[str, str] | None:
    total = len(scene.things)
    other = rng.choice([number for number in (total - 1, total + 1) if 1 <= number <= 5])
    return f"Are there {total} objects in the image?", f"Are there {other} objects in the image?"


def _mme_position(scene: Scene, rng: Random) -> tuple[str, str] | None:
    pair = pair_apart(scene, rng, axis=0)
    if pair is None:
        return None
    left, right = sorted(pair, key=lambda t: t.center[0])
    ask = "Is the {} to the left of the {}?"
    return ask.format(left.shape, right.shape), ask.format(right.shape, left.shape)


def _mme_color(scene: Scene, rng: Random) -> tuple[str, str] | None:
    thing = _only(scene, rng, lambda t: t.shape)
    if thing is None:
        return None
    wrong = rng.choice([color for color in COLORS if color != thing.color])
    return f"Is the {thing.shape} {thing.color}?", f"Is the {thing.shape} {wrong}?"


def _mme_ocr(scene: Scene, rng: Random) -> tuple[str, str] | None:
    if scene.word is None:
        return None
    wrong = rng.choice([word for word in WORDS if word != scene.word.text])
    return f"Is the word on the sign {scene.word.text}?", f"Is the word on the sign {wrong}?"


MME: dict[str, Callable[[Scene, Random], tuple[str, str] | None]] = {
    "existence": _mme_existence,
    "count": _mme_count,
    "position": _mme_position,
    "color": _mme_color,
    "OCR": _mme_ocr,
}


def _only(scene: Scene, rng: Random, key: Callable[[Thing], str]) -> Thing | None:
    """One of the things whose key no other thing shares."""
    keys = [key(thing) for thing in scene.things]
    single = [thing for thing in scene.things if keys.count(key(thing)) == 1]
    return rng.choice(single) if single else None


def pair_apart(scene: Scene, rng: Random, axis: int) -> tuple[Thing, Thing] | None:
    """Two things of unique shapes, clearly apart along the axis."""
    shapes = [thing.shape for thing in scene.things]
    single = [thing for thing in scene.things if shapes.count(thing.shape) == 1]
    clear = CLEAR * max(scene.size)
    pairs = [(a, b) for a in single for b in single if abs(a.center[axis] - b.center[axis]) > clear]
    return rng.choice(pairs) if pairs else None


def _place(scene: Scene, thing: Thing) -> str | None:
    """Quarter of the picture, or None too near to a middle line."""
    (x, y), (width, height) = thing.center, scene.size
    clear = CLEAR * max(scene.size) / 2
    if abs(x - width / 2) < clear or abs(y - height / 2) < clear:
        return None
    return f"{'top' if y < height / 2 else 'bottom'} {'left' if x < width / 2 else 'right'}"


def choose_named(rng: Random) -> Question:
    """Find the option that the question names: no picture needed."""
    words = rng.sample([*COLORS, *SHAPES, *GROUNDS, *WORDS, *PLACES], rng.choice((3, 4)))
    named = rng.choice(words)
    return Question("option", f"Which option is {named}?", "ABCD"[words.index(named)], tuple(words), LETTER)


def _options(rng: Random, category: str, text: str, answer: str, wrong: Sequence[str]) -> Question:
    options = [answer, *wrong]
    rng.shuffle(options)
    return Question(category, text, "ABCD"[options.index(answer)], tuple(options), LETTER)


def _a(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def plural(shape: str) -> str:
    return f"{shape}es" if shape.endswith("s") else f"{shape}s"
