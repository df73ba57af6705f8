from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import visionzip

SCRIPT = """
import random, sys, torch
before = torch.get_rng_state(), random.getstate(), torch.get_default_dtype(), torch.backends.cuda.matmul.allow_tf32
import visionzip
after = torch.get_rng_state(), random.getstate(), torch.get_default_dtype(), torch.backends.cuda.matmul.allow_tf32
assert torch.equal(before[0], after[0]) and before[1:] == after[1:]
heavy = {"transformers", "llava", "lmms_eval", "deepspeed", "accelerate", "PIL"} & set(sys.modules)
assert not heavy, heavy
"""


def test_importing_has_no_side_effects_and_needs_no_model_library() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stdout


def test_public_names_exist_and_types_are_shipped() -> None:
    assert all(hasattr(visionzip, name) for name in visionzip.__all__)
    assert (Path(visionzip.__file__).parent / "py.typed").exists()
