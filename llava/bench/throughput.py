"""Questions with short answers, one after the other, as an evaluation asks them: picture files in, tokens out.

Workers decode and tile pictures while the model answers, so preprocessing costs only what they do not keep up with.
The pictures are JPEG files of 640 x 480, the size of most of COCO's (POPE, VQAv2 and others).
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from llava.bench.cases import Case, ask, use
from llava.bench.clock import ratios, spread, synchronize
from llava.bench.setup import Subject, picture_of, to_device
from llava.mm_utils import process_images
from llava.model.fast import FastGenerator

SIZE = (640, 480)


class _Pictures(Dataset[Any]):
    def __init__(self, files: Sequence[Path], subject: Subject) -> None:
        self.files, self.processor, self.config = files, subject.image_processor, subject.model.config

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Any:
        with Image.open(self.files[index]) as picture:
            return process_images([picture.convert("RGB")], self.processor, self.config)[0]


@contextmanager
def _files(count: int) -> Iterator[list[Path]]:
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number}.jpg" for number in range(count)]
        for number, file in enumerate(files):
            picture_of(max(SIZE), seed=number).crop((0, 0, *SIZE)).save(file, quality=90)
        yield files


def measure(
    subject: Subject,
    cases: Sequence[Case],
    ids: torch.Tensor,
    *,
    questions: int,
    batch_sizes: Sequence[int],
    new_tokens: int,
    workers: int,
    rounds: int,
    report: Callable[[str], None],
) -> list[dict[str, Any]]:
    """A row per case and batch size: seconds a question, questions a second, speed-up over the first case at that size.

    ids: [1, l], one prompt for all questions. The fast path takes one question at a time.
    """
    rows = []
    with _files(questions) as files:
        for size in batch_sizes:
            fitting = [case for case in cases if size == 1 or case.path == "plain"]
            times: dict[str, list[dict[str, float]]] = {case.label: [] for case in fitting}
            with ExitStack() as stack:
                loops = {
                    case.label: _loop(stack, subject, case, ids, files, size, new_tokens, workers) for case in fitting
                }
                for name, loop in loops.items():
                    loop(min(questions, 2 * size))  # warm-up
                    report(f"throughput, {size} together: {name} is warm")
                for _ in range(rounds):
                    for name, loop in loops.items():
                        times[name].append({"total": loop(questions) / questions})
            for case in fitting:
                seconds = spread([run["total"] for run in times[case.label]])
                rows.append({
                    "case": case.label,
                    "batch": size,
                    "seconds_per_question": seconds,
                    "questions_per_second": round(1 / seconds["median"], 4),
                    "speedup": ratios(times[fitting[0].label], times[case.label]),
                })
    return rows


def _loop(
    stack: ExitStack,
    subject: Subject,
    case: Case,
    ids: torch.Tensor,
    files: Sequence[Path],
    size: int,
    new_tokens: int,
    workers: int,
) -> Callable[[int], float]:
    """A function that answers the first so many questions and returns the seconds it took, loading included."""
    model = subject.model
    generate = model.generate
    if case.path != "plain":
        use(model, case)
        longest = _longest(subject, ids, files[0]) + new_tokens
        fast = FastGenerator(model, max_length=longest, compile_blocks=case.path == "compiled")
        generate = stack.enter_context(fast)

    def run(count: int) -> float:
        use(model, case)
        pictures = _Pictures(files[:count], subject)
        pinned = subject.device.type == "cuda"
        loader = DataLoader(pictures, batch_size=size, num_workers=workers, collate_fn=list, pin_memory=pinned)
        synchronize(subject.device)
        begin = time.perf_counter()
        for batch in loader:
            pixels = to_device(torch.stack(batch) if batch[0].dim() == 3 else batch, model)
            prompts = ids.expand(len(batch), -1)
            ask(generate, prompts, pixels, [SIZE] * len(batch), new_tokens)
        synchronize(subject.device)
        return time.perf_counter() - begin

    return run


def _longest(subject: Subject, ids: torch.Tensor, file: Path) -> int:
    """Tokens of a prompt with its picture."""
    with Image.open(file) as picture:
        pixels = process_images([picture.convert("RGB")], subject.image_processor, subject.model.config)
    with torch.inference_mode():
        sequence = subject.model.image_sequences(to_device(pixels, subject.model), [SIZE])[0]
    return len(sequence) + int(ids.shape[1]) - 1
