"""Pre-train the miniature CLIP tower: name what each patch holds, and let CLS name what the whole picture holds.

Why two tasks: the patch task makes features a small language model can read after minutes instead of days, and the CLS
task, attached at the layer the projector reads (-2) and at the last one, makes CLS attend to the few patches that hold
something: the property VisionZip selects by. Everything but the tower is thrown away afterwards.

    python -m llava.miniature.tower --out checkpoints/miniature/tower-stage1
    python -m llava.miniature.tower --start checkpoints/miniature/tower-stage1 --steps 2000 --horizon 2000
    python -m llava.miniature.tower --start checkpoints/miniature/tower-stage2 --places --steps 1000 --horizon 1000
"""

import json
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPVisionConfig, CLIPVisionModel

from llava.miniature.tower_labels import (
    CLS_TASKS,
    GRID,
    IMAGE_SIZE,
    MEAN,
    NUM_NAMES,
    PATCH_SIZE,
    PATCH_TASKS,
    STD,
    cells_of,
    cls_labels,
    patch_labels,
    patch_middles,
    pixels_of,
)
from llava.miniature.world import SPLITS, sample_scene
from llava.utils import give_usual_mode

logger = logging.getLogger(__name__)

TOWER_FOLDER = "playground/miniature/clip-mini-patch14-168"
# Weight of a patch that holds something against one that does not, in the first two stages: in the first every
# kind alike, which teaches shapes and colours; in the second by how rare it is, without which the writing, on one patch
# in a hundred, is learned last (see LOG.md).
EVEN = dict.fromkeys(PATCH_TASKS, 3.0)
BY_RARITY = {
    "shape": 8.0,
    "color": 8.0,
    "size": 8.0,
    "center": 15.0,
    "word": 40.0,
    "digit": 40.0,
    "row": 1.0,
    "column": 1.0,
}
CLS_EVEN = {"names": 10.0, "word": 0.3, "digit": 0.3, "ground": 0.3, "count": 0.3}
CLS_BY_RARITY = {"names": 10.0, "word": 1.0, "digit": 1.0, "ground": 0.3, "count": 0.5}
# The third stage adds two places as numbers, in patches: each patch's own, and on a patch that holds something the
# middle of what it holds. With twelve rows and columns as classes alone, a look at a patch of a thing told its place
# no better than to two patches (see LOG.md), too coarse for "left of".
PLACES = 4  # own row, own column, row and column of the middle
HELD_WEIGHT = 5.0  # of the own place of patches that hold something, which are a tenth


def tower_config() -> CLIPVisionConfig:
    """CLIP geometry of the miniature: 168 px, patch 14, 144 patches, 6 layers of width 192."""
    return CLIPVisionConfig(
        hidden_size=192,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=4,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        projection_dim=192,
        hidden_act="quick_gelu",
    )


class PretrainingModel(nn.Module):
    """The tower with its throw-away heads."""

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__()
        # On a CPU the plain attention trains 1.4 times faster than sdpa, whose backward pass is slow there.
        self.tower = CLIPVisionModel._from_config(config, attn_implementation="eager")
        width = config.hidden_size
        self.patch_head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, sum(PATCH_TASKS.values())))
        self.place_head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, PLACES))
        outputs = NUM_NAMES + sum(CLS_TASKS.values())
        self.cls_heads = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, outputs))
            for _ in range(2)
        )

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """pixels [B, 3, 168, 168] -> patch logits [B, 144, .] and places [B, 144, 4] of layer -2, CLS logits [B, .] of
        layers -2, -1."""
        states = self.tower(pixels, output_hidden_states=True).hidden_states
        patches, places = self.patch_head(states[-2][:, 1:]), self.place_head(states[-2][:, 1:])
        return patches, places, [head(state[:, 0]) for head, state in zip(self.cls_heads, states[-2:], strict=True)]


def loss_of(
    model: PretrainingModel,
    pixels: Tensor,
    patches: Tensor,
    middles: Tensor,
    wholes: Tensor,
    by_rarity: bool = True,
    places: bool = True,
) -> tuple[Tensor, dict[str, float]]:
    """patches [B, 8, 144], middles [B, 144, 2], wholes [B, 34]. Returns the summed loss and its parts."""
    patch_logits, said, cls_logits = model(pixels)
    parts: dict[str, Tensor] = place_losses(said.float(), middles) if places else {}
    for index, (task, logits) in enumerate(
        zip(PATCH_TASKS, patch_logits.float().split(list(PATCH_TASKS.values()), dim=-1), strict=True)
    ):
        target = patches[:, index].long()
        weight = torch.ones(PATCH_TASKS[task])
        weight[1:] = (BY_RARITY if by_rarity else EVEN)[task]
        parts[f"patch/{task}"] = functional.cross_entropy(logits.transpose(1, 2), target, weight)
    weights = CLS_BY_RARITY if by_rarity else CLS_EVEN
    for depth, logits in zip((-2, -1), cls_logits, strict=True):
        names, *rest = logits.float().split([NUM_NAMES, *CLS_TASKS.values()], dim=-1)
        present = wholes[:, :NUM_NAMES].float()
        parts[f"cls{depth}/names"] = weights["names"] * functional.binary_cross_entropy_with_logits(names, present)
        for index, (task, values) in enumerate(zip(CLS_TASKS, rest, strict=True)):
            target = wholes[:, NUM_NAMES + index].long()
            parts[f"cls{depth}/{task}"] = weights[task] * functional.cross_entropy(values, target)
    return torch.stack(list(parts.values())).sum(), {name: round(part.item(), 4) for name, part in parts.items()}


