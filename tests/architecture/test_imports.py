"""Who may import whom. The table is the design; a new folder needs a line here before it may exist."""

from __future__ import annotations

import pytest

from tests.architecture.rules import (
    BASE,
    TOPS,
    Imports,
    Source,
    foreign_import_violations,
    import_violations,
    library,
)

TYPES = ("visionzip.core", "visionzip.taps", "visionzip.registry")
FORMATS = (
    "torch",
    "transformers",
    "accelerate",
    "safetensors",
    "peft",
    "sentencepiece",
    "tokenizers",
    "huggingface_hub",
)

RULES = (
    # visionzip: token compression for any tower
    Imports(
        ("visionzip.core",),
        ours=("visionzip.kernels",),
        others=("torch",),
        why="the core is torch and the standard library",
    ),
    Imports(("visionzip.methods",), ours=("visionzip.core",), others=("torch",), why="pure methods"),
    Imports(
        ("visionzip.in_llm",),
        ours=("visionzip.core",),
        others=("torch", "transformers"),
        why="it runs the layers of transformers' decoders",
    ),
    Imports(("visionzip.kernels",), ours=(), others=("torch", "triton"), why="kernels are leaves"),
    Imports(
        ("visionzip.adapters",), ours=("visionzip.core", "visionzip.taps"), others=None, why="one host family per file"
    ),
    Imports(("visionzip.analysis",), ours=("visionzip",), others=None, why="analysis may plot"),
    Imports(("visionzip",), ours=("visionzip",), others=("torch",), why="visionzip never imports llava"),
    # llava: a level imports the levels before it
    Imports(
        BASE,
        ours=BASE,
        others=("torch", "PIL", "transformers", "numpy"),
        why="the text and image front end is below all",
    ),
    Imports(
        ("llava.model",), ours=(*BASE, *TYPES), others=FORMATS, why="it knows the types of compression, never a method"
    ),
    Imports(("llava.data",), ours=BASE, others=None, why="data never sees the model"),
    Imports(
        ("llava.train",),
        ours=(*BASE, "llava.model", "llava.data", "visionzip"),
        others=None,
        why="train uses model and data",
    ),
    Imports(
        ("llava.bench",),
        ours=(*BASE, "llava.model", "llava.train", "llava.data", "llava.eval.answerer", "visionzip"),
        others=None,
        why="what is measured is what trains and answers",
    ),
    Imports(("llava.cli",), ours=(*BASE, "llava.bench"), others=None, why="a front door to other commands"),
    Imports(
        ("llava.eval",),
        ours=(*BASE, "llava.model.builder", "llava.model.fast", "llava.model.placement", "visionzip"),
        others=None,
        why="programs reach the model through its builder, may answer by the fast path and say in which dtype",
    ),
    Imports(
        ("llava.serve",),
        ours=(*BASE, "llava.model.builder", "llava.model.session", "visionzip"),
        others=None,
        why="programs reach the model through its builder, and may hold a conversation with it",
    ),
    Imports(("llava.release",), ours=(*BASE, "llava.model"), others=None, why="release rewrites checkpoints"),
    Imports(
        ("llava.miniature",),
        ours=(*BASE, "llava.model", "llava.data", "visionzip"),
        others=None,
        why="nobody imports the tops",
    ),
    Imports(("llava",), ours=(), others=(), why="importing the package costs nothing", alone=True),
)

FOREIGN = (
    # package, the only files that may import it
    ("lmms_eval", ("llava/eval/lmms_plugin.py",)),
    ("deepspeed", ()),
    ("triton", ("visionzip/kernels/received_triton.py",)),
)


@pytest.mark.parametrize("source", library(), ids=lambda source: source.path)
def test_import_direction(source: Source) -> None:
    found = import_violations(source, RULES)
    for package, allowed in FOREIGN:
        found += foreign_import_violations(source, package, allowed)
    assert not found, "\n".join(["", *found])


def snippet(module: str, text: str) -> Source:
    return Source(module, module.replace(".", "/") + ".py", text)


