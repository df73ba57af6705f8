"""What a grid runs: a YAML file as frozen dataclasses, and the cells that follow from it."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args

import yaml

from llava.eval.judge.benchmarks import BENCHMARKS, JUDGED
from llava.eval.methods import METHODS, compressor_of, method_named, parse_budget
from visionzip import Budget, Order


@dataclass(frozen=True)
class Source:
    """A checkpoint. In the path of a tuned one, {total}, {dominant} and {contextual} stand for the budget."""

    path: str
    base: str | None = None

    def at(self, budget: Budget | None) -> "Source":
        """The checkpoint of one budget."""
        if budget is None:
            return self
        path = self.path.format(total=budget.total, dominant=budget.dominant, contextual=budget.contextual)
        return Source(path, self.base)


@dataclass(frozen=True)
class Generation:
    """How answers are made: greedy, so no sampling options. max_new_tokens: None as each benchmark's public script."""

    conv_mode: str = "vicuna_v1"
    max_new_tokens: int | None = None
    num_beams: int = 1


@dataclass(frozen=True)
class LmmsPart:
    """What lmms-eval adds to every cell: some tasks of a configs/eval/lmms_*.yaml."""

    config: str
    tasks: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """One row of the table: a method at a budget on a checkpoint."""

    method: str
    budget: Budget | None
    source: Source

    @property
    def name(self) -> str:
        """Folder name of its records."""
        return self.method if self.budget is None else f"{self.method}-{self.budget.total}"


@dataclass(frozen=True)
class GridConfig:
    """Keys of a configs/eval/*.yaml.

    data: the eval root in the public layout. work: where answers are kept between runs. tuned: the checkpoints of
    methods that come with weights. limit: first questions of each task only. published: the paper's table to show
    beside (configs/paper/*.yaml). lmms: what lmms-eval adds (`llava.eval.lmms_grid`). average_over: benchmarks of the
    average, default all. judge: who judges llavabench and mmvet; endpoint and key are in the environment.
    """

    name: str
    data: str
    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    model: Source
    budgets: tuple[Budget, ...] = ()
    tuned: Source | None = None
    generation: Generation = field(default_factory=Generation)
    batch_size: int = 1
    order: str = "official"
    limit: int | None = None
    work: str = "runs/eval"
    published: str | None = None
    lmms: LmmsPart | None = None
    average_over: tuple[str, ...] = ()
    judge: str | None = None

    def __post_init__(self) -> None:
        for what, chosen, known in (("task", self.tasks, BENCHMARKS), ("method", self.methods, METHODS)):
            unknown = [name for name in chosen if name not in known]
            if unknown or not chosen or len(set(chosen)) != len(chosen):
                raise ValueError(f"{what}s: expected names out of {', '.join(known)}, each once; got {list(chosen)}")
        judged = [name for name in self.tasks if name in JUDGED]
        if judged and self.judge is None:
            raise ValueError(
                f"judge: {', '.join(judged)} need the name of a judge (the published ones are in docs/evaluation.md)"
            )
        if judged and self.limit is not None:
            raise ValueError(f"limit: {', '.join(judged)} are judged whole; leave them or the limit out")
        if self.order not in get_args(Order):
            raise ValueError(f"order: expected one of {', '.join(get_args(Order))}; got {self.order!r}")
        hungry = [name for name in self.methods if method_named(name).config is not None]
        if hungry and not self.budgets:
            raise ValueError(f"budgets: methods {', '.join(hungry)} need at least one, got none")
        if any(method_named(name).tuned for name in self.methods) and self.tuned is None:
            raise ValueError("a tuned method needs the key 'tuned' with the path of its checkpoints")
        if len({budget.total for budget in self.budgets}) != len(self.budgets):
            raise ValueError(f"budgets: expected totals that differ, got {[budget.total for budget in self.budgets]}")
        self.cells()

    def cells(self) -> list[Cell]:
        """Dense first, then every budget with every method.

        Raises:
            ValueError: a budget no compressor takes.
        """
        made = []
        for budget in (None, *self.budgets):
            for name in self.methods:
                if (method_named(name).config is None) == (budget is None):
                    compressor_of(name, budget)
                    source = self.tuned if method_named(name).tuned and self.tuned is not None else self.model
                    made.append(Cell(name, budget, source.at(budget)))
        return made

    def some_cells(self, methods: Sequence[str], budgets: Sequence[int]) -> list[Cell]:
        """The cells of some methods and total budgets; nothing said means all. Dense belongs to every budget.

        Raises:
            ValueError: a method or budget the grid does not have.
        """
        totals = [budget.total for budget in self.budgets]
        self._require("method", methods, self.methods)
        self._require("budget", budgets, totals)
        return [
            cell
            for cell in self.cells()
            if (not methods or cell.method in methods)
            and (not budgets or cell.budget is None or cell.budget.total in budgets)
        ]

    def some_tasks(self, wanted: Sequence[str]) -> list[str]:
        """Some of the benchmarks run here, in the grid's order; nothing said means all. lmms-eval's are known too.

        Raises:
            ValueError: one the grid does not have.
        """
        self._require("task", wanted, (*self.tasks, *(self.lmms.tasks if self.lmms else ())))
        return [name for name in self.tasks if not wanted or name in wanted]

    def _require(self, what: str, wanted: Sequence[Any], known: Sequence[Any]) -> None:
        unknown = [value for value in wanted if value not in known]
        if unknown:
            raise ValueError(
                f"--{what} {unknown[0]} is not in the grid {self.name}; it has {', '.join(map(str, known))}"
            )


