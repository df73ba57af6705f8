"""The estimate of `visionzip plan` against bytes counted in a step of the same shape, on tensors without data.

    python -m llava.bench.memory_check --out results/memory/plan.json

Forward and backward of the language model run under FakeTensorMode, so that 13B shapes need no memory. Compared are the
parts a step makes: activations, and the larger of one block at work and the logits, which never live at one time.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from llava.bench.live_memory import LivePeak
from llava.bench.memory import GB, Step, memory_parts
from llava.bench.shapes import ModelShape, shape_of
from llava.provenance import stamp

app = typer.Typer(help=__doc__, rich_markup_mode=None)

CASES = (
    ("llava-v1.5-7b", Step(16, 314, 100)),
    ("llava-v1.5-7b", Step(4, 314, 100, checkpointing=False)),
    ("llava-v1.5-7b", Step(4, 826, 100)),
    ("llava-v1.5-13b", Step(16, 314, 100)),
)


def counted_bytes(shape: ModelShape, step: Step) -> int:
    """Peak bytes of tensors made by forward and backward of a frozen language model of this shape."""
    heads = shape.width // 128 if shape.width % 128 == 0 else 4
    config: Any = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads * shape.kv_width // shape.width,
        attn_implementation="sdpa",
    )
    with FakeTensorMode():
        model: Any = LlamaForCausalLM._from_config(config, dtype=torch.bfloat16)
        model.requires_grad_(False).train()
        if step.checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        embeds = torch.randn(step.rows, step.tokens, shape.width, dtype=torch.bfloat16, requires_grad=True)
        targets = torch.zeros(step.rows * step.supervised, dtype=torch.long)
        positions = torch.arange(step.tokens)[None].expand(step.rows, -1)
        with LivePeak() as live:
            hidden = model.model(inputs_embeds=embeds, position_ids=positions, use_cache=False).last_hidden_state
            logits = model.lm_head(hidden[:, : step.supervised]).flatten(0, 1)
            cross_entropy(logits.float(), targets).backward()
    return live.peak


def estimated_bytes(shape: ModelShape, step: Step) -> float:
    """What `memory_parts` says of the same tensors."""
    parts = memory_parts(shape, step)
    return parts["activations"] + parts["block or logits at work"]


@app.command()
def check(out: Annotated[Path | None, typer.Option(help="Where the record goes (JSON).")] = None) -> None:
    """Compare estimate and count for the shapes of the public checkpoints; half a minute each."""
    rows = []
    for name, step in CASES:
        shape = shape_of(name)
        estimate, count = estimated_bytes(shape, step), counted_bytes(shape, step)
        rows.append({
            "model": name,
            "rows": step.rows,
            "tokens": step.tokens,
            "checkpointing": step.checkpointing,
            "estimated_bytes": round(estimate),
            "counted_bytes": count,
            "ratio": round(estimate / count, 3),
        })
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps({"stamp": stamp(dtype="bfloat16"), "cases": rows}, indent=1) + "\n", encoding="utf-8")
    table = Table(title="activations of one step (GB)")
    for column in ("model", "rows x tokens", "checkpointing", "estimated", "counted", "ratio"):
        table.add_column(column)
    for row in rows:
        shown = [f"{row[key] / GB:.2f}" for key in ("estimated_bytes", "counted_bytes")]
        size = f"{row['rows']} x {row['tokens']}"
        table.add_row(row["model"], size, str(row["checkpointing"]), *shown, f"{row['ratio']:.2f}")
    Console().print(table)


if __name__ == "__main__":
    app()