def place_losses(said: Tensor, middles: Tensor) -> dict[str, Tensor]:
    """Absolute errors in patches. said [B, 144, 4], middles [B, 144, 2] with -1 where a patch holds nothing."""
    held = (middles[..., 0] >= 0).float()
    rows, columns = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
    own = torch.stack([rows, columns], dim=-1).view(1, GRID * GRID, 2) + 0.5
    weight = 1 + (HELD_WEIGHT - 1) * held
    return {
        "place/own": ((said[..., :2] - own).abs().mean(-1) * weight).sum() / weight.sum(),
        "place/middle": ((said[..., 2:] - middles).abs().mean(-1) * held).sum() / held.sum().clamp(min=1),
    }


def draw_scenes(seeds: range, cache: Path) -> list[np.ndarray]:
    """Pixels [N, 168, 168, 3], patch labels [N, 8, 144], middles [N, 144, 2], CLS labels [N, 34]; drawn once and kept
    in `cache`."""
    names = [cache / f"{part}-{seeds.start}-{seeds.stop}.npy" for part in ("pixels", "patches", "middles", "wholes")]
    if not all(name.exists() for name in names):
        cache.mkdir(parents=True, exist_ok=True)
        scenes = [sample_scene(seed) for seed in seeds]
        np.save(names[1], np.stack([patch_labels(scene) for scene in scenes]))
        np.save(names[2], np.stack([patch_middles(scene) for scene in scenes]))
        np.save(names[3], np.stack([cls_labels(scene) for scene in scenes]))
        shape = (len(scenes), IMAGE_SIZE, IMAGE_SIZE, 3)
        partial = names[0].with_suffix(".part")
        pixels = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape)
        for index, scene in enumerate(scenes):
            pixels[index] = pixels_of(scene)
            if index % 4000 == 0:
                logger.info("drawn %d of %d scenes", index, len(scenes))
        pixels.flush()
        partial.rename(names[0])
    return [np.load(name, mmap_mode="r") for name in names]


def normalise(pixels: np.ndarray) -> Tensor:
    """uint8 [B, S, S, 3] -> float32 [B, 3, S, S] with CLIP's mean and standard deviation."""
    scaled = torch.from_numpy(pixels.astype(np.float32)) / 255.0
    return ((scaled - torch.tensor(MEAN)) / torch.tensor(STD)).permute(0, 3, 1, 2).contiguous()


def batches(count: int, size: int, seed: int) -> Iterator[np.ndarray]:
    """Endless shuffled index batches."""
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(count)
        for start in range(0, count - size + 1, size):
            yield np.sort(order[start : start + size])


@torch.no_grad()
def measure(model: PretrainingModel, seeds: range, keep: int = 13) -> dict[str, float]:
    """What the tower knows on unseen scenes, and where CLS looks at layer -2.

    names_f1: (colour, shape) present, from CLS of layer -2. patch_accuracy: shape and colour where a thing is.
    attention_on_things: share of CLS attention on patches that hold a thing or a plate; area: share of such patches.
    things_touched: share of things of which the `keep` most attended patches contain at least one.
    middle_error: in patches, how far off a patch that holds something takes the middle of it, mean of both axes.
    """
    from visionzip import QKTap
    from visionzip.core.scores import cls_attention

    model.eval()
    scenes = [sample_scene(seed) for seed in seeds]
    pixels = normalise(np.stack([pixels_of(scene) for scene in scenes]))
    layers = model.tower.encoder.layers
    with QKTap(layers[-2].self_attn) as tap:
        patch_logits, places, cls_logits = model(pixels)
    middles = torch.from_numpy(np.stack([patch_middles(scene) for scene in scenes]))
    attention = cls_attention(tap.query, tap.keys)
    attention = attention / attention.sum(-1, keepdim=True)
    labels = torch.from_numpy(np.stack([patch_labels(scene) for scene in scenes])).long()
    held = (labels[:, 0] > 0) | (labels[:, 4] > 0) | (labels[:, 5] > 0)
    split = patch_logits.split(list(PATCH_TASKS.values()), dim=-1)
    thing = labels[:, 0] > 0
    right = (split[0].argmax(-1) == labels[:, 0]) & (split[1].argmax(-1) == labels[:, 1])
    said = cls_logits[0][:, :NUM_NAMES] > 0
    true = torch.from_numpy(np.stack([cls_labels(scene) for scene in scenes]))[:, :NUM_NAMES] > 0
    top = attention.topk(keep, dim=-1).indices
    chosen = torch.zeros_like(held).scatter(1, top, torch.ones_like(top, dtype=torch.bool)).view(-1, GRID, GRID).numpy()
    touched = [bool(chosen[i][cells_of(s, t.box)].any()) for i, s in enumerate(scenes) for t in s.things]
    return {
        "names_f1": round(2 * (said & true).sum().item() / max(1, (said.sum() + true.sum()).item()), 4),
        "patch_accuracy": round(right[thing].float().mean().item(), 4),
        "word_patch_accuracy": round((split[4].argmax(-1) == labels[:, 4])[labels[:, 4] > 0].float().mean().item(), 4),
        "digit_patch_accuracy": round((split[5].argmax(-1) == labels[:, 5])[labels[:, 5] > 0].float().mean().item(), 4),
        "attention_on_things": round((attention * held).sum(-1).mean().item(), 4),
        "area": round(held.float().mean().item(), 4),
        "things_touched": round(float(np.mean(touched)), 4),
        "middle_error": round(place_losses(places, middles)["place/middle"].item(), 4),
    }


