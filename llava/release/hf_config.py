"""config.json between LLaVA's layout and transformers' own.

What only LLaVA's layout says is kept in the export under `llava_layout`, and the compressor under `mm_compressor` where
our loader has it, too: plain transformers reads neither, and `from_hf` puts both back.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import LlavaConfig, LlavaNextConfig, PreTrainedConfig

from llava.anyres import parse_pinpoints
from llava.model.builder import MODELS
from llava.model.sources import VISION_KEY
from llava.release.names import FAMILIES

LAYOUT_KEY, TOWER_KEY, COMPRESSOR_KEY = "llava_layout", "llava_tower", "mm_compressor"
STRATEGIES = {"patch": "default", "cls_patch": "full"}
_SIZE = "image_grid_pinpoints"


def is_next(config: Mapping[str, Any], where: Path) -> bool:
    """Whether a LLaVA config means llava_next in transformers (else llava).

    Raises:
        ValueError: it means something neither of the two classes can do.
    """
    projector = config.get("mm_projector_type") or "linear"
    aspect, merge = config.get("image_aspect_ratio"), config.get("mm_patch_merge_type") or "flat"
    feature = config.get("mm_vision_select_feature") or "patch"
    problem = None
    if projector != "mlp2x_gelu":
        problem = f"mm_projector_type {projector!r}: transformers' projector is mlp2x_gelu"
    elif aspect == "anyres" and (merge, feature) == ("spatial_unpad", "patch"):
        return True
    elif aspect == "anyres":
        problem = f"anyres with mm_patch_merge_type {merge!r} and {feature!r}: llava_next knows spatial_unpad and patch"
    elif aspect not in {None, "square", "original", "pad"} or "unpad" in merge:
        problem = f"image_aspect_ratio {aspect!r} with mm_patch_merge_type {merge!r}"
    if problem:
        raise ValueError(f"{where / 'config.json'} cannot be exported to transformers' classes: {problem}")
    return False


def to_hf_config(
    values: Mapping[str, Any],
    family: str,
    vision: Any,
    next_layout: bool,
    tokens: Mapping[str, int | None],
) -> dict[str, Any]:
    """The exported config.json.

    Args:
        values: LLaVA's config.json as read.
        vision: the tower's CLIPVisionConfig.
        tokens: "rows" of the new embedding, "image" and "pad" ids.
    """
    text_class, _, _ = FAMILIES[family]
    config_class = MODELS[family][0]
    ours: Any = config_class.from_dict({**values, "model_type": config_class.model_type})
    known = text_class().to_dict()
    text = {key: value for key, value in ours.to_dict().items() if key in known and key != "architectures"}
    text |= {"model_type": text_class.model_type, "vocab_size": tokens["rows"], "pad_token_id": tokens["pad"]}
    keys: dict[str, Any] = {
        "text_config": text_class.from_dict(text),
        "vision_config": vision,
        "image_token_index": tokens["image"],
        "image_seq_length": (int(vision.image_size) // int(vision.patch_size)) ** 2,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": _select_layer(values),
        "vision_feature_select_strategy": STRATEGIES[values.get("mm_vision_select_feature") or "patch"],
        "tie_word_embeddings": bool(ours.tie_word_embeddings),
    }
    if next_layout:  # theirs are (height, width)
        keys[_SIZE] = [[height, width] for width, height in parse_pinpoints(values[_SIZE], int(vision.image_size))]
    config = (LlavaNextConfig if next_layout else LlavaConfig)(**keys)
    return _as_json(config, ours, values)


def from_hf_config(config: Mapping[str, Any], family: str, rows: int) -> dict[str, Any]:
    """LLaVA's config.json of an export, as it was; or of a folder somebody else made, told from its own words.

    Args:
        rows: of the embedding as it will be written.

    Raises:
        ValueError: features of several layers.
    """
    compressor = {COMPRESSOR_KEY: config[COMPRESSOR_KEY]} if config.get(COMPRESSOR_KEY) else {}
    if LAYOUT_KEY in config:
        return dict(config[LAYOUT_KEY]) | compressor
    config_class, (text_class, model_type, architecture) = MODELS[family][0], FAMILIES[family]
    theirs: Any = (LlavaNextConfig if config["model_type"] == "llava_next" else LlavaConfig).from_dict(dict(config))
    if not isinstance(theirs.vision_feature_layer, int):
        raise ValueError(f"vision_feature_layer {theirs.vision_feature_layer}: LLaVA's layout knows one layer only")
    text = {key: value for key, value in theirs.text_config.to_dict().items() if key in text_class().to_dict()}
    strategy = theirs.vision_feature_select_strategy
    vision = {
        "vocab_size": rows,
        "mm_hidden_size": theirs.vision_config.hidden_size,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": theirs.vision_feature_layer,
        "mm_vision_select_feature": next(ours for ours, name in STRATEGIES.items() if name == strategy),
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "use_mm_proj": True,
        "unfreeze_mm_vision_tower": False,
        "tie_word_embeddings": bool(theirs.tie_word_embeddings or theirs.text_config.tie_word_embeddings),
    }
    ours: Any = config_class.from_dict({**text, **vision, "model_type": config_class.model_type})
    written = {key: value for key, value in ours.to_diff_dict().items() if key not in {"dtype", "architectures"}}
    dtype = config.get("dtype") or config.get("torch_dtype") or config["text_config"].get("torch_dtype")
    named = {"model_type": model_type, "architectures": [architecture], "torch_dtype": dtype, VISION_KEY: None}
    return written | vision | _tiling(theirs) | named | compressor


def family_of_text(config: Mapping[str, Any], where: Path) -> str:
    """Family of an exported checkpoint's language model.

    Raises:
        ValueError: none of those LLaVA is built on here.
    """
    kind = (config.get("text_config") or {}).get("model_type", "llama")
    for family, (text_class, _, _) in FAMILIES.items():
        if kind == text_class.model_type:
            return family
    raise ValueError(f"{where / 'config.json'}: text_config is a {kind!r}; known: {', '.join(FAMILIES)}")


def _select_layer(values: Mapping[str, Any]) -> int:
    layer = values.get("mm_vision_select_layer")
    return -2 if layer is None else int(layer)


def _tiling(theirs: Any) -> dict[str, Any]:
    if theirs.model_type != "llava_next":
        # llava-hf's processors scale and crop; a processor that pads is told apart by from_hf.
        return {"image_aspect_ratio": None, "mm_patch_merge_type": "flat"}
    pinpoints = [[width, height] for height, width in theirs.image_grid_pinpoints]
    return {"image_aspect_ratio": "anyres", "mm_patch_merge_type": "spatial_unpad", _SIZE: pinpoints}


def _as_json(config: PreTrainedConfig, ours: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    written: dict[str, Any] = config.to_dict()
    written.pop("_name_or_path", None)
    public = ours.to_diff_dict()  # RoPE in the words of transformers 4, which reads exports as well
    text = written["text_config"]
    text |= {key: public[key] for key in ("rope_theta", "rope_scaling") if key in public}
    dtype = values.get("dtype") or values.get("torch_dtype")
    written["dtype"] = written["torch_dtype"] = dtype
    if values.get(COMPRESSOR_KEY):
        written[COMPRESSOR_KEY] = values[COMPRESSOR_KEY]
    written[LAYOUT_KEY] = {key: value for key, value in values.items() if key != COMPRESSOR_KEY}
    name = "LlavaNextForConditionalGeneration" if config.model_type == "llava_next" else "LlavaForConditionalGeneration"
    return written | {"architectures": [name]}
