"""From requests to judgements: estimate first, ask what is missing, read, ask again what holds no score.

What comes out depends neither on the order of the requests, nor on the number of workers, nor on interruptions.
"""

import logging
import math
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import typer

from llava.eval.generate import progress
from llava.eval.judge.cache import Cache
from llava.eval.judge.client import Ask, Judge, Request, Said, connect
from llava.provenance import sha256_file, stamp, without_machine_paths
from llava.utils import write_json

logger = logging.getLogger(__name__)

CHARACTERS_PER_TOKEN = 4  # of English text; tokenizers of hosted judges are not at hand
_MILLION = 1_000_000

T = TypeVar("T")


@dataclass(frozen=True)
class Judgement(Generic[T]):
    """A reply that could be read. attempts: how often it was asked for. unsent: see `Said`."""

    value: T
    text: str
    served_by: str
    attempts: int
    unsent: tuple[str, ...] = ()


class OnlyEstimated(Exception):
    """A dry run: the estimate is printed, and nothing was sent."""


@dataclass(frozen=True)
class JudgeResult:
    """A judged benchmark's outcome.

    task: its name. score: percent. n: questions that were scored. extra: judge, served_by, temperature, prompt (its
    version), questions (all), excluded (ids no readable reply came for), reasked, unsent (settings the endpoint
    refused, if any), and the benchmark's own figures.
    items: question id -> score in 0..1, in the order of the questions.
    """

    task: str
    score: float
    n: int
    extra: dict[str, Any] = field(default_factory=dict)
    items: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Estimate:
    """What judging will take, before anything is sent. Prompt tokens are characters / 4; completion tokens and cost
    are upper bounds of the first attempts."""

    judge: str
    calls: int
    kept: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None

    def __str__(self) -> str:
        price = "" if self.cost is None else f", {self.cost:.2f} at the given prices at most"
        return (
            f"judge {self.judge}: {self.calls} calls ({self.kept} judged before), about {self.prompt_tokens} prompt "
            f"tokens and at most {self.completion_tokens} completion tokens{price}; replies without a score are asked "
            f"for again"
        )


def estimate(requests: Sequence[Request], read: Callable[[str], T | None], judge: Judge, cache: Cache) -> Estimate:
    """Calls, tokens and cost of what `cache` does not hold yet; requests that say the same count once.

    Raises:
        ValueError: no requests.
    """
    if not requests:
        raise ValueError("expected at least one question to judge, got none")
    every = _distinct(requests)
    todo = [request for request in every.values() if _first_missing(request, read, judge, cache) is not None]
    letters = [sum(len(message["content"]) for message in request.messages) for request in todo]
    prompt = sum(math.ceil(count / CHARACTERS_PER_TOKEN) for count in letters)
    completion = sum(request.max_tokens for request in todo)
    cost = None
    if judge.price_in is not None and judge.price_out is not None:
        cost = (prompt * judge.price_in + completion * judge.price_out) / _MILLION
    return Estimate(requests[0].model, len(todo), len(every) - len(todo), prompt, completion, cost)


def judge_all(
    requests: Sequence[Request], read: Callable[[str], T | None], judge: Judge, cache: Cache
) -> dict[str, Judgement[T] | None]:
    """Judge every request, after printing the estimate; what `cache` holds is not asked again.

    Args:
        read: the score in a reply, None if it holds none; such a reply is asked for again, `judge.attempts` times in
        all.

    Returns:
        Request key -> judgement, None where no attempt could be read, in the order of the requests.

    Raises:
        ValueError: no key, or the endpoint failed; what was judged till then is kept.
        OnlyEstimated: `judge.dry_run`.
    """
    foreseen = estimate(requests, read, judge, cache)
    typer.echo(str(foreseen), err=True)
    if judge.dry_run:
        raise OnlyEstimated
    every = _distinct(requests)
    ask = connect(judge) if foreseen.calls else _nothing_to_ask
    judged: dict[str, Judgement[T] | None] = {}
    stop = threading.Event()

    def settle(request: Request) -> Judgement[T] | None:
        if stop.is_set():  # another call failed for good: whatever this returns is not looked at
            return None
        try:
            return _settle(request, read, judge, cache, ask)
        except BaseException:
            stop.set()
            raise

    pool = ThreadPoolExecutor(judge.workers)
    try:
        with progress(f"judging {requests[0].task}", len(every), 0) as advance:
            futures: dict[Future[Judgement[T] | None], str] = {
                pool.submit(settle, one): digest for digest, one in every.items()
            }
            for future in as_completed(futures):
                judged[futures[future]] = future.result()
                advance(1)
    except ValueError as error:
        raise ValueError(f"{error}\n{cache.file} keeps what was judged; run the same again to go on") from None
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)  # calls under way are paid for: they are waited for and kept
    return {request.key: judged[request.digest()] for request in requests}


