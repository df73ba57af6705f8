"""How much faster a training step gets: the same rows, stepped in four ways, side by side in one run.

    python -m llava.bench.train_speed --config configs/train/zip_tune_miniature.yaml --feature_cache runs/features \\
        --out results/train_speed/miniature.json

    plain           rows padded to the longest, the tower runs, logits at every position (as public LLaVA trains)
    cached          features from the cache instead of the tower
    cached+packed   rows packed as well
    all             logits at supervised positions only as well, as this repository trains with both options on

Rounds alternate between the four, so that what slows the machine for a while slows all of them; ratios are of the
medians over rounds. A step is data, forward, backward and optimizer, every micro-batch. Options are those of
llava.train.train.

    --rounds N         rounds (default 5)
    --micro_batches N  micro-batches of a round, the first of which warms up and is not timed (default 9)
    --out FILE         where the record goes (JSON)
"""

import json
import logging
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import send_to_device
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader
from transformers import set_seed

from llava.bench.live_memory import LivePeak
from llava.data.collator import DataCollatorForSupervisedDataset
from llava.data.dataset import LazySupervisedDataset
from llava.data.sampler import ModalityLengthSampler
from llava.model.row_attention import row_attention
from llava.provenance import stamp
from llava.train.arguments import TrainingArguments
from llava.train.cache_features import fill_cache, require_frozen_tower
from llava.train.options import parse_args
from llava.train.setup import load_model, make_dataset
from llava.train.stages import apply_stage, choose_stage

logger = logging.getLogger(__name__)

OWN_FLAGS = {"rounds": "5", "micro_batches": "9", "out": ""}


@dataclass(frozen=True)
class Variant:
    """One way to step. Fields as in the module's table."""

    name: str
    cached: bool = False
    packed: bool = False
    lean: bool = False


VARIANTS = (
    Variant("plain"),
    Variant("cached", cached=True),
    Variant("cached+packed", cached=True, packed=True),
    Variant("all", cached=True, packed=True, lean=True),
)


class Bench:
    """A model that trains, and the same rows with pixels and with cached features."""

    def __init__(self, model: Any, dataset: LazySupervisedDataset, features: Any, args: TrainingArguments) -> None:
        self.model = model.to(args.device).train()
        if args.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            model.enable_input_require_grads()
        self.dataset, self.features, self.args = dataset, features, args
        self.collate = DataCollatorForSupervisedDataset(dataset.tokenizer.pad_token_id)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=args.learning_rate)

    def batches(self, variant: Variant, rows: Sequence[Sequence[int]]) -> Iterator[dict[str, Any]]:
        """The micro-batches of some rows, loaded as a training loads them."""
        self.dataset.features = self.features if variant.cached else None
        loader = DataLoader(
            self.dataset,
            batch_sampler=rows,  # type: ignore[arg-type]
            num_workers=self.args.dataloader_num_workers,
            collate_fn=self.collate,
        )
        return iter(loader)

    def step(self, variant: Variant, batch: dict[str, Any]) -> torch.Tensor:
        """Forward, backward and optimizer step on one micro-batch."""
        with row_attention(self.model.config, self.args.model_max_length) if variant.packed else nullcontext():
            loss = self.forward(variant, batch)
            loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def forward(self, variant: Variant, batch: dict[str, Any]) -> torch.Tensor:
        """The loss of one micro-batch."""
        options: dict[str, Any] = {"loss_only": variant.lean}
        if variant.packed:
            options["pack_length"] = self.args.model_max_length
        device = self.args.device
        batch = {key: value for key, value in batch.items() if key != "names"}
        with torch.autocast(device.type, torch.bfloat16) if self.args.bf16 else nullcontext():
            loss: torch.Tensor = self.model(**send_to_device(batch, device), **options).loss
        return loss

    def seconds_per_row(self, variant: Variant, rows: Sequence[Sequence[int]]) -> float:
        """One round: the first micro-batch warms up, the others are timed together."""
        batches = self.batches(variant, rows)
        self.step(variant, next(batches))
        _synchronize(self.args.device)
        start = time.perf_counter()
        for batch in batches:
            self.step(variant, batch)
        _synchronize(self.args.device)
        return (time.perf_counter() - start) / sum(len(batch) for batch in rows[1:])

    def peak_bytes(self, variant: Variant, rows: Sequence[Sequence[int]]) -> int:
        """Peak of one step: on a GPU its allocator's, weights included; else bytes of tensors made by the step."""
        batch = next(self.batches(variant, rows))
        if self.args.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self.step(variant, batch)
            return torch.cuda.max_memory_allocated()
        with LivePeak() as live:
            self.step(variant, batch)
        return live.peak


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rows_of(dataset: LazySupervisedDataset, args: TrainingArguments, micro_batches: int) -> list[list[int]]:
    """The first micro-batches in the order a training of these options takes them."""
    size = args.per_device_train_batch_size
    order = list(
        ModalityLengthSampler(dataset.lengths, dataset.has_image, size, args.gradient_accumulation_steps, args.seed)
    )
    if len(order) < size * micro_batches:
        raise ValueError(
            f"--micro_batches {micro_batches} of {size} rows need {size * micro_batches} rows, the set has {len(order)}"
        )
    return [order[start : start + size] for start in range(0, size * micro_batches, size)]


