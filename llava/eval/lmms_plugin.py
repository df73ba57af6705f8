"""Our models inside lmms-eval, as model id `llava_visionzip` (entry point group lmms_eval.models).

    lmms_eval --model llava_visionzip --model_args pretrained=CKPT,dominant=54,contextual=10 --tasks pope
    --batch_size 8

It shares the generation code of our own evaluation. Differences to lmms-eval's `llava`: a batch gives the answers of
batch size 1; every request uses its own pictures and stop strings; the model's config is never written to; errors
are raised where they happen. Each answer carries the number of visual tokens the language model really got and what its
pictures are known by; lmms-eval writes both into the samples file (`token_counts`), from however many processes.
"""

import copy
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from PIL import Image
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from llava.constants import IGNORE_INDEX
from llava.eval.answerer import (
    Decoding,
    Prompt,
    answer_batch,
    gather_pixels,
    prepare_pixels,
    render,
    user_turn,
)
from llava.eval.generate import Reply, progress
from llava.eval.loading import load_model
from llava.eval.methods import apply_method, requested_budget
from llava.mm_utils import tokenizer_image_token
from visionzip import Budget

logger = logging.getLogger(__name__)

MODEL_ID = "llava_visionzip"
DEFAULT_NEW_TOKENS = 1024  # what lmms-eval's own llava allows where a task says nothing
_USED = ("max_new_tokens", "temperature", "top_p", "num_beams", "do_sample", "until", "image_aspect_ratio")


def manifest() -> Any:
    """What the entry point hands to lmms-eval."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id=MODEL_ID, simple_class_path=f"{__name__}.{LlavaVisionZip.__name__}")


@dataclass
class VisualTokenCounts(TokenCounts):
    """What an answer cost: visual tokens in the language model over all pictures of the request, and the pictures.

    pictures: a hash of them, the same for two documents that ask about the same ones; the samples name them nowhere
    else, and intervals need it. Empty without any.
    """

    visual_tokens: int = 0
    images: int = 0
    pictures: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As lmms-eval logs it."""
        told = {"visual_tokens": self.visual_tokens, "images": self.images, "pictures": self.pictures}
        return {**super().to_dict(), **told}


@dataclass(frozen=True)
class _Request:
    """One request unpacked: the words, the pictures, how to decode and where to stop."""

    context: str
    pictures: list[Image.Image]
    generation: Mapping[str, Any]


@dataclass
class _Talk:
    """A request of several rounds: the next one to ask, the task's prompt writer, what was said, the task's notes."""

    request: _Request
    doc: Any
    next_round: Callable[..., Any]
    said: list[str] = field(default_factory=list)
    notes: Any = None
    ended: bool = False


