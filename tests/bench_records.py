"""Records of `visionzip bench` made by hand, small and with round numbers, for tests of what shows them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

NEXT_7B, NEXT_13B = "llava-v1.6-vicuna-7b", "llava-v1.6-vicuna-13b"
GPU, CPU = "NVIDIA H200", "cpu (x86_64, 2 threads)"


def spread(median: float, n: int = 7) -> dict[str, float]:
    """5% to both sides."""
    return {"median": median, "p10": 0.95 * median, "p90": 1.05 * median, "n": n}


def base(kind: str, device: str, name: str = NEXT_7B, **subject: Any) -> dict[str, Any]:
    """What every record has."""
    known = {
        "name": name,
        "weights": "random",
        "bits": 16,
        "dtype": "bfloat16",
        "attention": "sdpa",
        "layers": 32,
        "width": 4096,
        "tower_layers": 24,
        "tower_width": 1024,
        "patches": 576,
        "merge": "spatial_unpad",
    }
    return {
        "kind": kind,
        "stamp": {"commit": "0123456789abcdef0123", "dirty": False, "device": device, "dtype": "bfloat16"},
        "settings": {"load": {"shape": f"liuhaotian/{name}"}, "new_tokens": 16},
        "subject": {**known, **subject},
        "ceilings": {"flops_per_s": 700e12, "bytes_per_s": 4e12, "how": "median of 11 products"},
    }


def case(
    method: str, budget: int | None, seconds: float, *, tokens: int, mean: float | None = None, path: str = "plain",
    dense: float = 0.2, stages: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """A row of a latency record: `seconds` to the first token, a fifth of it in the tower, a tenth projecting."""
    name = method if budget is None else f"{method}-{budget}"
    first = {"total": spread(seconds)}
    if stages:
        first |= {"vision": spread(seconds / 5), "project": spread(seconds / 10)}
        if method == "visionzip":
            first |= {"score": spread(seconds / 100), "merge": spread(seconds / 50)}
    work = {
        "vision": {"flops": 1e12, "bytes": 1e9, "seconds": 0.001, "bound": "compute"},
        "score": {"flops": 0.0, "bytes": 0.0, "seconds": 0.0, "bound": "compute"},
        "prefill": {"flops": 4e12, "bytes": 1e10, "seconds": 0.009, "bound": "memory"},
    }
    return {
        "case": name if path == "plain" else f"{name} {path}",
        "method": method,
        "path": path,
        "budget": None if budget is None else [budget - 4, 4],
        "visual_tokens": tokens,
        "visual_tokens_per_layer": tokens if mean is None else mean,
        "first": first,
        "answer": {"total": spread(2 * seconds)},
        "decode_step": spread(0.0125),
        "speedup_first": spread(dense / seconds),
        "speedup_answer": spread(0.8 * dense / seconds),
        "kv_bytes": tokens * 524288,
        "work": work,
        "flops_first": 5e12,
        "floor_first": 0.010,
        "times_floor_first": round(seconds / 0.010, 3),
        "times_floor_decode": 1.5,
    }


def encoder(device: str = GPU, name: str = NEXT_7B, **subject: Any) -> dict[str, Any]:
    """VisionZip takes 1.02 times the blocks' time and a tenth of the official style's memory, at one and five tiles."""
    rows = [
        {
            "way": way,
            "tiles": tiles,
            "seconds": {"total": spread(0.0345678 * ratio)},
            "times_the_blocks": spread(ratio),
            "times_official": spread(ratio / 2),
            "peak_bytes": peak,
        }
        for tiles in (1, 5)
        for way, ratio, peak in (
            ("blocks", 1.0, 40e6), ("hugging face", 1.1, 60e6), ("dense", 1.0, 40e6),
            ("visionzip", 1.02, 50e6), ("official", 2.0, 500e6),
        )
    ]  # fmt: skip
    return base("encoder", device, name, **subject) | {"budget": 32, "cases": rows}


def latency(device: str = GPU, name: str = NEXT_7B, **subject: Any) -> dict[str, Any]:
    """Dense takes 200 ms to the first token, VisionZip at 32 a tile 20 ms, FastV 80 ms."""
    return base("latency", device, name, **subject) | {
        "tiles": 5,
        "text_tokens": 60,
        "preprocess": spread(0.0555),
        "compared_with": "dense",
        "cases": [
            case("dense", None, 0.2, tokens=2880),
            case("visionzip", 32, 0.02, tokens=160),
            case("fastv", 32, 0.08, tokens=2880, mean=330.0),
            case("dense", None, 0.16, tokens=2880, path="fast", stages=False),
            case("visionzip", 32, 0.0144, tokens=160, path="fast", stages=False),
        ],
    }


def throughput(device: str = GPU, name: str = NEXT_7B) -> dict[str, Any]:
    """Dense 4 questions a second, VisionZip 20; eight together 5 and 20."""
    rows = [
        {
            "case": label,
            "batch": batch,
            "seconds_per_question": spread(seconds),
            "questions_per_second": round(1 / seconds, 4),
            "speedup": spread(dense / seconds),
        }
        for batch, dense in ((1, 0.25), (8, 0.2))
        for label, seconds in (("dense", dense), ("visionzip-32", 0.05))
    ]
    more = {"text_tokens": 60, "new_tokens": 2, "questions": 32, "workers": 4, "cases": rows}
    return base("throughput", device, name) | more


def memory(device: str = GPU, name: str = NEXT_7B, bits: int = 16) -> dict[str, Any]:
    """14 GB of weights; dense 3 GB and 1.5 GB more, VisionZip 0.4 GB and 84 MB."""
    rows = []
    for label, tokens, activations, cache in (("dense", 2880, 3e9, 1.5e9), ("visionzip-32", 160, 0.4e9, 84e6)):
        parts = {"weights": 14.1e9, "activations": activations, "cache": cache, "other": 0.1e9}
        peak = sum(parts.values())
        parts |= {"peak": peak, "steady": 14.2e9, "reserved": None if device == CPU else 20e9, "offloaded": 0}
        row = {f"{part}_bytes": count for part, count in parts.items()}
        rows.append({"case": label, "visual_tokens": tokens, "how": "counted so", **row})
    more = {"tiles": 5, "text_tokens": 60, "new_tokens": 32, "cases": rows}
    return base("memory", device, name, bits=bits) | more


def train(device: str = GPU) -> dict[str, Any]:
    rows = [
        {
            "case": label,
            "rows": 4,
            "text_tokens": 250,
            "seconds": spread(seconds),
            "speedup": spread(0.777 / seconds),
            "peak_bytes": peak,
        }
        for label, seconds, peak in (("dense", 0.777, 9e9), ("visionzip-32", 0.1554, 3e9))
    ]
    return base("train", device) | {"supervised": 100, "cases": rows}


def kernels(device: str = GPU) -> dict[str, Any]:
    """As llava.bench.received makes them; at 16384 patches the map does not fit and nothing says what is right."""
    rows: list[dict[str, Any]] = []
    for patches in (729, 16384):
        for way, share, peak, error in (
            ("materialised", 1.2, 1e8, 0.0),
            ("chunked", 1, 5e6, 2e-7),
            ("triton", 0.2, 1e6, 3e-6),
        ):
            row = {
                "way": way,
                "tiles": 1,
                "patches": patches,
                "heads": 16,
                "width": 72,
                "rounds": 7,
                "dtype": "bfloat16",
            }
            if way == "materialised" and patches == 16384:
                row["not_measured"] = "needs 48.00 GiB, and 30.00 GiB are allowed or free"
            else:
                row |= {"seconds": spread(0.0444 * share), "peak_bytes": peak}
                wrong = error if patches == 729 else None
                row |= {"max_error": wrong, "max_relative_error": wrong}
            rows.append(row)
    return base("kernels", device) | {"cases": rows}


def scaling(device: str = GPU) -> dict[str, Any]:
    curves = [
        {
            "over": over,
            "of": what,
            "sizes": [1, 2, 4, 8],
            "seconds": [spread(0.0777 * size**exponent) for size in (1, 2, 4, 8)],
            "exponent": exponent,
            "r2": 0.9981,
        }
        for over, what, exponent in (("tiles", "encode", 0.93), ("tokens", "prefill", 1.21), ("batch", "both", 0.77))
    ]
    return base("scaling", device) | {"curves": curves}


def write(folder: Path, record: dict[str, Any], name: str | None = None) -> Path:
    """The record as a suite writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name or record['subject']['name']}.{record['kind']}.json"
    file.write_text(json.dumps(copy.deepcopy(record)), encoding="utf-8")
    return file