def measure(bench: Bench, rows: Sequence[Sequence[int]], rounds: int) -> list[dict[str, Any]]:
    """Rows per second of every variant, its ratio to plain, its peak memory, and the loss of the same first batch."""
    losses = {}
    for variant in VARIANTS:
        with torch.no_grad():
            losses[variant.name] = float(bench.forward(variant, next(bench.batches(variant, rows))))
    times: dict[str, list[float]] = {variant.name: [] for variant in VARIANTS}
    for number in range(rounds):
        for variant in VARIANTS:
            times[variant.name].append(bench.seconds_per_row(variant, rows))
        logger.info("round %d of %d: %s", number + 1, rounds, {name: round(1 / t[-1], 2) for name, t in times.items()})
    plain = statistics.median(times["plain"])
    return [
        {
            **asdict(variant),
            "rows_per_second": round(1 / statistics.median(times[variant.name]), 3),
            "speedup": round(plain / statistics.median(times[variant.name]), 3),
            "peak_bytes": bench.peak_bytes(variant, rows),
            "seconds_per_row": [round(value, 6) for value in times[variant.name]],
            "first_loss": round(losses[variant.name], 6),
        }
        for variant in VARIANTS
    ]


def _split(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Own flags (with defaults), and the words that go to the training's parser."""
    own, rest = dict(OWN_FLAGS), []
    words = list(words)
    while words:
        name, equals, value = words.pop(0).partition("=")
        flag = name.removeprefix("--").replace("-", "_")
        if name.startswith("--") and flag in own:
            own[flag] = value if equals else words.pop(0)
        else:
            rest.append(name + equals + value)
    return own, rest


def run(words: Sequence[str]) -> dict[str, Any]:
    """Measure, print and record. Raises: ValueError for options that do not fit."""
    own, rest = _split(words)
    model_args, data_args, args = parse_args(rest)
    if not data_args.feature_cache:
        raise ValueError("--feature_cache FOLDER is needed: two of the variants read it")
    set_seed(args.seed)
    stage = choose_stage(model_args, args)
    require_frozen_tower(stage)
    model, tokenizer = load_model(model_args, data_args, args, stage)
    dataset = make_dataset(model, tokenizer, model_args, data_args)
    features = fill_cache(data_args.feature_cache, dataset, model, args.device, args.dataloader_num_workers)
    args.deepspeed = None  # one process: what trains is a float32 copy, as without DeepSpeed
    bench = Bench(apply_stage(model, stage, args), dataset, features, args)
    rows = rows_of(dataset, args, int(own["micro_batches"]))
    record = {
        "stamp": stamp(dtype="bfloat16" if args.bf16 else "float32", seed=args.seed),
        "config": next((rest[place + 1] for place, word in enumerate(rest) if word == "--config"), None),
        "compressor": getattr(model.config, "mm_compressor", None),
        "gradient_checkpointing": args.gradient_checkpointing,
        "rows_per_micro_batch": args.per_device_train_batch_size,
        "micro_batches": len(rows) - 1,
        "rounds": int(own["rounds"]),
        "peak_is": "torch.cuda.max_memory_allocated" if args.device.type == "cuda" else "tensors made by one step",
        "variants": measure(bench, rows, int(own["rounds"])),
    }
    if own["out"]:
        Path(own["out"]).parent.mkdir(parents=True, exist_ok=True)
        Path(own["out"]).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


def table(record: dict[str, Any]) -> Table:
    """The record as a table for the terminal."""
    shown = Table(title="training step, same rows")
    for column in ("variant", "rows/s", "speed-up", "peak MB"):
        shown.add_column(column, justify="left" if column == "variant" else "right")
    for row in record["variants"]:
        speed = f"{row['rows_per_second']:.2f}", f"{row['speedup']:.2f}x", f"{row['peak_bytes'] / 1e6:.0f}"
        shown.add_row(row["name"], *speed)
    return shown


def main() -> None:
    if {"-h", "--help"} & set(sys.argv[1:]):
        sys.stdout.write(str(__doc__))
        return
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    Console().print(table(run(sys.argv[1:])))


if __name__ == "__main__":
    main()
