"""What one question costs, counted instead of timed: a regression in it fails on any machine, however slow.

    python -m llava.bench.counts            # count, print, compare with the file; exit 1 and say what grew
    python -m llava.bench.counts --update   # write what was counted, after a change that is meant

A reduced LLaVA-NeXT (24 tower blocks and 4 decoder layers as narrow as they may be, random weights, five tiles of 144
patches) runs on the CPU stage by stage, on the plain path and on that of `llava.model.fast` (whose programs a GPU
captures and a CPU calls; its prefill starts from the tower's tokens and projects, packs and splices as well). The last
stage is the score of a tower without a CLS token, over more patches than one block of its map holds. Counted per stage:

    flops            of matrix products, a multiply-add as 2, attention over the whole map (as torch counts)
    sdpa_calls       fused attention calls: one per block that runs
    operations       dispatched by torch, views and bare allocations aside; stands for kernel launches
    host_syncs       operations that make a GPU's host wait: reading a value, sizes that depend on values (the four of
                     splicing look at ids, which callers leave on the CPU, where nothing waits)
    attention_maps   softmax results over all rows of the stage, [.., S, S]: one per layer of plain attention
    square_tensors   tensors of that size whatever made them
    peak_bytes       of the tensors the stage makes, at the worst moment

Operations and bytes depend on the versions of torch and transformers and are compared only under those of the file;
where those differ, the program says so.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from llava.bench.live_memory import LivePeak
from llava.bench.official_style import OfficialStyle
from llava.bench.roofline import attention_flops
from llava.bench.setup import Question, Subject, from_shape, question_for
from llava.encoded import EncodedImages
from llava.model.fast import FastGenerator
from visionzip import VisionZip, attach, detach
from visionzip.kernels import received_attention

app = typer.Typer(help=__doc__, rich_markup_mode=None)

EXPECTED = Path("configs/bench/expected_counts.json")
SHAPE = "liuhaotian/llava-v1.6-vicuna-7b"
SIZES: dict[str, Any] = {
    "num_hidden_layers": 4,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "vocab_size": 320,
    "image_grid_pinpoints": [[168, 336], [336, 168], [336, 336], [504, 168], [168, 504]],
}
TOWER = {"num_hidden_layers": 24, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
PIXELS = {"image_size": 168, "patch_size": 14}
ZIPPER = VisionZip(18, 4)
TEXT = 60
ANSWER = 8  # tokens the fast path keeps room for
SCORED = (1, 4, 1600, 16)  # tiles, heads, patches, head width

SAME = ("flops", "sdpa_calls")
NOT_MORE = ("host_syncs", "attention_maps", "square_tensors")
SLACK = {"operations": 0.02, "peak_bytes": 0.02}  # share by which they may grow, under the versions of the file

# No kernel: memory without values, or another look at the same memory that is not marked as a view.
FREE = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view", "_reshape_alias"}
# Results, or sizes of results, that the host must know before it goes on.
SYNCS = {"_local_scalar_dense", "equal", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive"}
MASKED = {"index", "index_put", "index_put_", "_index_put_impl_"}  # by a boolean mask: nonzero inside


class Operations(TorchDispatchMode):  # type: ignore[misc, unused-ignore]
    """Counts what torch dispatches inside the block. rows: S of the maps that are looked for.

    On a CPU `tolist()` and `numpy()` read memory without an operation and are not seen.
    """

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows
        self.operations = self.host_syncs = self.attention_maps = self.square_tensors = self.sdpa_calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with self:  # in inference mode operations arrive that are made of others: those are what runs
            out = func.decompose(*args, **(kwargs or {}))
        if out is not NotImplemented:
            return out
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if func.is_view or name in FREE:
            return out
        self.operations += 1
        self.host_syncs += _waits(func, name, args)
        self.sdpa_calls += name.startswith("_scaled_dot_product")
        squares = sum(isinstance(t, Tensor) and t.shape[-2:] == (self.rows, self.rows) for t in tree_leaves(out))
        self.square_tensors += squares
        self.attention_maps += squares if "softmax" in name else 0
        return out


def _waits(func: Any, name: str, args: Any) -> bool:
    if name in MASKED:
        return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    sized = name == "repeat_interleave" and func._overloadname == "Tensor"
    return name in SYNCS or sized


@dataclass(frozen=True)
class Stage:
    """run: what is counted. rows: S of its attention maps."""

    run: Callable[[], Any]
    rows: int


def stages(subject: Subject, question: Question) -> dict[str, Stage]:
    """What is counted, by name; each sets the model's slot, and makes what it starts from, before it is counted."""
    model = subject.model
    tower = model.get_vision_tower()
    [tiles] = question.pixels
    rows, mask = 1 + tower.num_patches, torch.ones_like(question.ids)
    official = OfficialStyle(tower, ZIPPER)

    def spliced(images: Any) -> Tensor:
        prepared = model.prepare_inputs_labels_for_multimodal(
            question.ids, None, mask, None, None, images, image_sizes=question.sizes
        )
        embeds: Tensor = prepared[4]
        return embeds

    def prefill(embeds: Tensor) -> Any:
        return model(inputs_embeds=embeds, use_cache=True, logits_to_keep=1)

    detach(model)
    long = spliced([tiles])
    attach(model, ZIPPER)
    tokens = tower.encode(tiles)
    encoded: EncodedImages = {
        "features": tokens.features,
        "positions": tokens.positions,
        "tiles": torch.tensor([len(tiles)]),
        "has_cls": tokens.has_cls,
    }
    short = spliced(encoded)
    cache, word = prefill(short).past_key_values, torch.ones(1, 1, dtype=torch.long)
    fast = FastGenerator(model, max_length=short.shape[1] + ANSWER, graphs=False)

    def fast_prefill() -> Tensor:
        return fast.prefill(question.ids, mask, encoded, question.sizes, max_new_tokens=ANSWER)

    fast_prefill()  # buffers and programs are made by a first call; counted is what every further one does
    columns = -(-fast.max_length // fast.bucket) * fast.bucket
    query, keys = torch.randn((2, *SCORED), generator=torch.Generator().manual_seed(0))

    def encode(compressor: VisionZip | None) -> Any:
        tower.compressor = compressor
        return tower.encode(tiles)

    return {
        "encode dense": Stage(lambda: encode(None), rows),
        "encode visionzip": Stage(lambda: encode(ZIPPER), rows),
        "encode official style": Stage(lambda: official(tiles), rows),
        "project, pack, splice": Stage(lambda: spliced(encoded), rows),
        "prefill dense": Stage(lambda: prefill(long), long.shape[1]),
        "prefill visionzip": Stage(lambda: prefill(short), short.shape[1]),
        "decode step": Stage(lambda: model(input_ids=word, past_key_values=cache), short.shape[1] + 1),
        "fast prefill visionzip": Stage(fast_prefill, columns),
        "fast decode step": Stage(fast.step, columns),
        "attention received": Stage(lambda: received_attention(query, keys), SCORED[2]),
    }


def reduced_model() -> tuple[Subject, Question]:
    """The model and the question everything here is counted on."""
    subject = from_shape(SHAPE, "cpu", torch.float32, sizes=SIZES, tower=TOWER | PIXELS)
    return subject, question_for(subject, TEXT)


def count(stage: Stage) -> dict[str, int]:
    """Counts of one stage, by the names of the module's table."""
    flops = FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION)
    with torch.no_grad(), flops, LivePeak() as live, Operations(stage.rows) as seen:
        stage.run()
    counted = {name: getattr(seen, name) for name in ("sdpa_calls", "operations", *NOT_MORE)}
    return {"flops": flops.get_total_flops(), **counted, "peak_bytes": live.peak}