def describe(
    requests: Sequence[Request], judgements: Mapping[str, Judgement[T] | None], prompt: str
) -> tuple[dict[str, Judgement[T]], dict[str, Any]]:
    """(the judgements that can be scored, what every result says in `extra`); excluded questions are logged.

    Raises:
        ValueError: none can be scored.
    """
    scored = {key: one for key, one in judgements.items() if one is not None}
    excluded = [key for key in judgements if key not in scored]
    model = requests[0].model
    if not scored:
        raise ValueError(f"the judge {model} gave no readable score for any of {len(excluded)} questions")
    if excluded:
        logger.warning(
            "%d of %d questions are excluded, %s gave no readable score for them: %s",
            len(excluded),
            len(judgements),
            model,
            ", ".join(excluded),
        )
    unsent = sorted({name for one in scored.values() for name in one.unsent})
    return scored, {
        "judge": model,
        "served_by": sorted({one.served_by for one in scored.values()}),
        "temperature": requests[0].temperature,
        "prompt": prompt,
        "questions": len(judgements),
        "excluded": excluded,
        "reasked": sum(one.attempts > 1 for one in scored.values()),
        **({"unsent": unsent} if unsent else {}),
    }


def write_result(file: Path, result: JudgeResult, inputs: Sequence[Path]) -> None:
    """Write a result with its stamp and the hashes of the files it was made from."""
    hashes = {path.name: sha256_file(path) for path in inputs}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, without_machine_paths({**asdict(result), "inputs": hashes, "stamp": stamp()}))


def slug(model: str) -> str:
    """A judge's name as part of a file name."""
    return re.sub(r"[^\w.-]+", "-", model).strip("-.")


def cache_file(out: Path) -> Path:
    """Where the judgements of results in folder `out` are kept: below it, as every *.jsonl in it is a review file."""
    return out / "cache" / "judgements.jsonl"


def _distinct(requests: Sequence[Request]) -> dict[str, Request]:
    """First request of each digest: the same words get one judgement, however often a benchmark holds them."""
    every: dict[str, Request] = {}
    for request in requests:
        every.setdefault(request.digest(), request)
    return every


def _first_missing(request: Request, read: Callable[[str], T | None], judge: Judge, cache: Cache) -> int | None:
    """The attempt that must be asked next, None if the matter is settled."""
    for attempt in range(judge.attempts):
        said = cache.get(request, attempt)
        if said is None:
            return attempt
        if read(said.text) is not None:
            return None
    return None


def _settle(
    request: Request, read: Callable[[str], T | None], judge: Judge, cache: Cache, ask: Ask
) -> Judgement[T] | None:
    for attempt in range(judge.attempts):
        said = cache.get(request, attempt) or cache.add(request, attempt, ask(request, attempt))
        value = read(said.text)
        if value is not None:
            return Judgement(value, said.text, said.served_by, attempt + 1, said.unsent)
        logger.info("question_id %s: no score in %r (attempt %d)", request.key, said.text[:80], attempt + 1)
    return None


def _nothing_to_ask(request: Request, attempt: int) -> Said:
    raise RuntimeError(f"question_id {request.key}, attempt {attempt}: expected it among the kept judgements")
