"""What is compared: a method at a budget on a path, as a program that answers a question.

Methods: dense; visionzip, random, uniform, pool, downsample (in front of the language model); fastv, sparsevlm (inside
it). Paths:

    plain      the model as every program here runs it (`model.generate`); FastV and SparseVLM: lean
    lean       this repository's own loop (`visionzip.in_llm.generate`), dense or behind a method in front. FastV and
               SparseVLM run on it in any case, and transformers' `generate` does more around each token: compare them
               with cases on this path
    fast       `llava.model.fast`: static shapes, CUDA graphs where there is a GPU
    compiled   the same with compiled blocks
    official   the encoder of the published code (`llava.bench.official_style`), then as plain; VisionZip only
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from llava.bench.in_llm import LeanGenerator, spliced_inputs
from llava.bench.names import INSIDE, METHODS, PATHS
from llava.bench.official_style import OfficialStyle, encoding_by
from llava.bench.setup import Question, Subject
from llava.model.fast import FastGenerator
from visionzip import Budget, attach, budget_for, detach, from_config
from visionzip.core.types import Compressor
from visionzip.in_llm import SCHEDULES, FastV, Pruner, SparseVLM, fits, prefill, schedule
from visionzip.in_llm.sparsevlm import SCHEDULE_TOKENS


@dataclass(frozen=True)
class Case:
    """One row of a comparison. budget: tokens of a tile, None for dense.

    Raises: ValueError for names that are not known or do not go together.
    """

    method: str
    budget: Budget | None = None
    path: str = "plain"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"unknown method {self.method!r}; known: {', '.join(METHODS)}")
        if self.path not in PATHS:
            raise ValueError(f"unknown path {self.path!r}; known: {', '.join(PATHS)}")
        if (self.method == "dense") != (self.budget is None):
            raise ValueError(f"method {self.method!r} with budget {self.budget}: dense has none, every other needs one")
        if self.path == "official" and self.method != "visionzip":
            raise ValueError(f"path 'official' is an encoder for visionzip, not for {self.method!r}")
        if self.method in INSIDE and self.path != "plain":
            raise ValueError(
                f"{self.method} prunes inside the language model and answers by a loop of its own, not on the path "
                f"{self.path!r}: leave the path out"
            )

    @property
    def label(self) -> str:
        """E.g. "visionzip-32 fast"; the number is the budget of a tile."""
        name = self.method if self.budget is None else f"{self.method}-{self.budget.total}"
        return name if self.path == "plain" else f"{name} {self.path}"

    @property
    def dense_alike(self) -> str:
        """Label of dense on the loop this case answers by, which is `lean` for methods inside the language model."""
        loops = {"plain": "lean" if self.method in INSIDE else "plain", "official": "plain"}
        return Case("dense", None, loops.get(self.path, self.path)).label

    @cache  # noqa: B019 - cases are few values; a graph is captured for one compressor object, so it must stay one
    def compressor(self) -> Compressor | None:
        """What sits in the tower's slot: the same object every time."""
        if self.budget is None or self.method in INSIDE:
            return None
        if self.method == "visionzip":
            return from_config({
                "method": "visionzip",
                "dominant": self.budget.dominant,
                "contextual": self.budget.contextual,
            })
        return from_config({"method": self.method, "tokens": self.budget.total})


def parse_case(text: str) -> Case:
    """`METHOD[:TOKENS PER TILE][:PATH]`: "dense", "dense:fast", "visionzip:32", "visionzip:32:official", "fastv:32".

    Raises: ValueError for anything else.

    >>> parse_case("visionzip:32:fast").label
    'visionzip-32 fast'
    """
    method, *rest = text.split(":")
    budget = None
    if rest and rest[0].isdigit():
        budget = budget_for(int(rest.pop(0)))
    if len(rest) > 1:
        raise ValueError(f"case {text!r}: expected METHOD[:TOKENS PER TILE][:PATH]")
    return Case(method, budget, *rest)


def check_cases(model: Any, cases: Sequence[Case]) -> None:
    """Before anything is measured. Raises: ValueError naming every case that this model cannot run, and why."""
    patches, layers, wrong = model.get_vision_tower().num_patches, len(model.get_decoder().layers), []
    for case in cases:
        try:
            if (compressor := case.compressor()) is not None:
                compressor.tokens_per_tile(patches)
        except ValueError as error:
            wrong.append(f"{case.label}: {error}")
        if case.method in INSIDE and not fits(pruner := pruner_of(case, patches, 1), layers):
            cuts = ", ".join(map(str, pruner.layers))
            wrong.append(f"{case.label}: it prunes behind layers {cuts}, the model has {layers}")
    if wrong:
        raise ValueError(f"{'; '.join(wrong)}. Leave out what does not fit this model, or choose another budget")


def use(model: Any, case: Case) -> None:
    """Put the case's compressor into the tower's slot, or empty it."""
    compressor = case.compressor()
    if compressor is None:
        detach(model)
    else:
        attach(model, compressor)