class LlavaVisionZip(lmms):
    """A LLaVA checkpoint with any of our methods.

    Args:
        pretrained, model_base: the checkpoint, and its base if it is a LoRA or a projector.
        method: a name in llava.eval.methods; default: visionzip if a budget is given, else as the checkpoint was
        saved. dominant, contextual: budget per tile, CLS included. order: packing of several tiles,
        "official" or "spatial". attn (or attn_implementation, lmms-eval's usual name) and dtype: passed to the loader;
        default: its own choice. device: default this process's GPU, else the CPU; "cuda" is this process's GPU.

    Raises:
        ValueError: what the loader and the method raise, a batch size that is no whole number, attn given twice, a
        budget without a method for a checkpoint that was saved with one.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str,
        model_base: str | None = None,
        method: str | None = None,
        dominant: int | None = None,
        contextual: int | None = None,
        order: str | None = None,
        conv_template: str = "vicuna_v1",
        attn: str | None = None,
        attn_implementation: str | None = None,
        dtype: str | None = None,
        device: str | None = None,
        batch_size: int | str = 1,
    ) -> None:
        super().__init__()
        if not str(batch_size).isdigit() or int(batch_size) < 1:
            raise ValueError(f"batch_size: expected a whole number >= 1, got {batch_size!r}")
        if attn is not None and attn_implementation is not None:
            raise ValueError(f"attn={attn} and attn_implementation={attn_implementation} are one option; give one")
        if device == "cuda":
            device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        self.batch_size = int(batch_size)
        self.conv_template = Decoding(conv_template).conv_mode
        chosen, budget = requested_budget(method, dominant, contextual)
        options = {"attn_implementation": attn or attn_implementation, "dtype": dtype}
        given = {key: value for key, value in options.items() if value is not None}
        loaded = load_model(pretrained, model_base, device, **given)
        _require_named(loaded.model, pretrained, method, budget)
        apply_method(loaded.model, chosen, budget, order)
        self._model, self.tokenizer, self.image_processor = loaded.model, loaded.tokenizer, loaded.image_processor

    @property
    def model(self) -> Any:
        """The LLaVA model."""
        return self._model

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = self._model.device
        return device

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Answers in the order of the requests; requests that decode alike share batches."""
        answers: dict[int, GenerationResult] = {}
        with self._progress(requests) as advance:
            for batch in self._batches(requests):
                unpacked = [self._unpack(requests[index].args) for index in batch]
                for index, request, reply in zip(batch, unpacked, self._answer(unpacked), strict=True):
                    shown = request.pictures
                    counts = VisualTokenCounts(
                        visual_tokens=reply.visual_tokens, images=len(shown), pictures=picture_hash(shown)
                    )
                    answers[index] = GenerationResult(reply.text, counts)
                    self.cache_hook.add_partial("generate_until", requests[index].args[:2], reply.text)
                advance(len(batch))
        return [answers[index] for index in range(len(requests))]

    def generate_until_multi_round(self, requests: list[Instance]) -> list[list[str]]:
        """The answers of all rounds of each request. The task writes each round's prompt itself: it gets what was
        answered so far and returns (pictures, context, end, answers, its own notes)."""
        said: dict[int, list[str]] = {}
        with self._progress(requests) as advance:
            for batch in self._batches(requests):
                talks = [self._open_talk(requests[index].args) for index in batch]
                while going := [talk for talk in talks if not talk.ended]:
                    for talk, reply in zip(going, self._answer([talk.request for talk in going]), strict=True):
                        _take_turn(talk, reply.text)
                said.update(zip(batch, (talk.said for talk in talks), strict=True))
                advance(len(batch))
        return [said[index] for index in range(len(requests))]

    def loglikelihood(self, requests: list[Instance]) -> list[GenerationResult]:
        """For each request, as `text`, (mean negative log-likelihood of the target incl. its end mark, whether greedy
        decoding says it).

        The sign is that of lmms-eval's own models: its multiple-choice scoring takes the smallest. The pair comes
        wrapped because lmms-eval 0.7.3 turns a bare one into a string.
        """
        found: list[GenerationResult] = []
        with self._progress(requests) as advance:
            for start in range(0, len(requests), self.batch_size):
                batch = requests[start : start + self.batch_size]
                found += [GenerationResult(pair) for pair in self._likelihoods([request.args for request in batch])]
                advance(len(batch))
        return found

    def _progress(self, requests: Sequence[Instance]) -> Any:
        return progress("answering" if self.rank == 0 else "", len(requests), 0)

    def _batches(self, requests: Sequence[Instance]) -> Iterator[list[int]]:
        """Places of requests that have the same generation arguments, at most `batch_size` at a time."""
        groups: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True, default=str), []).append(index)
        for indices in groups.values():
            for start in range(0, len(indices), self.batch_size):
                yield indices[start : start + self.batch_size]

    def _unpack(self, args: Sequence[Any]) -> _Request:
        context, generation, doc_to_visual, doc_id, task, split = args
        return _Request(context, _pictures(doc_to_visual, self.task_dict[task][split][doc_id]), generation)

    def _open_talk(self, args: Sequence[Any]) -> _Talk:
        context, generation, doc_to_visual, doc_to_text, doc_id, task, split = args
        doc = self.task_dict[task][split][doc_id]
        return _Talk(_Request(context, _pictures(doc_to_visual, doc), generation), doc, doc_to_text)

    def _answer(self, requests: Sequence[_Request]) -> list[Reply]:
        """One batch; all requests have the same generation arguments."""
        generation = requests[0].generation
        prompts = [self._prompt(request) for request in requests]
        replies = answer_batch(self._model, self.tokenizer, prompts, self._decoding(generation))
        return [Reply(cut_at(reply.text, _stops(generation)), reply.visual_tokens) for reply in replies]

    def _prompt(self, request: _Request, answer: str | None = None) -> Prompt:
        config = self._model.config
        wanted = request.generation.get("image_aspect_ratio")
        if wanted is not None and getattr(config, "image_aspect_ratio", None) is None:
            config = copy.copy(config)  # this request only
            config.image_aspect_ratio = wanted
        turn = user_turn(request.context, len(request.pictures), config, joint=" ")
        return Prompt(
            text=render(self.conv_template, [turn] if answer is None else [turn, answer]),
            pixels=prepare_pixels(request.pictures, self.image_processor, config),
            sizes=tuple(picture.size for picture in request.pictures),
        )

    def _decoding(self, generation: Mapping[str, Any]) -> Decoding:
        for key in generation:
            if key not in _USED:
                logger.warning("generation argument %s=%r is not used by %s", key, generation[key], MODEL_ID)
        temperature = float(generation.get("temperature") or 0.0)
        return Decoding(
            conv_mode=self.conv_template,
            temperature=0.0 if generation.get("do_sample") is False else temperature,
            top_p=generation.get("top_p"),
            num_beams=int(generation.get("num_beams") or 1),
            max_new_tokens=int(generation.get("max_new_tokens") or DEFAULT_NEW_TOKENS),
        )

    def _likelihoods(self, rows: Sequence[Sequence[Any]]) -> list[tuple[float, bool]]:
        """One batch of (context, target, ...): the target's ids are labels, expanded with the row by the model's own
        splice, so that padding and pictures need no arithmetic here."""
        prompts, ids, labels = [], [], []
        for args in rows:
            prompt, row, label = self._target_row(args)
            prompts.append(prompt)
            ids.append(row)
            labels.append(label)
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.tokenizer.eos_token_id
        padded = pad_sequence(ids, batch_first=True, padding_value=pad)
        mask = pad_sequence([torch.ones_like(row, dtype=torch.bool) for row in ids], batch_first=True)
        wanted = pad_sequence(labels, batch_first=True, padding_value=IGNORE_INDEX)
        pixels, sizes = gather_pixels(self._model, prompts)
        padded, mask, wanted = (tensor.to(self.device) for tensor in (padded, mask, wanted))
        with torch.inference_mode():
            _, positions, mask, _, embeds, expanded = self._model.prepare_inputs_labels_for_multimodal(
                padded, None, mask, None, wanted, pixels, sizes
            )
            inputs = {"input_ids": padded} if embeds is None else {"inputs_embeds": embeds}
            output = self._model(**inputs, attention_mask=mask, position_ids=positions, use_cache=False)
        return [_judge(logits, row) for logits, row in zip(output.logits, expanded, strict=True)]

    def _target_row(self, args: Sequence[Any]) -> tuple[Prompt, torch.Tensor, torch.Tensor]:
        """Prompt with its target, ids [l], labels [l]: the target with its end mark, IGNORE_INDEX before it."""
        context, target, doc_to_visual, doc_id, task, split = args
        doc = self.task_dict[task][split][doc_id]
        request = _Request(context, _pictures(doc_to_visual, doc), {})
        answer = (target(doc) if callable(target) else str(target)).lstrip(" ")  # the template brings its own blank
        whole = self._prompt(request, answer)
        open_ids, ids = (
            tokenizer_image_token(text, self.tokenizer, return_tensors="pt")
            for text in (self._prompt(request).text, whole.text)
        )
        same = next((i for i, (a, b) in enumerate(zip(open_ids, ids, strict=False)) if a != b), len(open_ids))
        labels = ids.clone()
        labels[:same] = IGNORE_INDEX
        return whole, ids, labels


