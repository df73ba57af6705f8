"""GPU memory of a training step, by part, before anything is loaded.

Every term is counted in bytes of tensors: N tokens of the micro batch (rows x tokens), D width, I MLP width, n
supervised tokens, V vocabulary. The numbers per token were read off a Llama block with `llava.bench.live_memory` and
are checked there (tests/llava/bench/test_memory.py); they hold for 16-bit compute and an attention that keeps no map
(sdpa, flash).
"""

from dataclasses import dataclass, replace

from llava.bench.shapes import ModelShape
from llava.model.language_model.loss import CHUNK

GB = 1e9
STAGES = ("projector", "lora", "full")
# Bytes per parameter of a decoder block. 4 bit: nf4 with double quantization, 4 + 8/64 + 32/(64 * 256) bits.
WEIGHT_BYTES = {16: 2.0, 8: 1.0, 4: 4.127 / 8}
# What trains: float32 copy, gradient in float32, Adam's two moments.
TRAINED_BYTES = 16
# CUDA context, cuBLAS workspace and the allocator's loose ends.
CONTEXT = 0.8 * GB
SLACK = 0.05


@dataclass(frozen=True)
class Step:
    """What one training step on one GPU looks like.

    rows: of the micro batch. tokens: of a row, its image's included. supervised: of these, with loss.
    visual_tiles: tiles per image the tower encodes (0: a feature cache). bits: 16, 8 or 4, of the language model's
    blocks. stage: one of STAGES. lora_rank: with stage lora. gpus: share optimizer state (ZeRO-2).
    """

    rows: int
    tokens: int
    supervised: int
    visual_tiles: int = 1
    bits: int = 16
    stage: str = "projector"
    checkpointing: bool = True
    lora_rank: int = 128
    gpus: int = 1

    def __post_init__(self) -> None:
        if self.bits not in WEIGHT_BYTES:
            raise ValueError(f"bits must be one of {', '.join(map(str, WEIGHT_BYTES))}, got {self.bits}")
        if self.stage not in STAGES:
            raise ValueError(f"stage must be one of {', '.join(STAGES)}, got {self.stage!r}")
        if self.stage == "full" and self.bits != 16:
            raise ValueError(f"stage full trains the language model's weights, which {self.bits} bits cannot hold")


def trained_parameters(shape: ModelShape, step: Step) -> int:
    """Parameters that train."""
    if step.stage == "projector":
        return shape.projector_parameters
    if step.stage == "full":
        return shape.projector_parameters + shape.block_parameters + shape.embedding_parameters
    ends = (2 * shape.width) * 2 + (shape.width + shape.kv_width) * 2 + (shape.width + shape.intermediate) * 3
    return shape.projector_parameters + shape.layers * step.lora_rank * ends


def memory_parts(shape: ModelShape, step: Step) -> dict[str, float]:
    """Bytes by part; their sum is the estimate of the peak."""
    tokens = step.rows * step.tokens
    weights = shape.block_parameters * WEIGHT_BYTES[step.bits] + 2 * (
        shape.embedding_parameters + shape.projector_parameters + shape.tower_parameters
    )
    parts = {
        "weights": weights,
        "optimizer and gradients": trained_parameters(shape, step) * TRAINED_BYTES / step.gpus,
        "activations": tokens * _kept_per_token(shape, step) * shape.layers,
        "block or logits at work": max(
            tokens * _work_per_token(shape, step) + _whole_matrix(shape, step),
            # 16 bit, float32, softmax, gradient; not more positions at a time than a chunk of the loss
            min(step.rows * step.supervised, CHUNK) * shape.vocabulary * 14,
        ),
        "pictures": _tower_bytes(shape, step),
    }
    return parts | {"context and slack": CONTEXT + SLACK * (sum(parts.values()) - weights)}


def _kept_per_token(shape: ModelShape, step: Step) -> float:
    """Bytes a token leaves behind in every block until the backward pass."""
    if step.checkpointing:
        return 2 * shape.width
    if step.stage == "projector":
        return 16 * shape.width + 6 * shape.intermediate
    return 24 * shape.width + 8 * shape.intermediate


def _work_per_token(shape: ModelShape, step: Step) -> float:
    """Bytes per token while one block runs backward, beyond what all blocks keep."""
    kept = 0.0 if step.checkpointing else _kept_per_token(shape, step)
    trained = step.stage != "projector"
    return (16 + 8 * trained) * shape.width + (12 + 2 * trained) * shape.intermediate - min(kept, 8 * shape.width)


def _whole_matrix(shape: ModelShape, step: Step) -> float:
    """A quantized matrix is made 16 bit before it multiplies: the largest, and its transpose in the backward pass."""
    return 0.0 if step.bits == 16 else 2 * 2 * shape.width * shape.intermediate


def _tower_bytes(shape: ModelShape, step: Step) -> float:
    """The frozen tower keeps nothing: its pixels, and one block's states and MLP in 16 bit."""
    rows = step.rows * step.visual_tiles * (shape.patches + 1)
    return rows * (12 * shape.tower_width + 4 * shape.tower_intermediate) + rows * 3 * 14 * 14 * 4


def largest_rows(shape: ModelShape, step: Step, budget: float) -> int:
    """The largest micro batch, a power of two up to 64, whose estimate fits `budget` bytes; 0 when none does."""
    fitting = 0
    for rows in (1, 2, 4, 8, 16, 32, 64):
        trial = replace(step, rows=rows)
        if sum(memory_parts(shape, trial).values()) <= budget:
            fitting = rows
    return fitting
