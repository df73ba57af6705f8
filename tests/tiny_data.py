"""A tiny instruction set in LLaVA's format: one-colour pictures, and the question which colour they have."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from PIL import Image

COLORS = {"red": (220, 30, 30), "green": (30, 180, 30), "blue": (30, 30, 220)}


def write_data(folder: Path, rows: int = 24, text_rows: int = 4) -> Path:
    """Write `mix.json` and its pictures; the last rows are text only, and ids repeat. Returns the file."""
    rng = random.Random(0)
    content: list[dict[str, Any]] = []
    for number in range(rows):
        color = rng.choice(list(COLORS))
        name = f"coco/{number}.png"
        picture = Image.new("RGB", (rng.randint(40, 90), rng.randint(40, 90)), COLORS[color])
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(folder / name)
        row: dict[str, Any] = {"id": str(number % 5), "image": name}
        question = "<image>\nWhat colour is the square?"
        if number >= rows - text_rows:
            row, question = {"id": str(number)}, "Is red a colour?"
        row["conversations"] = [{"from": "human", "value": question}, {"from": "gpt", "value": f"It is {color}."}]
        content.append(row)
    path = folder / "mix.json"
    path.write_text(json.dumps(content))
    return path
