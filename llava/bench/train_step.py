"""A step of projector-only training by shape: frozen tower and language model, gradient checkpointing, AdamW.

What the 1/10-data tune does to a GPU, without data: rows of random text around a picture. The recipe's own programs are
measured on real rows by `llava.bench.train_speed`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from llava.bench.cases import Case, use
from llava.bench.clock import alternate, ratios, summarize
from llava.bench.footprint import peak_bytes
from llava.bench.names import IN_FRONT, INSIDE
from llava.bench.setup import Subject, question_for
from llava.constants import IGNORE_INDEX


@contextmanager
def training(subject: Subject) -> Iterator[torch.optim.Optimizer]:
    """Inside, the projector trains in float32, the rest is frozen and checkpointed; afterwards all is as before."""
    model = subject.model
    projector = model.get_model().mm_projector
    dtype = model.dtype
    projector.float().requires_grad_(True)
    model.train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    try:
        yield torch.optim.AdamW(projector.parameters(), lr=2e-5)
    finally:
        model.gradient_checkpointing_disable()
        model.train(False)
        projector.requires_grad_(False).to(dtype)
        for parameter in projector.parameters():
            parameter.grad = None


def _check(cases: Sequence[Case], text: int, supervised: int) -> None:
    """Raises: ValueError, see `measure`."""
    if not 1 <= supervised <= text:
        raise ValueError(f"supervised {supervised}: expected 1 to {text}, the text tokens of a row")
    for case in cases:
        if case.method in INSIDE or case.path != "plain":
            raise ValueError(
                f"train: case {case.label!r} changes how answers are made, and a training step would be that of "
                f"another case; expected dense or one of {', '.join(IN_FRONT)} without a path: leave it out"
            )


def measure(
    subject: Subject,
    cases: Sequence[Case],
    *,
    rows: int,
    text: int,
    supervised: int,
    rounds: int,
    report: Callable[[str], None],
) -> list[dict[str, Any]]:
    """A row per case: seconds of a step, speed-up over the first case, peak bytes.

    Raises: ValueError for a case a training step has not (a method inside the language model, a path of answering), or
        more supervised tokens than there are.
    """
    _check(cases, text, supervised)
    model = subject.model
    question = question_for(subject, text)
    ids = question.ids.expand(rows, -1)
    labels = ids.clone()
    labels[:, : ids.shape[1] - supervised] = IGNORE_INDEX
    one = question.pixels
    batch = {
        "input_ids": ids,
        "labels": labels,
        "images": one.repeat(rows, 1, 1, 1) if isinstance(one, Tensor) else one * rows,
        "image_sizes": question.sizes * rows,
    }
    with training(subject) as optimizer:

        def step(case: Case) -> None:
            use(model, case)
            kind = subject.device.type
            with torch.autocast(kind, torch.bfloat16, enabled=model.lm_head.weight.dtype == torch.bfloat16):
                out = model(**batch, loss_only=True)
            out.loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        steps = {case.label: (lambda case=case: step(case)) for case in cases}
        times = alternate(steps, subject.device, rounds=rounds, report=lambda line: report(f"training step, {line}"))
        base = times[cases[0].label]
        found = [
            {
                "case": name,
                "rows": rows,
                "text_tokens": text,
                "seconds": summarize(times[name])["total"],
                "speedup": ratios(base, times[name]),
                "peak_bytes": peak_bytes(program, subject.device),
            }
            for name, program in steps.items()
        ]
    use(model, Case("dense"))
    return found
