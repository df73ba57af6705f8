"""README.md of a release, in the hub's format: front matter, use, recipe, measured results, limits.

Figures come from run.json, config.json and evaluation records only; what is not recorded is not said.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from llava.model.checkpoint import ADAPTER_CONFIG, PROJECTOR_FILE
from llava.model.sources import VISION_KEY
from llava.model.weight_files import atomic_path, find_weights, read_json
from llava.release.folders import CARD, CONFIG, read_run
from llava.release.hf_config import COMPRESSOR_KEY, LAYOUT_KEY
from llava.release.manifest import recorded_base
from llava.release.names import is_hf_layout
from llava.release.results import read_results, render_results

LIBRARY = "llava-visionzip"
_RECIPE = (
    ("num_train_epochs", "epochs"),
    ("learning_rate", "learning rate"),
    ("mm_projector_lr", "learning rate of the projector"),
    ("per_device_train_batch_size", "rows per device and step"),
    ("gradient_accumulation_steps", "accumulated steps"),
    ("lr_scheduler_type", "schedule"),
    ("warmup_ratio", "warm-up share"),
    ("weight_decay", "weight decay"),
    ("model_max_length", "longest row in tokens"),
    ("lora_r", "LoRA rank"),
    ("seed", "seed"),
)


def write_card(
    folder: Path,
    repo: str,
    licence: str | None = None,
    base_model: str | None = None,
    datasets: Sequence[str] = (),
    results: Path | None = None,
) -> Path:
    """Write the README.md of a release folder.

    Args:
        repo: owner/name it will have on the hub.
        licence: of the base model, as the hub names it; default: from the README.md of the base recorded in run.json,
            where that is a local folder.
        base_model: hub id of the base; default: as recorded in run.json.
        datasets: hub ids for the front matter.
        results: folder of evaluation records.

    Raises:
        ValueError: neither given nor recorded: licence or base model; broken records.
    """
    config, run = read_json(folder / CONFIG), read_run(folder)
    base = base_model or recorded_base(run)
    if not base:
        raise ValueError(f"{folder} has no run.json that names its base: pass --base-model")
    licence = licence or _licence_of(base)
    if not licence:
        raise ValueError(f"the licence of {base} is not known here: pass --license as the hub names it, e.g. llama2")
    front = _front(folder, config, licence, base, datasets)
    rows = [] if results is None else read_results(results)
    parts = (
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---",
        f"# {repo.split('/')[-1]}",
        _summary(config, run, base),
        _usage(folder, config, repo, base),
        _recipe(run),
        _results(rows),
        _limits(config, rows),
    )
    with atomic_path(folder / CARD) as temporary:
        temporary.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")
    return folder / CARD


def _licence_of(base: str) -> str | None:
    """`license` in the front matter of a local base's README.md."""
    path = Path(base) / CARD
    parts = path.read_text(encoding="utf-8").split("---\n", 2) if path.is_file() else []
    front = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0] else None
    return str(front["license"]) if isinstance(front, dict) and front.get("license") else None


def _front(folder: Path, config: Mapping[str, Any], licence: str, base: str, datasets: Sequence[str]) -> dict[str, Any]:
    front: dict[str, Any] = {
        "license": licence,
        "base_model": base,
        "pipeline_tag": "image-text-to-text",
        "library_name": "transformers" if is_hf_layout(config) else LIBRARY,
        "tags": ["llava", "vision-language-model", *(["visionzip"] if config.get(COMPRESSOR_KEY) else [])],
    }
    if (folder / ADAPTER_CONFIG).is_file():
        front["base_model_relation"] = "adapter"
    return front | ({"datasets": list(datasets)} if datasets else {})


def _summary(config: Mapping[str, Any], run: Mapping[str, Any], base: str) -> str:
    inner = config.get(LAYOUT_KEY) or config
    trained = f", trained parts: {', '.join(run['trained_parts'])}" if run.get("trained_parts") else ""
    lines = [f"A LLaVA model made from `{base}`{trained}. Vision tower: `{inner.get(VISION_KEY)}`."]
    compressor = config.get(COMPRESSOR_KEY)
    if compressor:
        said = ", ".join(f"{key} {value}" for key, value in compressor.items() if key != "method")
        lines.append(f"Its visual tokens are compressed by **{compressor.get('method')}** ({said}) per image tile.")
    return " ".join(lines)


