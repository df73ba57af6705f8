"""Nothing assigns to a class, to something imported, to a library switch, or swaps a forward."""

from __future__ import annotations

import pytest

from tests.architecture.rules import Source, assignment_violations, library


@pytest.mark.parametrize("source", library(), ids=lambda source: source.path)
def test_no_foreign_assignment(source: Source) -> None:
    found = assignment_violations(source)
    assert not found, "\n".join(["", *found])


BAD = [
    "from a import Layer\nLayer.forward = lambda self: 1",
    "from a import Layer\nLayer.scale = 2",
    "def f(layer):\n    layer.forward = 1",
    "def f(layer):\n    layer.__class__ = dict",
    "def f(layer):\n    layer.__class__.size = 1",
    "def f(layer):\n    type(layer).size = 1",
    "import torch\ntorch.backends.cuda.matmul.allow_tf32 = True",
    "import torch\ndef f():\n    torch.backends.cudnn.benchmark = True",
    "import torch.nn as nn\nnn.Linear.reset_parameters = None",
    "from a import templates\ntemplates['x'] = 1",
    "from a import counter\ncounter.n += 1",
    "from a import Layer\ndel Layer.forward",
    "class A:\n    pass\nA.x = 1",
    "class A:\n    @classmethod\n    def f(cls):\n        cls.x = 1",
    "from a import Layer\nsetattr(Layer, 'x', 1)",
    "import a\nsetattr(a.b, 'x', 1)",
    "def f(layer):\n    setattr(layer, 'forward', 1)",
    "def f(layer):\n    setattr(type(layer), 'x', 1)",
    "import os\nos.environ['X'] = '1'",
    "import os\ndef f():\n    os.environ.setdefault('X', '1')",
    "import torch\ntorch.set_default_dtype(torch.float16)",
    "import warnings\nwarnings.simplefilter('ignore')",
    "from a import Layer, x\n(Layer.y, z) = 1, 2",
    "globals()['x'] = 1",
    "from a import templates\ndef f():\n    templates['x'] = 1  # scoped: outside a context manager",
    "from a import templates\n@contextmanager\ndef f():\n    templates['x'] = 1",
]


@pytest.mark.parametrize("text", BAD)
def test_the_rule_catches(text: str) -> None:
    found = assignment_violations(Source("llava.x", "llava/x.py", text))
    assert len(found) == 1, found
    assert found[0].startswith("llava/x.py:")


GOOD = [
    "from a import templates\n@contextmanager\ndef f():\n    templates['x'] = 1  # scoped: gone below\n    yield",
    "class A:\n    x = 1\n    def __init__(self):\n        self.y = 2",
    "def f(tower, compressor):\n    tower.compressor = compressor",
    "def f(model):\n    model.config.mm_compressor = {}",
    "import config\ndef f(config):\n    config.x = 1",
    "table = {}\ntable['x'] = 1",
    "import os\nx = os.environ['X']",
    "def f(self, name, value):\n    setattr(self, name, value)",
    "from a import Layer\ndef f():\n    Layer = make()\n    Layer.x = 1",
    "class A:\n    def __post_init__(self):\n        object.__setattr__(self, 'x', 1)",
]


@pytest.mark.parametrize("text", GOOD)
def test_the_rule_allows(text: str) -> None:
    assert assignment_violations(Source("llava.x", "llava/x.py", text)) == []