def read_config(path: str | Path) -> GridConfig:
    """A grid config from YAML.

    Raises:
        ValueError: no file, no YAML, an unknown, missing or mistyped key; file and key are named.
    """
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"{file}: expected a grid config, found nothing there")
    try:
        raw = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{file}: not YAML: {error}") from error
    try:
        keys = dict(_checked(raw, GridConfig, "the file"))
        keys["model"] = Source(**_checked(keys["model"], Source, "model"))
        if keys.get("tuned") is not None:
            keys["tuned"] = Source(**_checked(keys["tuned"], Source, "tuned"))
        if keys.get("lmms") is not None:
            part = _checked(keys["lmms"], LmmsPart, "lmms")
            keys["lmms"] = LmmsPart(str(part["config"]), tuple(_listed("lmms.tasks", part["tasks"])))
        keys["generation"] = Generation(**_checked(keys.get("generation") or {}, Generation, "generation"))
        for name in ("tasks", "methods", "budgets", "average_over"):
            values = _listed(name, keys.get(name, []))
            keys[name] = tuple(parse_budget(value) for value in values) if name == "budgets" else tuple(values)
        for name, value in keys.items():
            _check_plain(name, value)
        return GridConfig(**keys)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _listed(name: str, values: Any) -> list[Any]:
    if not isinstance(values, list):
        raise ValueError(f"{name}: expected a list, got {values!r}")
    return values


def _check_plain(name: str, value: Any) -> None:
    kinds: dict[str, type[int] | type[str]] = {
        "batch_size": int,
        "limit": int,
        "data": str,
        "name": str,
        "work": str,
        "order": str,
        "published": str,
        "judge": str,
    }
    kind = kinds.get(name)
    if kind is None or (value is None and name in ("limit", "published", "judge")):
        return
    if not isinstance(value, kind) or isinstance(value, bool) or (isinstance(value, int) and value < 1):
        raise ValueError(f"{name}: expected {'a whole number >= 1' if kind is int else 'a string'}, got {value!r}")


def _checked(raw: Any, cls: type, where: str) -> Mapping[str, Any]:
    """`raw` as keyword arguments of a dataclass."""
    if not isinstance(raw, Mapping):
        raise ValueError(f"{where}: expected keys and values, got {raw!r}")
    known = {item.name: item for item in fields(cls)}
    unknown = [key for key in raw if key not in known]
    if unknown:
        raise ValueError(f"{where}: unknown key {unknown[0]!r}; known: {', '.join(known)}")
    missing = [
        name
        for name, item in known.items()
        if item.default is MISSING and item.default_factory is MISSING and name not in raw
    ]
    if missing:
        raise ValueError(f"{where}: missing key {missing[0]!r}")
    return raw
