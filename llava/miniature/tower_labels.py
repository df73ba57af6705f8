"""What the miniature tower is taught: labels of each patch and of the whole picture, and the pixels it sees.

Rows and columns are counted in patches of the picture padded to a square.
"""

import math

import numpy as np
from PIL import Image

from llava.miniature.world import COLORS, DIGITS, GROUNDS, SHAPES, SIZES, WORDS, Box, Scene, render

IMAGE_SIZE = 168
PATCH_SIZE = 14
GRID = IMAGE_SIZE // PATCH_SIZE
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

# Patch labels, 0 = nothing of the kind here. Row and column are every patch's own place in the grid, from 1: compressed
# tokens reach the language model without their position, so the feature itself must tell where it was.
PATCH_TASKS = {
    "shape": len(SHAPES) + 1,
    "color": len(COLORS) + 1,
    "size": len(SIZES) + 1,
    "center": 2,
    "word": len(WORDS) + 1,
    "digit": len(DIGITS) + 1,
    "row": GRID + 1,
    "column": GRID + 1,
}
CLS_TASKS = {"word": len(WORDS) + 1, "digit": len(DIGITS) + 1, "ground": len(GROUNDS), "count": 6}
NUM_NAMES = len(COLORS) * len(SHAPES)


def pixels_of(scene: Scene) -> np.ndarray:
    """The scene as the tower sees it under image_aspect_ratio=pad: uint8 [168, 168, 3]."""
    picture = render(scene)
    side = max(picture.size)
    canvas = Image.new("RGB", (side, side), tuple(int(channel * 255) for channel in MEAN))
    canvas.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return np.asarray(canvas.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC))


def patch_labels(scene: Scene) -> np.ndarray:
    """Label of each patch for each task of PATCH_TASKS: uint8 [8, 144]."""
    labels = np.zeros((len(PATCH_TASKS), GRID, GRID), dtype=np.uint8)
    row = {task: index for index, task in enumerate(PATCH_TASKS)}
    for thing in scene.things:
        area = cells_of(scene, thing.box)
        labels[row["shape"]][area] = SHAPES.index(thing.shape) + 1
        labels[row["color"]][area] = list(COLORS).index(thing.color) + 1
        labels[row["size"]][area] = SIZES.index(thing.size) + 1
        y, x = _cell(scene, *thing.center)
        labels[row["center"], y, x] = 1
    for plate, task, values in ((scene.word, "word", WORDS), (scene.digit, "digit", DIGITS)):
        if plate is not None:
            labels[row[task]][cells_of(scene, plate.box)] = values.index(plate.text) + 1
    labels[row["row"]] = np.arange(1, GRID + 1)[:, None]
    labels[row["column"]] = np.arange(1, GRID + 1)
    return labels.reshape(len(PATCH_TASKS), GRID * GRID)


def patch_middles(scene: Scene) -> np.ndarray:
    """Row and column, in patches, of the middle of what each patch holds; -1 where it holds nothing.

    Returns: float32 [144, 2].
    """
    middles = np.full((GRID, GRID, 2), -1.0, dtype=np.float32)
    side = max(scene.size)
    offset = [(side - length) // 2 for length in scene.size]
    for held in (*scene.things, scene.word, scene.digit):
        if held is not None:
            x, y = ((held.box[axis] + held.box[axis + 2]) / 2 + offset[axis] for axis in (0, 1))
            middles[cells_of(scene, held.box)] = (y / side * GRID, x / side * GRID)
    return middles.reshape(GRID * GRID, 2)


def cls_labels(scene: Scene) -> np.ndarray:
    """What CLS must name: 30 flags of (colour, shape) present, then word, digit, ground, count. uint8 [34]."""
    names = np.zeros(NUM_NAMES, dtype=np.uint8)
    for thing in scene.things:
        names[list(COLORS).index(thing.color) * len(SHAPES) + SHAPES.index(thing.shape)] = 1
    word = WORDS.index(scene.word.text) + 1 if scene.word else 0
    digit = DIGITS.index(scene.digit.text) + 1 if scene.digit else 0
    rest = (word, digit, list(GROUNDS).index(scene.ground), len(scene.things))
    return np.concatenate([names, np.array(rest, dtype=np.uint8)])


def _cell(scene: Scene, x: float, y: float) -> tuple[int, int]:
    """Grid cell (row, column) of a picture point, after padding to a square."""
    width, height = scene.size
    side = max(scene.size)
    left, top = (side - width) // 2, (side - height) // 2
    return int((y + top) / side * GRID), int((x + left) / side * GRID)


def cells_of(scene: Scene, box: Box) -> tuple[slice, slice]:
    """Grid cells a box really covers: those it fills by at least a third along both axes, and its centre's."""
    spans = []
    width, height = scene.size
    side = max(scene.size)
    for low, high, offset in ((box[1], box[3], (side - height) // 2), (box[0], box[2], (side - width) // 2)):
        start, stop = (low + offset) / side * GRID, (high + offset) / side * GRID
        center = int((start + stop) / 2)
        spans.append(slice(min(center, math.floor(start + 0.67)), max(center + 1, math.ceil(stop - 0.33))))
    return spans[0], spans[1]
