"""The judge behind an OpenAI-compatible chat endpoint.

The endpoint is `OPENAI_BASE_URL` (OpenAI's own if unset), the key `OPENAI_API_KEY`; the key is handed to the `openai`
package and goes nowhere else. Judges drift: another model, and another version under one name, shifts scores by
several points. So the name asked for and the name the endpoint answered with are both part of every result.
"""

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

logger = logging.getLogger(__name__)

KEY, BASE_URL = "OPENAI_API_KEY", "OPENAI_BASE_URL"
WARMER = 0.5  # what a repeated attempt adds to the temperature: at 0 it would say the same again
HOTTEST = 1.0


@dataclass(frozen=True)
class Judge:
    """Who judges and how it is asked.

    model, temperature: None is the benchmark's published one. workers: calls at a time. attempts: how often a reply
    that holds no score is asked for, in all. max_retries: of one call that fails (429, 5xx, timeout), with growing
    pauses. timeout: seconds of one call. price_in, price_out: per million prompt / completion tokens. dry_run: only
    estimate.

    Raises:
        ValueError: a number out of range, or one price without the other.
    """

    model: str | None = None
    temperature: float | None = None
    workers: int = 4
    attempts: int = 3
    max_retries: int = 6
    timeout: float = 120.0
    price_in: float | None = None
    price_out: float | None = None
    dry_run: bool = False

    def __post_init__(self) -> None:
        if min(self.workers, self.attempts) < 1 or self.max_retries < 0 or self.timeout <= 0:
            raise ValueError(
                f"expected workers and attempts of at least 1, max_retries >= 0 and timeout > 0; got {self.workers}, "
                f"{self.attempts}, {self.max_retries}, {self.timeout}"
            )
        if (self.price_in is None) != (self.price_out is None):
            raise ValueError(
                f"expected both prices or none (--price-in, --price-out); got {self.price_in} and {self.price_out}"
            )


@dataclass(frozen=True)
class Request:
    """One judgement that is wanted, whole: everything that decides it, and `key`, the id of the question it is
    about."""

    key: str
    task: str
    model: str
    temperature: float
    messages: tuple[Mapping[str, str], ...]
    max_tokens: int

    def at(self, attempt: int) -> float:
        """Temperature of an attempt, the first being 0."""
        return self.temperature if attempt == 0 else min(max(HOTTEST, self.temperature), self.temperature + WARMER)

    def digest(self, attempt: int = 0) -> str:
        """What its judgement is kept under: a hash of all but `key` and the endpoint."""
        parts = [self.task, self.model, self.at(attempt), attempt, self.max_tokens, [dict(m) for m in self.messages]]
        return hashlib.sha256(json.dumps(parts, ensure_ascii=True, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Said:
    """What came back. served_by: the name the endpoint gave its model. unsent: settings of the request that the
    endpoint refuses, so that its own counted."""

    text: str
    served_by: str
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    unsent: tuple[str, ...] = ()


Ask = Callable[[Request, int], Said]


def connect(judge: Judge) -> Ask:
    """A function that sends a request (at its attempt's temperature) and waits for what is said; threads may share it.

    Raises:
        ValueError: no key in the environment, or `openai` is not installed; from the function: the endpoint refused,
        or failed more often than `max_retries`. No message holds the key.
    """
    key = os.environ.get(KEY)
    if not key:
        raise ValueError(
            f"{KEY} is not set: export the key of the judge's endpoint (a local server takes any word), and "
            f"{BASE_URL} if that is not OpenAI's"
        )
    try:
        import openai
    except ImportError as error:
        raise ValueError("the judge needs the package openai: pip install 'llava-visionzip[eval]'") from error
    client = openai.OpenAI(api_key=key, max_retries=judge.max_retries, timeout=judge.timeout)
    refused: set[str] = set()  # what one call learns of the endpoint spares the others the refusal

    def ask(request: Request, attempt: int) -> Said:
        messages: Any = [dict(message) for message in request.messages]
        settings = {"temperature": request.at(attempt), "max_tokens": request.max_tokens}
        while True:
            unsent = frozenset(refused)
            try:
                completion: Any = client.chat.completions.create(
                    model=request.model, messages=messages, **_accepted(settings, unsent)
                )
            except openai.OpenAIError as error:
                named = _refused(error) - unsent
                if not named:
                    # Servers repeat the key in their complaints; `from None`: a traceback would show the first wording.
                    told = re.sub(rf"(?<!\w){re.escape(key)}(?!\w)", "***", _explain(error, request))
                    raise ValueError(told) from None
                logger.warning("%s refuses %s; asking without", request.model, ", ".join(sorted(named)))
                refused.update(named)
                continue
            return replace(_read(completion, request), unsent=tuple(sorted(unsent - {"max_tokens"})))

    return ask


def _accepted(settings: Mapping[str, Any], refused: Collection[str]) -> dict[str, Any]:
    """The settings an endpoint takes: newer hosted models know `max_tokens` by another name, and some have one
    temperature."""
    sent = {name: value for name, value in settings.items() if name not in refused}
    return sent if "max_tokens" in sent else {**sent, "max_completion_tokens": settings["max_tokens"]}


def _refused(error: Exception) -> set[str]:
    """The settings that a refusal (HTTP 400) names."""
    if getattr(error, "status_code", None) != 400:
        return set()
    return {name for name in ("temperature", "max_tokens") if re.search(rf"\b{name}\b", str(error))}


def _explain(error: Exception, request: Request) -> str:
    status = getattr(error, "status_code", None)
    where = f"the judge {request.model} (question_id {request.key})"
    if status == 401:
        return f"{where}: the endpoint refuses the key in {KEY} (HTTP 401); check it and {BASE_URL}"
    return f"{where}: {'' if status is None else f'HTTP {status}, '}{type(error).__name__}: {error}"


def _read(completion: Any, request: Request) -> Said:
    """The first choice of a chat completion; a refused or empty one is the empty text.

    Raises:
        ValueError: the endpoint answered with something else.
    """
    choices = getattr(completion, "choices", None)
    if not choices:
        raise ValueError(
            f"the judge {request.model}: expected a chat completion, got {str(completion)[:200]!r}; check {BASE_URL} "
            f"(it usually ends in /v1)"
        )
    usage = getattr(completion, "usage", None)
    return Said(
        text=(choices[0].message.content or "").encode("utf-8", errors="replace").decode("utf-8"),
        served_by=str(completion.model or request.model),
        prompt_tokens=getattr(usage, "prompt_tokens", None),
        completion_tokens=getattr(usage, "completion_tokens", None),
    )
