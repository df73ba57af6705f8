"""The miniature world: seeded scenes of small things on a textured ground, drawn with PIL.

A scene is plain data (`Scene`), sampled from a seed; `render` draws it; questions.py asks about it. Things are small
against the picture (a tenth to a fifth of its longer side) and the ground is cluttered, so that most patches hold
nothing worth asking about: the property of natural pictures that token compression lives on.

Boxes are (left, top, right, bottom) in pixels of the picture.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Box = tuple[int, int, int, int]
Rgb = tuple[int, int, int]

COLORS: dict[str, Rgb] = {
    "red": (215, 30, 35),
    "green": (15, 160, 45),
    "blue": (30, 65, 220),
    "yellow": (245, 220, 30),
    "purple": (145, 35, 175),
    "orange": (250, 130, 15),
}
SHAPES = ("circle", "square", "triangle", "star", "cross")
SIZES = ("small", "large")
WORDS = ("cafe", "stop", "exit", "sale", "open", "taxi", "bank", "zoo", "park", "gym", "bus", "milk")
DIGITS = tuple(str(digit) for digit in range(10))
GROUNDS: dict[str, Rgb] = {
    "bricks": (150, 100, 85),
    "grass": (105, 130, 85),
    "water": (105, 135, 155),
    "sand": (190, 175, 145),
    "wood": (135, 105, 75),
}
CANVASES = ((240, 240), (280, 210), (210, 280), (300, 200), (200, 300), (320, 180))

# One million seeds a split: a seed belongs to exactly one of them.
SPLITS: dict[str, range] = {
    "train": range(0, 1_000_000),
    "tune": range(1_000_000, 2_000_000),
    "test": range(2_000_000, 3_000_000),
}


@dataclass(frozen=True)
class Thing:
    """A coloured shape. `box` is its bounding square."""

    color: str
    shape: str
    size: str
    box: Box

    @property
    def name(self) -> str:
        return f"{self.color} {self.shape}"

    @property
    def center(self) -> tuple[float, float]:
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2


@dataclass(frozen=True)
class Plate:
    """A light plate with dark writing: a word or one digit."""

    text: str
    box: Box


@dataclass(frozen=True)
class Scene:
    """Everything a question can be asked about, and the seed its texture noise is drawn from."""

    seed: int
    size: tuple[int, int]  # (W, H)
    ground: str
    things: tuple[Thing, ...]
    word: Plate | None
    digit: Plate | None


def split_of(seed: int) -> str:
    """The split a seed belongs to.

    Raises: ValueError when the seed lies in no split.
    """
    for name, seeds in SPLITS.items():
        if seed in seeds:
            return name
    raise ValueError(f"seed {seed} is in no split; expected 0 <= seed < {SPLITS['test'].stop}")


def sample_scene(seed: int, wants_text: bool | None = None) -> Scene:
    """Draw a scene from its seed. `wants_text`: True forces a word plate, False forbids plates, None is chance."""
    rng = Random(seed)
    size = rng.choice(CANVASES)
    taken: list[Box] = []
    long_side = max(size)
    word = digit = None
    if wants_text is not False and (wants_text or rng.random() < 0.4):
        word = _place_plate(rng, size, taken, rng.choice(WORDS), (0.26, 0.105))
    if wants_text is not False and rng.random() < 0.4:
        digit = _place_plate(rng, size, taken, rng.choice(DIGITS), (0.105, 0.125))
    things: list[Thing] = []
    for _ in range(rng.randint(2, 5)):
        color, shape, kind = rng.choice(tuple(COLORS)), rng.choice(SHAPES), rng.choice(SIZES)
        share = rng.uniform(0.105, 0.125) if kind == "small" else rng.uniform(0.175, 0.205)
        side = round(share * long_side)
        box = _free_box(rng, size, (side, side), taken)
        if box is not None:
            taken.append(box)
            things.append(Thing(color, shape, kind, box))
    return Scene(seed, size, rng.choice(tuple(GROUNDS)), tuple(things), word, digit)


def render(scene: Scene) -> Image.Image:
    """Draw the scene: RGB, of `scene.size`."""
    noise = np.random.default_rng(scene.seed)
    picture = Image.fromarray(_ground(scene, noise))
    draw = ImageDraw.Draw(picture)
    _clutter(draw, scene, noise)
    for thing in scene.things:
        color = _jitter(COLORS[thing.color], noise, 12)
        outline = tuple(channel // 3 for channel in color)
        _DRAW[thing.shape](draw, thing.box, color, outline)
    for plate in (scene.word, scene.digit):
        if plate is not None:
            _draw_plate(draw, plate, noise)
    return picture


def _place_plate(
    rng: Random, size: tuple[int, int], taken: list[Box], text: str, shares: tuple[float, float]
) -> Plate | None:
    long_side = max(size)
    box = _free_box(rng, size, (round(shares[0] * long_side), round(shares[1] * long_side)), taken)
    if box is None:
        return None
    taken.append(box)
    return Plate(text, box)


def _free_box(rng: Random, size: tuple[int, int], extent: tuple[int, int], taken: list[Box]) -> Box | None:
    """A box that stays a little away from all taken ones, or None when 60 throws found no room."""
    gap = 6
    for _ in range(60):
        left = rng.randint(2, size[0] - extent[0] - 2)
        top = rng.randint(2, size[1] - extent[1] - 2)
        box = (left, top, left + extent[0], top + extent[1])
        if all(
            box[0] > other[2] + gap or box[2] < other[0] - gap or box[1] > other[3] + gap or box[3] < other[1] - gap
            for other in taken
        ):
            return box
    return None


def _jitter(color: Rgb, noise: np.random.Generator, spread: int) -> Rgb:
    red, green, blue = (int(np.clip(c + noise.integers(-spread, spread + 1), 0, 255)) for c in color)
    return red, green, blue


def _ground(scene: Scene, noise: np.random.Generator) -> np.ndarray:
    """Textured ground, uint8 [H, W, 3]."""
    width, height = scene.size
    base = np.array(_jitter(GROUNDS[scene.ground], noise, 14), dtype=np.float32)
    rows = np.arange(height, dtype=np.float32)[:, None]
    cols = np.arange(width, dtype=np.float32)[None, :]
    relief = _RELIEF[scene.ground](rows, cols, noise)
    grain = noise.normal(0.0, 9.0, (height, width)).astype(np.float32)
    lit = base + (relief + grain)[:, :, None]
    return np.clip(lit, 0, 255).astype(np.uint8)


def _bricks(rows: np.ndarray, cols: np.ndarray, noise: np.random.Generator) -> np.ndarray:
    tall, wide = noise.integers(14, 22), noise.integers(28, 44)
    course = np.floor(rows / tall)
    mortar = (rows % tall < 2) | ((cols + (course % 2) * wide / 2) % wide < 2)
    return np.where(mortar, 32.0, 0.0)


def _grass(rows: np.ndarray, cols: np.ndarray, noise: np.random.Generator) -> np.ndarray:
    lean = noise.uniform(-0.4, 0.4)
    return 14.0 * np.sin((cols + lean * rows) * 1.3 + 3.0 * np.sin(rows * 0.25)) * np.cos(rows * 0.7)


def _water(rows: np.ndarray, cols: np.ndarray, noise: np.random.Generator) -> np.ndarray:
    length = noise.uniform(9, 14)
    return 17.0 * np.sin(2 * math.pi * (rows + 4.0 * np.sin(cols / 13.0)) / length)


def _sand(rows: np.ndarray, cols: np.ndarray, noise: np.random.Generator) -> np.ndarray:
    return np.where(noise.random((rows.shape[0], cols.shape[1])) < 0.06, -45.0, 0.0)


def _wood(rows: np.ndarray, cols: np.ndarray, noise: np.random.Generator) -> np.ndarray:
    plank = noise.integers(36, 60)
    return np.where(cols % plank < 2, -45.0, 0.0) + 9.0 * np.sin(cols * 0.8 + 1.5 * np.sin(rows / 30.0))


def _clutter(draw: ImageDraw.ImageDraw, scene: Scene, noise: np.random.Generator) -> None:
    """Dull strokes and specks that look like nothing one is asked about."""
    width, height = scene.size
    for _ in range(int(noise.integers(10, 26))):
        x, y = int(noise.integers(0, width)), int(noise.integers(0, height))
        tone = int(noise.integers(60, 200))
        color = _jitter((tone, tone, tone), noise, 18)
        dx, dy = (int(step) for step in noise.integers(-16, 17, 2))
        draw.line((x, y, x + dx, y + dy), fill=color, width=int(noise.integers(1, 4)))


def _circle(draw: ImageDraw.ImageDraw, box: Box, color: Rgb, outline: Rgb) -> None:
    draw.ellipse(box, fill=color, outline=outline)


def _square(draw: ImageDraw.ImageDraw, box: Box, color: Rgb, outline: Rgb) -> None:
    inset = (box[2] - box[0]) // 14
    draw.rectangle((box[0] + inset, box[1] + inset, box[2] - inset, box[3] - inset), fill=color, outline=outline)


def _triangle(draw: ImageDraw.ImageDraw, box: Box, color: Rgb, outline: Rgb) -> None:
    draw.polygon(((box[0] + box[2]) / 2, box[1], box[2], box[3], box[0], box[3]), fill=color, outline=outline)


def _star(draw: ImageDraw.ImageDraw, box: Box, color: Rgb, outline: Rgb) -> None:
    cx, cy, radius = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, (box[2] - box[0]) / 2
    corners = []
    for tip in range(10):
        reach = radius if tip % 2 == 0 else radius * 0.42
        angle = math.pi * (tip / 5 - 0.5)
        corners.append((cx + reach * math.cos(angle), cy + reach * math.sin(angle)))
    draw.polygon(corners, fill=color, outline=outline)


def _cross(draw: ImageDraw.ImageDraw, box: Box, color: Rgb, outline: Rgb) -> None:
    third = (box[2] - box[0]) / 3
    x = (box[0], box[0] + third, box[2] - third, box[2])
    y = (box[1], box[1] + third, box[3] - third, box[3])
    path = [(1, 0), (2, 0), (2, 1), (3, 1), (3, 2), (2, 2), (2, 3), (1, 3), (1, 2), (0, 2), (0, 1), (1, 1)]
    draw.polygon([(x[i], y[j]) for i, j in path], fill=color, outline=outline)


def _draw_plate(draw: ImageDraw.ImageDraw, plate: Plate, noise: np.random.Generator) -> None:
    left, top, right, bottom = plate.box
    draw.rectangle(plate.box, fill=_jitter((238, 236, 228), noise, 10), outline=(40, 40, 40))
    text = plate.text.upper()
    for size in range(bottom - top + 6, 5, -1):  # the largest type that fits the plate
        font = ImageFont.load_default(size)
        x0, y0, x1, y1 = draw.textbbox((0, 0), text, font=font)
        if x1 - x0 <= right - left - 4 and y1 - y0 <= bottom - top - 4:
            break
    x = (left + right) / 2 - (x0 + x1) / 2
    y = (top + bottom) / 2 - (y0 + y1) / 2
    draw.text((x, y), text, fill=_jitter((25, 25, 30), noise, 15), font=font)


_RELIEF: dict[str, Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]] = {
    "bricks": _bricks,
    "grass": _grass,
    "water": _water,
    "sand": _sand,
    "wood": _wood,
}
_DRAW: dict[str, Callable[[ImageDraw.ImageDraw, Box, Rgb, Rgb], None]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
}
