"""Questions with short answers, one batch after the other, as an evaluation asks them: picture files in, text out.

Batches go through `llava.eval.answerer.answer_batch`, which every evaluation ends in, and are loaded as there: workers
decode and tile pictures while the model answers, so preprocessing costs only what they do not keep up with. Only the
words are not real, since a shape has no tokenizer.
The pictures are JPEG files of 640 x 480, the size of most of COCO's (POPE, VQAv2 and others).
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from llava.bench.cases import Case, ready, use
from llava.bench.clock import ratios, spread, synchronize
from llava.bench.setup import Subject, picture_of
from llava.constants import DEFAULT_IMAGE_TOKEN, IMAGE_TOKEN_INDEX
from llava.eval.answerer import Decoding, Prompt, answer_batch, gather_pixels, prepare_pixels
from llava.mm_utils import load_image
from visionzip import detach

SIZE = (640, 480)


class Numerals:
    """A tokenizer whose words are the ids themselves: every prompt has exactly the ids that were asked for."""

    pad_token_id, bos_token_id = 0, None

    def __call__(self, text: str) -> Any:
        return SimpleNamespace(input_ids=[int(word) for word in text.split()])

    def batch_decode(self, rows: torch.Tensor, skip_special_tokens: bool) -> list[str]:
        return [" ".join(map(str, row)) for row in rows.tolist()]

    @staticmethod
    def text(ids: torch.Tensor) -> str:
        """The text of ids [l], an image token as `<image>`."""
        return " ".join(DEFAULT_IMAGE_TOKEN if word == IMAGE_TOKEN_INDEX else str(word) for word in ids.tolist())


class _Prompts(Dataset[Prompt]):
    """One question about every file."""

    def __init__(self, files: Sequence[Path], subject: Subject, text: str) -> None:
        self.files, self.text = files, text
        self.processor, self.config = subject.image_processor, subject.model.config

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Prompt:
        picture = load_image(self.files[index])
        return Prompt(self.text, prepare_pixels([picture], self.processor, self.config), (picture.size,))


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
    """A row per case and batch size: seconds a question, questions a second, speed-up over the first case at that size
    and, where it was measured, over dense on the same path.

    ids: [1, l], one prompt for all questions.
    """
    rows = []
    with _files(questions) as files:
        for size in batch_sizes:
            times: dict[str, list[dict[str, float]]] = {case.label: [] for case in cases}
            with ExitStack() as stack:
                stack.callback(detach, subject.model)
                loops = {
                    case.label: _loop(stack, subject, case, ids, files, size, new_tokens, workers) for case in cases
                }
                for name, loop in loops.items():
                    loop(min(questions, 2 * size))  # warm-up
                    report(f"throughput, {size} together: {name} is warm")
                for _ in range(rounds):
                    for name, loop in loops.items():
                        times[name].append({"total": loop(questions) / questions})
            rows += [_row(case, size, times, cases[0].label) for case in cases]
    return rows


def _row(case: Case, size: int, times: Mapping[str, Sequence[Mapping[str, float]]], base: str) -> dict[str, Any]:
    own, dense = times[case.label], times.get(case.dense_alike)
    seconds = spread([run["total"] for run in own])
    return {
        "case": case.label,
        "batch": size,
        "seconds_per_question": seconds,
        "questions_per_second": round(1 / seconds["median"], 4),
        "speedup": ratios(times[base], own),
        "same_path": None if dense is None else {"compared_with": case.dense_alike, "speedup": ratios(dense, own)},
    }


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
    model, words, decoding = subject.model, Numerals(), Decoding(max_new_tokens=new_tokens)
    text = Numerals.text(ids[0])
    use(model, case)
    visual, tiles = _counts(subject, _Prompts(files, subject, text)[0])
    longest = visual + int(ids.shape[1]) - 1 + new_tokens
    made = ready(stack, model, case, visual=visual, tiles=tiles, longest=longest, batch=size)
    pinned = workers > 0 and subject.device.type == "cuda"

    def run(count: int) -> float:
        prompts = _Prompts(files[:count], subject, text)
        loader = DataLoader(prompts, batch_size=size, num_workers=workers, collate_fn=list, pin_memory=pinned)
        synchronize(subject.device)
        begin = time.perf_counter()
        with made.in_use():
            for batch in loader:
                answer_batch(model, words, batch, decoding, made.generate)
        synchronize(subject.device)
        return time.perf_counter() - begin

    return run


def _counts(subject: Subject, prompt: Prompt) -> tuple[int, int]:
    """Visual tokens and tiles of a picture; all are of one size."""
    pixels, sizes = gather_pixels(subject.model, [prompt])
    with torch.inference_mode():
        visual = len(subject.model.image_sequences(pixels, sizes)[0])
    return visual, sum(1 if tile.dim() == 3 else len(tile) for tile in prompt.pixels)