@dataclass(frozen=True)
class Stage:
    """One of the three stages of training. `start`: a tower folder to go on from; heads always start anew.

    The rate follows a cosine over `horizon` steps after a warm-up of 200; training stops after `steps`.
    """

    steps: int
    horizon: int
    learning_rate: float
    by_rarity: bool
    places: bool = False
    start: Path | None = None


def train(out: Path, cache: Path, scenes: int, stage: Stage, batch_size: int, seed: int) -> None:
    """Pre-train and write the tower folder (config.json, model.safetensors in float16, preprocessor_config.json)."""
    torch.manual_seed(seed)
    pixels, *labels = draw_scenes(SPLITS["train"][:scenes], cache)
    model = PretrainingModel(tower_config())
    steps = stage.steps
    if stage.start is not None:
        model.tower.load_state_dict(CLIPVisionModel.from_pretrained(stage.start, dtype=torch.float32).state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=stage.learning_rate, weight_decay=0.05, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / 200, 0.5 + 0.5 * math.cos(math.pi * step / stage.horizon) + 1e-3)
    )
    log: list[dict[str, object]] = []
    started = time.perf_counter()
    for step, index in enumerate(batches(len(pixels), batch_size, seed)):
        if step % 500 == 0 or step == steps:
            entry = {
                "step": step,
                "seconds": round(time.perf_counter() - started),
                **measure(model, SPLITS["train"][-256:]),
            }
            logger.info("%s", entry)
            log.append(entry)
            save(model, out, log)
            model.train()
        if step == steps:
            return
        with torch.autocast("cpu", torch.bfloat16):
            wanted = (torch.from_numpy(part[index]) for part in labels)
            loss, parts = loss_of(model, normalise(pixels[index]), *wanted, stage.by_rarity, stage.places)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            logger.info("step %d loss %.3f %.0f s %s", step, loss.item(), time.perf_counter() - started, parts)


def save(model: PretrainingModel, out: Path, log: list[dict[str, object]]) -> None:
    """Write the tower alone, in the public CLIP folder layout."""
    from transformers import CLIPImageProcessorPil

    from llava.provenance import stamp

    tower = CLIPVisionModel(model.tower.config)
    tower.load_state_dict(model.tower.state_dict())
    tower.to(torch.float16).save_pretrained(out)
    give_usual_mode(out / "model.safetensors")
    size = {"shortest_edge": IMAGE_SIZE}
    crop = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    CLIPImageProcessorPil(size=size, crop_size=crop, image_mean=list(MEAN), image_std=list(STD)).save_pretrained(out)
    record = {"stamp": stamp(), "log": log}
    (out / "training_log.json").write_text(json.dumps(record, indent=1) + "\n")


def main(
    out: Annotated[Path, typer.Option(help="Folder to write the tower to.")] = Path(TOWER_FOLDER),
    cache: Annotated[Path, typer.Option(help="Where drawn scenes are kept.")] = Path("checkpoints/miniature/scenes"),
    scenes: Annotated[int, typer.Option(help="Training scenes; epochs repeat them.")] = 28_000,
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 1_000,
    horizon: Annotated[int, typer.Option(help="Steps the cosine of the learning rate spans.")] = 2_200,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate of AdamW.")] = 1e-3,
    start: Annotated[Path | None, typer.Option(help="Tower of the stage before; without, this is the first.")] = None,
    places: Annotated[bool, typer.Option(help="Learn places as numbers too: the third stage.")] = False,
    batch_size: Annotated[int, typer.Option(help="Scenes per step.")] = 64,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
    seed: Annotated[int, typer.Option(help="Seed of weights and order.")] = 0,
) -> None:
    """Pre-train the miniature CLIP tower: first stage, or with --start a later one.

    Example: python -m llava.miniature.tower --out checkpoints/miniature/tower-stage1
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(threads)
    stage = Stage(steps, horizon, learning_rate, by_rarity=start is not None, places=places, start=start)
    train(out, cache, scenes, stage, batch_size, seed)


if __name__ == "__main__":
    typer.run(main)
