"""Our models inside lmms-eval, as model id `llava_visionzip` (entry point group lmms_eval.models).

    lmms_eval --model llava_visionzip --model_args pretrained=CKPT,dominant=54,contextual=10 --tasks pope
    --batch_size 8

It shares the generation code of our own evaluation. Differences to lmms-eval's `llava`: a batch gives the answers of
batch size 1; every request uses its own pictures and stop strings; the model's config is never written to; errors
are raised where they happen.
"""

import copy
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from PIL import Image
from torch.nn.functional import cross_entropy

from llava.eval.answerer import Decoding, Prompt, answer_batch, gather_pixels, prepare_pixels, render, user_turn
from llava.eval.generate import progress
from llava.eval.loading import load_model
from llava.eval.methods import apply_method, requested_budget
from llava.mm_utils import tokenizer_image_token

logger = logging.getLogger(__name__)

MODEL_ID = "llava_visionzip"
DEFAULT_NEW_TOKENS = 1024  # what lmms-eval's own llava allows where a task says nothing
_USED = ("max_new_tokens", "temperature", "top_p", "num_beams", "do_sample", "until", "image_aspect_ratio")


def manifest() -> Any:
    """What the entry point hands to lmms-eval."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id=MODEL_ID, simple_class_path=f"{__name__}.{LlavaVisionZip.__name__}")


@dataclass(frozen=True)
class _Request:
    """One request unpacked: the words, the pictures, how to decode, where to stop, and the pixels' config."""

    context: str
    pictures: list[Image.Image]
    generation: Mapping[str, Any]


class LlavaVisionZip(lmms):
    """A LLaVA checkpoint with any of our methods.

    Args:
        pretrained, model_base: the checkpoint, and its base if it is a LoRA or a projector.
        method: dense, visionzip, random, uniform or pool; default: visionzip if a budget is given, else as the
        checkpoint was saved. dominant, contextual: budget per tile, CLS included. order: packing of several tiles,
        "official" or "spatial". attn_implementation, dtype: passed to the loader; default: its own choice.
        device: default a GPU if there is one.

    Raises:
        ValueError: what the loader and the method raise, and a batch size that is no whole number.
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
        attn_implementation: str | None = None,
        dtype: str | None = None,
        device: str | None = None,
        batch_size: int | str = 1,
    ) -> None:
        super().__init__()
        if not str(batch_size).isdigit() or int(batch_size) < 1:
            raise ValueError(f"batch_size: expected a whole number >= 1, got {batch_size!r}")
        self.batch_size = int(batch_size)
        self.conv_template = Decoding(conv_template).conv_mode
        chosen, budget = requested_budget(method, dominant, contextual)
        options = {"attn_implementation": attn_implementation, "dtype": dtype}
        given = {key: value for key, value in options.items() if value is not None}
        loaded = load_model(pretrained, model_base, device, **given)
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

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Answers in the order of the requests; requests that decode alike share batches."""
        groups: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True, default=str), []).append(index)
        answers: dict[int, str] = {}
        with progress("answering" if self.rank == 0 else "", len(requests), 0) as advance:
            for indices in groups.values():
                for start in range(0, len(indices), self.batch_size):
                    batch = indices[start : start + self.batch_size]
                    unpacked = [self._unpack(requests[index].args) for index in batch]
                    for index, text in zip(batch, self._answer(unpacked), strict=True):
                        answers[index] = text
                        self.cache_hook.add_partial("generate_until", requests[index].args[:2], text)
                    advance(len(batch))
        return [answers[index] for index in range(len(requests))]

    def generate_until_multi_round(self, requests: list[Instance]) -> list[list[str]]:
        """The answers of all rounds of each request. The task writes each round's prompt itself: it gets what was
        answered so far and returns (pictures, context, end, answers, its own notes)."""
        return [self._rounds(request.args) for request in requests]

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """For each request (mean negative log-likelihood of the target incl. its end mark, whether greedy decoding
        says it).

        The sign is that of lmms-eval's own models: its multiple-choice scoring takes the smallest.
        """
        return [self._likelihood(request.args) for request in requests]

    def _unpack(self, args: Sequence[Any]) -> _Request:
        context, generation, doc_to_visual, doc_id, task, split = args
        return _Request(context, _pictures(doc_to_visual, self.task_dict[task][split][doc_id]), generation)

    def _answer(self, requests: Sequence[_Request]) -> list[str]:
        """One batch; all requests have the same generation arguments."""
        generation = requests[0].generation
        prompts = [self._prompt(request) for request in requests]
        replies = answer_batch(self._model, self.tokenizer, prompts, self._decoding(generation))
        return [cut_at(reply.text, _stops(generation)) for reply in replies]

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

    def _rounds(self, args: Sequence[Any]) -> list[str]:
        context, generation, doc_to_visual, doc_to_text, doc_id, task, split = args
        doc = self.task_dict[task][split][doc_id]
        pictures = _pictures(doc_to_visual, doc)
        said: list[str] = []
        notes: Any = None
        while True:
            said = [*said, *self._answer([_Request(context, pictures, generation)])]
            visuals, context, end, said, notes = doc_to_text(
                doc, previous_output=said, round_idx=len(said), previous_round_info=notes
            )
            if end:
                return list(said)
            pictures = _flatten(visuals)

    def _likelihood(self, args: Sequence[Any]) -> tuple[float, bool]:
        context, target, doc_to_visual, doc_id, task, split = args
        doc = self.task_dict[task][split][doc_id]
        request = _Request(context, _pictures(doc_to_visual, doc), {})
        answer = (target(doc) if callable(target) else str(target)).lstrip(" ")  # the template brings its own blank
        whole = self._prompt(request, answer)
        ids = [
            tokenizer_image_token(text, self.tokenizer, return_tensors="pt").to(self.device)
            for text in (self._prompt(request).text, whole.text)
        ]
        same = next((i for i, (a, b) in enumerate(zip(*ids, strict=False)) if a != b), len(ids[0]))
        wanted = ids[1][same:]
        pixels, sizes = gather_pixels(self._model, [whole])
        with torch.inference_mode():
            output = self._model(input_ids=ids[1][None], images=pixels, image_sizes=sizes, use_cache=False)
        logits = output.logits[0, -len(wanted) - 1 : -1].float()  # the target ends the expanded row
        loss = cross_entropy(logits, wanted)
        return float(loss), bool((logits.argmax(dim=-1) == wanted).all())


def cut_at(text: str, stops: Sequence[str]) -> str:
    """The text before the first stop string."""
    places = [place for stop in stops if stop and (place := text.find(stop)) >= 0]
    return text[: min(places)] if places else text


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
