"""From the command line and YAML files to the three argument groups.

`--config file.yaml` gives defaults, flags win, and of several files the later wins. Every YAML key is an option's name;
an unknown one is an error that names key, file and the nearest option. Words of older transformers versions are
translated here, once, with a log line, so that public LLaVA scripts run as they are.
"""

import argparse
import dataclasses
import difflib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
import yaml
from transformers import HfArgumentParser

from llava.train.arguments import IGNORED_OPTIONS, DataArguments, ModelArguments, TrainingArguments

logger = logging.getLogger(__name__)

# What was typed, in order: option name (underscores) and the words that follow it.
Flags = list[tuple[str, list[str]]]

GROUPS = (ModelArguments, DataArguments, TrainingArguments)
OPTIONS = frozenset(item.name for group in GROUPS for item in dataclasses.fields(group) if item.init)
NEGATED = frozenset(f"no_{name}" for name in OPTIONS)

# Options of older transformers versions that have a successor taking the same values.
RENAMED = {
    "evaluation_strategy": "eval_strategy",
    "warmup_ratio": "warmup_steps",  # below 1 it is a share of all steps
    "no_cuda": "use_cpu",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
}
GROUP_BY_LENGTH = "group_by_length"
# Options that are gone, and what holds today.
DROPPED = {
    "overwrite_output_dir": "a complete checkpoint in output_dir is resumed from, nothing is overwritten",
    "save_safetensors": "weights are always saved as safetensors",
    "logging_dir": "set the variable TENSORBOARD_LOGGING_DIR instead",
    "half_precision_backend": "mixed precision is always torch's own",
}

DESCRIPTION = "Train LLaVA, with or without VisionZip."
EXAMPLE = """example: tune the projector of LLaVA-1.5-7B under VisionZip, 64 tokens per image
  python -m llava.train.train --config configs/train/zip_tune_v1_5_7b.yaml --output_dir checkpoints/zip-tune-7b

several processes
  bash scripts/train/zip_tune.sh configs/train/zip_tune_v1_5_7b.yaml --output_dir checkpoints/zip-tune-7b"""