def _require_named(model: Any, pretrained: str, method: str | None, budget: Budget | None) -> None:
    """Of a checkpoint saved with a compressor the results have to say which method ran: afterwards nobody can tell a
    tuned projector from a training-free one."""
    saved = model.get_vision_tower().compressor
    if saved is None or method is not None:
        return
    names = f"{pretrained} was saved with {saved.to_config()}"
    if budget is not None:
        raise ValueError(f"{names}: say method=visionzip-tuned for its own budget, method=visionzip for another one")
    logger.warning("%s and runs so; without method=... in the model's arguments no table takes the results", names)


def _judge(logits: torch.Tensor, labels: torch.Tensor) -> tuple[float, bool]:
    """Mean loss of the labelled ids of one row, and whether all are the likeliest. logits [L, V], labels [L]."""
    places = (labels[1:] != IGNORE_INDEX).nonzero()[:, 0]
    said, wanted = logits[places].float(), labels[places + 1]
    return float(cross_entropy(said, wanted)), bool((said.argmax(dim=-1) == wanted).all())


def _take_turn(talk: _Talk, text: str) -> None:
    """Add an answer and let the task write the next round, if there is one."""
    talk.said = [*talk.said, text]
    visuals, context, talk.ended, said, talk.notes = talk.next_round(
        talk.doc, previous_output=talk.said, round_idx=len(talk.said), previous_round_info=talk.notes
    )
    talk.said = list(said)
    if not talk.ended:
        talk.request = _Request(context, _flatten(visuals), talk.request.generation)


def cut_at(text: str, stops: Sequence[str]) -> str:
    """The text before the first stop string."""
    places = [place for stop in stops if stop and (place := text.find(stop)) >= 0]
    return text[: min(places)] if places else text


def picture_hash(pictures: Sequence[Image.Image]) -> str:
    """Of sizes and pixels; empty without pictures."""
    if not pictures:
        return ""
    digest = hashlib.sha256()
    for picture in pictures:
        digest.update(f"{picture.size}".encode())
        digest.update(picture.tobytes())
    return digest.hexdigest()[:16]


def _stops(generation: Mapping[str, Any]) -> list[str]:
    until = generation.get("until") or []
    if not isinstance(until, str | list | tuple):
        raise ValueError(f"generation argument until: expected a string or a list of strings, got {until!r}")
    return [until] if isinstance(until, str) else list(until)


def _pictures(doc_to_visual: Callable[[Any], Any], doc: Any) -> list[Image.Image]:
    return _flatten(doc_to_visual(doc))


def _flatten(visuals: Any) -> list[Image.Image]:
    """Pictures of a document, in RGB; none for None.

    Raises:
        ValueError: something that is no picture (a video path, say).
    """
    if visuals is None:
        return []
    if isinstance(visuals, Image.Image):
        return [visuals.convert("RGB")]
    if isinstance(visuals, list | tuple):
        return [picture for item in visuals for picture in _flatten(item)]
    raise ValueError(f"{MODEL_ID} takes pictures, got {type(visuals).__name__}: {visuals!r}")