def _fused_flops(query: Any, key: Any, *args: Any, **kwargs: Any) -> int:
    """Of query [B, H, S, d] and key [B, H, S', d]; torch has no count for its CPU attention."""
    batch, heads, rows, width = query
    return int(attention_flops(rows, key[2], batch * heads * width))


_CPU_ATTENTION = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _fused_flops}


def count_all() -> dict[str, dict[str, int]]:
    """Counts of all stages."""
    with torch.no_grad():
        made = stages(*reduced_model())
    return {name: count(stage) for name, stage in made.items()}


def versions() -> dict[str, str]:
    """Major and minor version of what operations and bytes depend on."""
    return {name: ".".join(version(name).split(".")[:2]) for name in ("torch", "transformers")}


def compare(
    expected: Mapping[str, Mapping[str, int]], found: Mapping[str, Mapping[str, int]], *, same_versions: bool
) -> list[str]:
    """What is worse than expected, one line each, and stages that only one side has. Empty: all is well."""
    if expected.keys() != found.keys():
        return [f"the stages differ: expected {', '.join(expected)}; counted {', '.join(found)}"]
    slack = SLACK if same_versions else {}
    lines = []
    for stage, before in expected.items():
        for name in (*SAME, *NOT_MORE, *slack):
            was, now = before[name], found[stage][name]
            if now > was * (1 + slack.get(name, 0)):
                allowed = f", {slack[name]:.0%} allowed" if name in slack else ""
                share = f" ({now / was - 1:+.1%}{allowed})" if was else ""
                lines.append(f"{stage}: {name} grew from {was} to {now}{share}")
            elif name in SAME and now < was:
                lines.append(f"{stage}: {name} fell from {was} to {now}: something no longer runs, or runs elsewhere")
    return lines


def check(
    file: Path, found: Mapping[str, Mapping[str, int]], report: Callable[[str], None] = lambda _: None
) -> list[str]:
    """`compare` with what a file holds; `report` is told what was left out. Raises: ValueError when it is missing."""
    if not file.is_file():
        raise ValueError(f"--expected {file} is missing; python -m llava.bench.counts --update writes it")
    kept, here = json.loads(file.read_text(encoding="utf-8")), versions()
    if kept["versions"] != here:
        of_file, ours = (", ".join(f"{name} {number}" for name, number in v.items()) for v in (kept["versions"], here))
        report(f"operations and bytes not compared: versions differ ({of_file} in {file}, {ours} here)")
    return compare(kept["stages"], found, same_versions=kept["versions"] == here)


def table(found: Mapping[str, Mapping[str, int]]) -> Table:
    """The counts for the terminal."""
    shown = Table(title="counts of one question, reduced LLaVA-NeXT")
    shown.add_column("stage")
    for name in next(iter(found.values())):
        shown.add_column(name.replace("_", " "), justify="right")
    for stage, counts in found.items():
        shown.add_row(stage, *(f"{value:,}" for value in counts.values()))
    return shown


@app.command()
def counts(
    expected: Annotated[Path, typer.Option(help="File of the counts that are held.")] = EXPECTED,
    update: Annotated[bool, typer.Option("--update", help="Write the file instead of comparing with it.")] = False,
) -> None:
    """Count and compare. Example: python -m llava.bench.counts"""
    found = count_all()
    Console().print(table(found))
    if update:
        expected.write_text(json.dumps({"versions": versions(), "stages": found}, indent=1) + "\n", encoding="utf-8")
        return
    if lines := check(expected, found, typer.echo):
        typer.echo("\n".join([*lines, "If that is meant: python -m llava.bench.counts --update"]), err=True)
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