class _Parser(HfArgumentParser):  # type: ignore[misc]
    """Raises ValueError on bad usage instead of printing a page of usage and exiting."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def parse_args(argv: Sequence[str]) -> tuple[ModelArguments, DataArguments, TrainingArguments]:
    """Parse a command line (without the program's name).

    Raises:
        ValueError: an unknown flag or YAML key (with the nearest known one), a bad value, an unreadable file.
    """
    typed = _split(argv)
    recipe: Flags = []
    for file in (file for name, files in typed if name == "config" for file in files):
        recipe += _read_yaml(file)
    flags = _translate(recipe, level=logging.DEBUG)  # nobody typed those just now
    flags += _translate([(name, values) for name, values in typed if name != "config"], level=logging.INFO)
    for name, _ in flags:
        if name not in OPTIONS | NEGATED:
            raise ValueError(f"unknown flag --{name}{_nearest(name)}")
        if name in IGNORED_OPTIONS:
            logger.warning("--%s is ignored: %s", name, IGNORED_OPTIONS[name])
    flags += _for_this_machine(flags)
    words = [word for name, values in flags for word in (f"--{name}", *values)]
    groups = _parser().parse_args_into_dataclasses(words, look_for_args_file=False)
    return groups[0], groups[1], groups[2]


def _parser() -> _Parser:
    parser = _Parser(
        GROUPS,
        prog="python -m llava.train.train",
        description=DESCRIPTION,
        epilog=EXAMPLE,
        usage="%(prog)s --config FILE --output_dir DIR [--option value ...]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file of options; may be given twice; flags win over it")
    return parser


def _split(argv: Sequence[str]) -> Flags:
    """Words to flags. `--help` prints the options and exits."""
    if {"-h", "--help"} & set(argv):
        _parser().parse_args(["--help"])
    flags: Flags = []
    for word in argv:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            flags.append((name.replace("-", "_"), [value] if equals else []))
        elif not flags:
            raise ValueError(f"expected --flag value pairs, got {word!r} first; a YAML file goes behind --config")
        else:
            flags[-1][1].append(word)
    return flags


def _read_yaml(file: str) -> Flags:
    """A YAML file as flags, so that its values are read exactly as typed ones are (2e-5 is a number here)."""
    path = Path(file)
    if not path.is_file():
        raise ValueError(f"--config {file}: no such file")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file}: expected 'option: value' lines, got {type(content).__name__}")
    for key in content:
        if key not in OPTIONS and key not in RENAMED and key not in DROPPED and key != GROUP_BY_LENGTH:
            raise ValueError(f"{file}: unknown key {key!r}{_nearest(str(key))}")
    return [(key, [_as_text(value)]) for key, value in content.items() if value is not None]


def _as_text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, (dict, list)) else str(value)


def _nearest(name: str) -> str:
    close = difflib.get_close_matches(name, OPTIONS, n=1)
    return f"; did you mean {close[0]!r}?" if close else "; see python -m llava.train.train --help"


def _translate(flags: Flags, level: int) -> Flags:
    """Words of older transformers versions in today's, with a line in the log at `level` for each."""
    result: Flags = []
    for name, values in flags:
        if name in DROPPED:
            logger.warning("--%s is ignored: %s", name, DROPPED[name])
        elif name in RENAMED:
            logger.log(level, "--%s is called --%s by transformers 5", name, RENAMED[name])
            result.append((RENAMED[name], values))
        elif name == GROUP_BY_LENGTH:
            logger.log(level, "--%s is called --train_sampling_strategy by transformers 5", name)
            result.append(("train_sampling_strategy", [GROUP_BY_LENGTH if _is_true(values) else "random"]))
        else:
            result.append((name, values))
    return result


def _for_this_machine(flags: Flags) -> Flags:
    """What the same options need here: the CPU where there is no GPU, no DeepSpeed in a lone process.

    Raises:
        ValueError: --use_cpu False on a machine without a GPU.
    """
    given = dict(flags)
    extra: Flags = []
    on_cpu = "use_cpu" in given and _is_true(given["use_cpu"])
    if not on_cpu and not torch.accelerator.is_available():
        if "use_cpu" in given:
            raise ValueError("--use_cpu False asks for a GPU, but torch finds none; leave it out to train on the CPU")
        logger.warning("no GPU found: training on the CPU")
        extra.append(("use_cpu", ["True"]))
        on_cpu = True
    if on_cpu and "tf32" in given:
        extra.append(("tf32", ["False"]))
    alone = "WORLD_SIZE" not in os.environ
    if alone and not on_cpu and torch.accelerator.device_count() > 1:
        raise ValueError(
            f"one process sees {torch.accelerator.device_count()} GPUs; start with scripts/train/*.sh, one process per "
            "GPU, or show it one GPU (CUDA_VISIBLE_DEVICES=0)"
        )
    if any(given.get("deepspeed", [])) and alone:
        logger.warning(
            "one plain process, so without DeepSpeed (%s); NUM_PROCESSES=2 with scripts/train/*.sh starts it",
            given["deepspeed"][0],
        )
        extra.append(("deepspeed", [""]))
    order = [name for name, _ in flags if name in ("global_batch_size", "gradient_accumulation_steps")]
    if order and order[-1] == "global_batch_size":  # else the accumulation was given later, and wins
        extra.append(("gradient_accumulation_steps", [str(_accumulation(given))]))
    return extra


def _accumulation(given: dict[str, list[str]]) -> int:
    """Accumulation steps that make up the global batch.

    Raises:
        ValueError: the global batch is not a multiple of what all processes take at once.
    """
    wanted = int(given["global_batch_size"][-1])
    micro = int(given.get("per_device_train_batch_size", ["8"])[-1])
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if wanted < 1 or wanted % (micro * processes):
        raise ValueError(
            f"global_batch_size {wanted} is not a multiple of {processes} processes times per_device_train_batch_size "
            f"{micro}; change one of them"
        )
    return wanted // (micro * processes)


def _is_true(values: list[str]) -> bool:
    return not values or values[-1].lower() not in ("false", "no", "n", "f", "0")
