"""README.md of a release, in the hub's format: front matter, use, recipe, measured results, limits.

Figures come from run.json, config.json and evaluation records only; what is not recorded is not said.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from llava.model.checkpoint import ADAPTER_CONFIG, PROJECTOR_FILE
from llava.model.sources import VISION_KEY
from llava.model.weight_files import find_weights, read_json
from llava.release.folders import CARD, CONFIG, read_run
from llava.release.hf_config import COMPRESSOR_KEY, LAYOUT_KEY
from llava.release.hub_names import require_hub_id
from llava.release.manifest import recorded_base
from llava.release.names import is_hf_layout
from llava.release.results import Results, read_results, render_results
from llava.utils import atomic_path

LIBRARY = "llava-visionzip"
_RECIPE = (
    ("num_train_epochs", "epochs"),
    ("learning_rate", "learning rate"),
    ("mm_projector_lr", "learning rate of the projector"),
    ("per_device_train_batch_size", "rows per device and step"),
    ("gradient_accumulation_steps", "accumulated steps"),
    ("lr_scheduler_type", "schedule"),
    ("warmup_steps", "warm-up, share of the steps if below 1"),
    ("weight_decay", "weight decay"),
    ("model_max_length", "longest row in tokens"),
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
        base_model: hub id of the base; default: as recorded in run.json, where that is one.
        datasets: hub ids for the front matter.
        results: folder of evaluation records.

    Raises:
        ValueError: neither given nor recorded: licence or base model; base model or vision tower is a place of this
            machine; broken records, or none of these weights.
    """
    config, run = read_json(folder / CONFIG), read_run(folder)
    base = base_model or recorded_base(run)
    if not base:
        raise ValueError(f"{folder} has no run.json that names its base: pass --base-model")
    require_hub_id(base, "the base model", "pass --base-model (BASE_MODEL=owner/name with scripts/release/publish.sh)")
    require_named_tower(folder, config)
    licence = licence or _licence_of(recorded_base(run) or base)
    if not licence:
        raise ValueError(f"the licence of {base} is not known here: pass --license as the hub names it, e.g. llama2")
    front = _front(folder, config, licence, base, datasets)
    measured = None if results is None else read_results(results, folder)
    parts = (
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---",
        f"# {repo.split('/')[-1]}",
        _summary(config, run, base),
        _usage(folder, config, repo, base),
        _recipe(run),
        _results(measured),
        _limits(config, measured),
    )
    with atomic_path(folder / CARD) as temporary:
        temporary.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")
    return folder / CARD


def require_named_tower(folder: Path, config: Mapping[str, Any]) -> None:
    """Raises: ValueError where the vision tower the release needs is named by a place of this machine."""
    tower = (config.get(LAYOUT_KEY) or config).get(VISION_KEY)
    if tower:
        where = f"{VISION_KEY} in {folder / CONFIG}"
        require_hub_id(str(tower), where, "merge again with --tower (TOWER=owner/name with scripts/release/publish.sh)")


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
    budget = _budget(config)
    code = (
        "from llava.model.builder import load_pretrained_model\n"
        + ("from visionzip import visionzip\n" if budget else "")
        + f'\ntokenizer, model, image_processor, context_length = load_pretrained_model("{repo}", {needed}, None)\n'
    )
    if budget:
        code += (
            "# This release's budget per image tile, CLS counted among the dominant; other numbers change it:\n"
            f"model = visionzip(model, dominant={budget[0]}, contextual={budget[1]})\n"
        )
    applied = " The compressor in config.json is applied on loading." if config.get(COMPRESSOR_KEY) else ""
    return f"## Use\n\nWith the package LLaVA-VisionZip.{applied}\n\n```python\n{code}```"


def _budget(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """(dominant, contextual) of a release compressed by VisionZip."""
    compressor = config.get(COMPRESSOR_KEY) or {}
    return (compressor["dominant"], compressor["contextual"]) if compressor.get("method") == "visionzip" else None


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
    rows += [("LoRA rank", training.get("lora_r") if training.get("lora_enable") else None)]
    cached, packed = (arguments.get("data") or {}).get("feature_cache"), training.get("pack_sequences")
    rows += [("features of the images", "computed once, then read from a cache" if cached else None)]
    rows += [("packing", "several rows in one sequence" if packed else None)]
    stamp = run.get("stamp") or {}
    rows += [("precision", stamp.get("dtype")), ("processes", stamp.get("processes")), ("device", stamp.get("device"))]
    rows += [("commit", stamp.get("commit"))]
    lines = [f"| {name} | {value} |" for name, value in rows if value is not None]
    return "\n".join(["## Training", "", "| | |", "| --- | --- |", *lines, "", "All arguments are in run.json."])


def _results(measured: Results | None) -> str:
    if measured is None:
        return "## Results\n\nNot measured."
    rows = measured.rows
    counts = {task: values["n"] for row in rows for task, values in row["tasks"].items()}
    asked = ", ".join(f"{task} {count}" for task, count in counts.items())
    places = sorted({f"`{commit}`" for row in rows for commit in row["commits"]})
    text = (
        f"## Results\n\n{render_results(rows)}\nMeasured on these weights (told by sha256), by the official rules of "
        f"the benchmarks; questions asked: {asked}. *Visual tokens*: mean per image, counted at the language model's "
        f"input. Measured at commit {', '.join(places) or 'unknown'}."
    )
    if any(row["of_base"] for row in rows):
        text += " *(base)*: the model this was made from, uncompressed, for comparison."
    if measured.left_out:
        reasons = ", ".join(f"{count} {reason}" for reason, count in measured.left_out.items())
        total = sum(measured.left_out.values())
        text += f" Left out: {total} record{'s' * (total > 1)} of the same folder ({reasons})."
    return text


def _limits(config: Mapping[str, Any], measured: Results | None) -> str:
    lines = [
        "Answers can be wrong and name things that are not in the picture; do not rely on them where that does harm.",
        "What the base model's licence forbids is forbidden here, too.",
        "Nothing but the tasks of the table was measured." if measured else "No benchmark figure is claimed.",
    ]
    if config.get(COMPRESSOR_KEY):
        lines.append("Fewer visual tokens carry less of a picture.")
    return "\n".join(["## Limits", "", *(f"- {line}" for line in lines)])