BAD = [
    ("visionzip.attach", "from llava.model import builder", "llava.model.builder"),
    ("visionzip.attach", "import transformers", "transformers"),
    ("visionzip.core.select", "import numpy as np", "numpy"),
    ("visionzip.core.select", "from visionzip.taps import QKTap", "visionzip.taps.QKTap"),
    ("visionzip.core.select", "from ..methods import pool", "visionzip.methods.pool"),
    ("visionzip.core.select", "from ..taps import QKTap", "visionzip.taps.QKTap"),
    ("visionzip.methods.pool", "from visionzip.attach import attach", "visionzip.attach.attach"),
    ("visionzip.kernels.received", "from visionzip.core.types import VisionEvidence", "visionzip.core.types"),
    ("llava.mm_utils", "from llava.model.llava_arch import unpad_image", "llava.model.llava_arch"),
    ("llava.constants", "import datasets", "datasets"),
    ("llava.model.splice", "from visionzip import visionzip", "visionzip.visionzip"),
    (
        "llava.model.splice",
        "from visionzip.core.compressor import VisionZip\nfrom visionzip.methods import pool",
        "methods.pool",
    ),
    ("llava.model.builder", "def f():\n    from llava.train.save import save", "llava.train.save"),
    ("llava.data.dataset", "from llava.model.tokenizer import load_tokenizer", "llava.model.tokenizer"),
    ("llava.data.dataset", "import importlib\nimportlib.import_module('llava.model.builder')", "llava.model.builder"),
    ("llava.train.train", "from llava.eval.generate import generate", "llava.eval.generate"),
    ("llava.eval.generate", "from llava.model.llava_arch import LlavaMetaModel", "llava.model.llava_arch"),
    ("llava.eval.generate", "if TYPE_CHECKING:\n    from llava.miniature.world import Scene", "llava.miniature.world"),
    ("llava.serve.cli", "from llava.eval import generate", "llava.eval.generate"),
    ("llava.release.to_hf", "from llava.data.dataset import x", "llava.data.dataset"),
    ("visionzip.methods.pool", "import transformers", "transformers"),
    ("visionzip.in_llm.walk", "from llava.model.splice import left_padded", "llava.model.splice"),
    ("llava.miniature.base", "import llava.train.train", "llava.train.train"),
    ("llava", "import torch", "torch"),
    ("llava.newcomer.a", "import torch", "stands under no rule"),
    ("llava.newcomer", "import torch", "stands under no rule"),
]


@pytest.mark.parametrize(("module", "text", "named"), BAD, ids=[f"{m}: {t}" for m, t, _ in BAD])
def test_the_table_catches(module: str, text: str, named: str) -> None:
    found = import_violations(snippet(module, text), RULES)
    assert len(found) == 1, found
    assert named in found[0]
    assert found[0].startswith(f"{module.replace('.', '/')}.py:")


GOOD = [
    (
        "visionzip.core.select",
        "import math\nimport torch\nfrom torch import Tensor\nfrom visionzip.core.types import VisionTokens",
    ),
    ("visionzip.adapters.hf_llava", "import transformers\nfrom visionzip.core import types\nfrom .slot import attach"),
    (
        "llava.model.language_model.llava_llama",
        "from ..llava_arch import LlavaMetaModel\nfrom transformers import LlamaModel",
    ),
    ("llava.model.splice", "from visionzip.core.types import VisionTokens\nfrom visionzip.registry import from_config"),
    (
        "llava.eval.lmms_plugin",
        "from llava.model.builder import load_pretrained_model\nfrom visionzip import visionzip",
    ),
    (
        "llava.train.train",
        "from llava.data.dataset import x\nfrom llava.train.save import y\nfrom llava.constants import z",
    ),
]


@pytest.mark.parametrize(("module", "text"), GOOD, ids=[module for module, _ in GOOD])
def test_the_table_allows(module: str, text: str) -> None:
    assert import_violations(snippet(module, text), RULES) == []


def test_relative_imports_of_a_package_start_at_itself() -> None:
    source = Source("llava.model", "llava/model/__init__.py", "from ..train import save", is_package=True)
    assert "llava.train.save" in import_violations(source, RULES)[0]


@pytest.mark.parametrize("text", ["import deepspeed", "from deepspeed.ops import adam", "__import__('deepspeed')"])
def test_deepspeed_is_caught_everywhere(text: str) -> None:
    assert foreign_import_violations(snippet("llava.train.train", text), *FOREIGN[1])


def test_triton_is_caught_outside_its_file() -> None:
    text = "def f():\n    import triton.language as tl"
    assert foreign_import_violations(snippet("visionzip.kernels.received", text), *FOREIGN[2])
    assert not foreign_import_violations(snippet("visionzip.kernels.received_triton", text), *FOREIGN[2])


def test_lmms_eval_is_caught_outside_its_file() -> None:
    assert foreign_import_violations(snippet("llava.eval.report", "import lmms_eval.api"), *FOREIGN[0])
    assert not foreign_import_violations(snippet("llava.eval.lmms_plugin", "import lmms_eval.api"), *FOREIGN[0])


def test_every_top_has_a_line() -> None:
    """The folders nobody may import appear in no rule's list; but a training's speed is measured on the training."""
    for rule in RULES:
        if rule.scope in (("llava.bench",), ("llava.cli",)):
            continue
        assert not set(TOPS) & set(rule.ours or ()), f"{rule.scope} may import {set(TOPS) & set(rule.ours or ())}"