@dataclass(frozen=True, eq=False)
class Ready:
    """A case made ready on a model. generate: stands in for `model.generate` (`FastGenerator`, `LeanGenerator`), None:
    nothing does. encoder: in place of the tower's own."""

    model: Any
    case: Case
    generate: Any = None
    encoder: OfficialStyle | None = None

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Inside, the model computes as the case says."""
        use(self.model, self.case)
        with encoding_by(self.model.get_vision_tower(), self.encoder):
            yield


def ready(stack: ExitStack, model: Any, case: Case, *, visual: int, tiles: int, longest: int, batch: int = 1) -> Ready:
    """Make a case ready for pictures of so many visual tokens and tiles. longest: tokens of a row and its answer."""
    if case.path in ("fast", "compiled"):
        compiled = case.path == "compiled"
        fast = FastGenerator(model, max_length=longest, batch=batch, compile_blocks=compiled)
        return Ready(model, case, stack.enter_context(fast))
    if case.method in INSIDE:
        return Ready(model, case, LeanGenerator(model, pruner_of(case, visual, tiles)))
    if case.path == "lean":
        return Ready(model, case, LeanGenerator(model))
    zipper: Any = case.compressor()
    encoder = OfficialStyle(model.get_vision_tower(), zipper) if case.path == "official" else None
    return Ready(model, case, encoder=encoder)


@dataclass(frozen=True)
class Program:
    """run: makes that many new tokens, never fewer, and returns them [1, n]. visual: tokens of the picture that enter
    the language model. kept: visual tokens in each of its layers. fast: what answers, where its cache stays between
    runs."""

    run: Callable[[int], Tensor]
    visual: int
    kept: tuple[int, ...]
    fast: FastGenerator | None = None

    @property
    def per_layer(self) -> float:
        """Visual tokens in a layer, mean."""
        return round(sum(self.kept) / len(self.kept), 1)


@contextmanager
def programs(subject: Subject, question: Question, cases: Sequence[Case], longest: int) -> Iterator[dict[str, Program]]:
    """All cases ready to run on one model, by label. longest: new tokens at most.

    The model's slot is set by each run; at the end the model is dense again.
    """
    model = subject.model
    with ExitStack() as stack:
        stack.callback(detach, model)
        yield {case.label: _program(stack, subject, question, case, longest) for case in cases}


def _program(stack: ExitStack, subject: Subject, question: Question, case: Case, longest: int) -> Program:
    model = subject.model
    use(model, case)
    with torch.inference_mode():
        visual = sum(len(image) for image in model.image_sequences(question.pixels, question.sizes))
    length = question.text + visual + longest
    made = ready(stack, model, case, visual=visual, tiles=question.tiles, longest=length)

    def run(count: int) -> Tensor:
        with made.in_use():
            return ask(made.generate or model.generate, question.ids, question.pixels, question.sizes, count)

    kept = _kept(model, question, made.generate.pruner) if case.method in INSIDE else (visual,) * subject.shape.layers
    return Program(run, visual, kept, made.generate if isinstance(made.generate, FastGenerator) else None)


def ask(
    generate: Callable[..., Any], ids: Tensor, pixels: Tensor | list[Tensor], sizes: list[tuple[int, int]], count: int
) -> Tensor:
    """`count` new tokens for every row, greedily. ids [B, l], pixels and sizes as `Question` has them."""
    with torch.inference_mode():
        answer: Tensor = generate(
            ids,
            attention_mask=torch.ones_like(ids),
            images=pixels,
            image_sizes=sizes,
            max_new_tokens=count,
            do_sample=False,
            use_cache=True,
            pad_token_id=0,
        )
    return answer


def pruner_of(case: Case, visual: int, tiles: int) -> Pruner:
    """FastV or SparseVLM at the budget all tiles have together.

    FastV keeps that many behind its layer 2. SparseVLM takes the published schedule of that share of the picture's
    tokens (192, 128, 96 or 64 of 576, a mean over the layers as its authors count), and below these the smallest one
    scaled down. Both see all tokens in their first layers, so the mean over the layers is higher: `Program.kept`.
    """
    assert case.budget is not None
    target = case.budget.total * tiles
    if case.method == "fastv":
        return FastV(keep=target)
    share = round(target * SCHEDULE_TOKENS / visual)
    if share in SCHEDULES:
        return schedule(share, scaled=True)
    smallest = min(SCHEDULES)
    return SparseVLM(tuple(round(count * share / smallest) for count in SCHEDULES[smallest]), of=SCHEDULE_TOKENS)


def _kept(model: Any, question: Question, pruner: Pruner) -> tuple[int, ...]:
    """Visual tokens that each layer of the language model runs on."""
    with torch.inference_mode():
        inputs = spliced_inputs(model, question.ids, question.pixels, question.sizes)
        state = prefill(model.get_decoder(), *inputs, pruner)
    return tuple(counts[0] for counts in state.visual_per_layer)