def _usage(folder: Path, config: Mapping[str, Any], repo: str, base: str) -> str:
    if is_hf_layout(config):
        code = (
            "from transformers import AutoModelForImageTextToText, AutoProcessor\n\n"
            f'processor = AutoProcessor.from_pretrained("{repo}")\n'
            f'model = AutoModelForImageTextToText.from_pretrained("{repo}", dtype="auto")\n'
        )
        note = (
            "\nPlain transformers shows the model all visual tokens. To compress them as the config says, convert the "
            f"folder back with `python -m llava.release from-hf {repo} --out FOLDER` and load that.\n"
            if config.get(COMPRESSOR_KEY)
            else ""
        )
        return f"## Use\n\n```python\n{code}```\n{note}".rstrip()
    alone = (folder / ADAPTER_CONFIG).is_file() or (
        (folder / PROJECTOR_FILE).is_file() and find_weights(folder) is None
    )
    needed = f'"{base}"' if alone else "None"
    code = (
        "from llava.model.builder import load_pretrained_model\n"
        "from visionzip import visionzip\n\n"
        f'tokenizer, model, image_processor, context_length = load_pretrained_model("{repo}", {needed}, None)\n'
    )
    other = "# another budget of visual tokens per tile, CLS counted among the dominant ones:\n"
    code += f"{other}model = visionzip(model, dominant=54, contextual=10)\n"
    applied = " The compressor in config.json is applied on loading." if config.get(COMPRESSOR_KEY) else ""
    return f"## Use\n\nWith the package LLaVA-VisionZip.{applied}\n\n```python\n{code}```"


def _recipe(run: Mapping[str, Any]) -> str:
    if not run:
        return "## Training\n\nNo record of the training lies beside the weights."
    arguments, data = run.get("arguments") or {}, run.get("data") or {}
    training = arguments.get("training") or {}
    rows = [("stage", run.get("stage")), ("data", data.get("path")), ("data sha256", data.get("sha256"))]
    rows += [("rows", data.get("rows")), ("rows with images", data.get("rows_with_images"))]
    if data.get("subset"):
        rows += [("subset manifest sha256", data["subset"].get("manifest_sha256"))]
    rows += [("steps", (run.get("result") or {}).get("steps"))]
    rows += [(title, training.get(key)) for key, title in _RECIPE]
    stamp = run.get("stamp") or {}
    rows += [("precision", stamp.get("dtype")), ("processes", stamp.get("processes")), ("device", stamp.get("device"))]
    rows += [("commit", stamp.get("commit"))]
    lines = [f"| {name} | {value} |" for name, value in rows if value is not None]
    return "\n".join(["## Training", "", "| | |", "| --- | --- |", *lines, "", "All arguments are in run.json."])


def _results(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "## Results\n\nNot measured."
    counts = {task: values["n"] for row in rows for task, values in row["tasks"].items()}
    asked = ", ".join(f"{task} {count}" for task, count in counts.items())
    places = sorted({f"`{row['commit']}`" for row in rows if row["commit"]})
    return (
        f"## Results\n\n{render_results(rows)}\nAccuracy in percent by the official rules of the benchmarks; questions "
        f"asked: {asked}. *Visual tokens*: mean per image, counted at the language model's input. Measured at commit "
        f"{', '.join(places) or 'unknown'}."
    )


def _limits(config: Mapping[str, Any], rows: list[dict[str, Any]]) -> str:
    lines = [
        "Answers can be wrong and name things that are not in the picture; do not rely on them where that does harm.",
        "What the base model's licence forbids is forbidden here, too.",
        "Nothing but the tasks of the table was measured." if rows else "No benchmark figure is claimed.",
    ]
    if config.get(COMPRESSOR_KEY):
        lines.append("Fewer visual tokens carry less of a picture.")
    return "\n".join(["## Limits", "", *(f"- {line}" for line in lines)])
