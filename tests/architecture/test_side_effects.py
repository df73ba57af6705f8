"""Importing changes nothing and pulls in nothing that was not asked for. Each case runs in a fresh interpreter."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec

import pytest

from tests.architecture.rules import ROOT, library

# Programs whose foreign host has side effects of its own when imported.
HOSTED = {"llava.eval.lmms_plugin"}
if find_spec("triton") is None:  # GPU kernels, which nothing imports there
    HOSTED.add("visionzip.kernels.received_triton")

# What importing our modules must leave as it was. The libraries are imported first, so that only ours is compared.
SNAPSHOT = """
import json, logging, os, random, sys, warnings
import numpy, torch, transformers
import torch.distributed, torch.utils.data
from PIL import Image, ImageFile

def snapshot():
    nn, backends = torch.nn, torch.backends
    classes = [nn.Module, nn.Linear, nn.LayerNorm, nn.Embedding, nn.Conv2d, torch.Tensor, transformers.CLIPVisionModel,
               transformers.LlamaForCausalLM, transformers.PreTrainedModel, transformers.Trainer, Image.Image]
    return {
        "environment": dict(os.environ),
        "default dtype": str(torch.get_default_dtype()),
        "threads": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
        "matmul": [backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32, backends.cudnn.benchmark],
        "random states": [hash(random.getstate()), str(numpy.random.get_state()), torch.get_rng_state().sum().item()],
        "warning filters": [str(f) for f in warnings.filters],
        "root log handlers": [str(h) for h in logging.getLogger().handlers],
        "root log level": logging.getLogger().level,
        "transformers log level": transformers.utils.logging.get_verbosity(),
        "pixel limits": [Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES],
        "classes": {c.__qualname__: {k: id(v) for k, v in vars(c).items()} for c in classes},
        "path": list(sys.path),
    }
"""


def fresh(program: str) -> str:
    """Standard output of `program` in a new interpreter at the repository root."""
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.parametrize(
    ("package", "absent"),
    [
        ("visionzip", ("llava", "triton", "transformers", "lmms_eval", "deepspeed", "accelerate", "matplotlib", "PIL")),
        ("llava", ("torch", "transformers", "visionzip", "numpy", "PIL")),
        ("llava.constants", ("torch", "transformers", "visionzip", "numpy", "PIL")),
        ("llava.conversation", ("transformers", "visionzip", "lmms_eval", "deepspeed")),
        ("llava.model.builder", ("lmms_eval", "deepspeed", "gradio", "wandb", "matplotlib")),
        ("llava.bench.command", ("torch", "transformers", "visionzip")),
    ],
)
def test_import_stays_light(package: str, absent: tuple[str, ...]) -> None:
    if package not in {source.module for source in library()}:
        pytest.skip(f"{package} does not exist yet")
    program = f"import sys, json, {package}; print(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    loaded = set(json.loads(fresh(program).splitlines()[-1]))
    assert not loaded & set(absent), f"import {package} loads {sorted(loaded & set(absent))}"


PROBES = {
    "environment": "os.environ['X_OF_A_TEST'] = '1'",
    "classes": "torch.nn.Linear.reset_parameters = None",
    "default dtype": "torch.set_default_dtype(torch.float16)",
    "warning filters": "warnings.simplefilter('ignore')",
    "random states": "torch.manual_seed(3)",
    "root log handlers": "logging.basicConfig()",
}


def test_importing_everything_changes_nothing() -> None:
    """Import all our modules and compare; then change a few things on purpose and see that the comparison notices."""
    modules = [source.module for source in library() if source.module not in HOSTED]
    imports = "\n".join(f"import {module}" for module in modules)
    probes = "\n".join(PROBES.values())
    compare = "print(json.dumps({k: [before[k], after[k]] for k in before if before[k] != after[k]}, default=str))"
    program = "\n".join([
        SNAPSHOT,
        "before = snapshot()",
        imports,
        "after = snapshot()",
        compare,
        probes,
        "before, after = after, snapshot()",
        compare,
    ])
    ours, probed = (json.loads(line) for line in fresh(program).splitlines()[-2:])
    assert ours == {}, f"importing our modules changed {ours}"
    assert set(probed) == set(PROBES)
