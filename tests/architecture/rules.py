"""The rules of the house as functions of source text: each takes a file and returns what in it breaks the rule.

Nothing here imports the packages under test; files are read as syntax trees. A finding is "path:line: what and why".
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("visionzip", "llava")
STDLIB = "the standard library"
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60


@dataclass(frozen=True)
class Source:
    """One Python file: its dotted module name, where it is, and its text."""

    module: str
    path: str
    text: str
    is_package: bool = False

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, filename=self.path)

    def finding(self, node: ast.AST | int, message: str) -> str:
        line = node if isinstance(node, int) else getattr(node, "lineno", 1)
        return f"{self.path}:{line}: {message}"


def library() -> list[Source]:
    """Every module of the two packages."""
    sources = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            module = ".".join(parts[:-1] if is_package else parts)
            sources.append(Source(module, path.relative_to(ROOT).as_posix(), path.read_text("utf-8"), is_package))
    return sources


def within(name: str, prefixes: Sequence[str]) -> bool:
    """True if the dotted `name` is one of `prefixes` or below one of them."""
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


# ---------------------------------------------------------------------------------------------- import direction


@dataclass(frozen=True)
class Imports:
    """What the modules at and below `scope` may import.

    `ours` lists the parts of our own two packages they may use beside their own scope, `others` the foreign packages;
    None leaves that side free. The first rule that matches a module is the one that counts. With `alone` the rule is
    for the modules named in `scope` only, not for what is below them.
    """

    scope: tuple[str, ...]
    ours: tuple[str, ...] | None
    others: tuple[str, ...] | None
    why: str
    alone: bool = False

    def covers(self, module: str) -> bool:
        return module in self.scope if self.alone else within(module, self.scope)


BASE = (
    "llava.constants",
    "llava.conversation",
    "llava.anyres",
    "llava.encoded",
    "llava.mm_utils",
    "llava.options",
    "llava.provenance",
    "llava.utils",
)
TOPS = ("llava.train", "llava.eval", "llava.bench", "llava.release", "llava.serve", "llava.miniature")


def imported_names(source: Source) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import, wherever it stands: in a function, under TYPE_CHECKING, by import_module.

    `from a import b` yields "a.b": b may be a module, and a rule that allows "a" allows what is below it.
    """
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = source.module.split(".")
                parts = parts[: len(parts) - node.level + source.is_package]
                base = ".".join([*parts, base] if base else parts)
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.lineno, node.args[0].value


def import_violations(source: Source, rules: Sequence[Imports]) -> list[str]:
    """Imports of `source` that the first rule matching its module does not allow."""
    rule = next((r for r in rules if r.covers(source.module)), None)
    if rule is None:
        return [
            source.finding(1, f"{source.module} stands under no rule; add one to tests/architecture/test_imports.py")
        ]
    found = []
    for line, name in imported_names(source):
        top = name.split(".")[0]
        if top in PACKAGES:
            own = next(scope for scope in rule.scope if within(source.module, (scope,)))
            if rule.ours is not None and not within(name, (*rule.ours, own)):
                allowed = ", ".join((*rule.ours, own))
                found.append(source.finding(line, f"imports {name}; of our own code only {allowed} ({rule.why})"))
        elif top not in sys.stdlib_module_names and rule.others is not None and not within(name, rule.others):
            allowed = ", ".join((STDLIB, *rule.others))
            found.append(source.finding(line, f"imports {name}; of other packages only {allowed} ({rule.why})"))
    return found


def foreign_import_violations(source: Source, package: str, allowed: Sequence[str]) -> list[str]:
    """Imports of the foreign `package` outside the files named in `allowed`."""
    where = f"only in {', '.join(allowed)}" if allowed else "nowhere"
    return [
        source.finding(line, f"imports {name}; {package} is imported {where}")
        for line, name in imported_names(source)
        if within(name, (package,)) and source.path not in allowed
    ]


# ---------------------------------------------------------------------------------------------- foreign assignment


def _root(node: ast.expr) -> str | None:
    """The name an attribute or item chain starts from: `a.b[0].c` -> "a"."""
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def _passes_class(node: ast.expr) -> bool:
    """True if the chain goes through `type(x)` or `.__class__`, that is, ends on a class."""
    while isinstance(node, ast.Attribute | ast.Subscript):
        if isinstance(node, ast.Attribute) and node.attr == "__class__":
            return True
        node = node.value
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "type"


def _bound_in(function: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> set[str]:
    """Names that are local to a function: its arguments and all it assigns, minus what it declares global."""
    arguments = function.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    names = {a.arg for a in every if a is not None}
    outer: set[str] = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Global | ast.Nonlocal):
            outer.update(node.names)
    return names - outer


class _Assignments(ast.NodeVisitor):
    """Collect assignments whose target is not ours to change: imported things, classes, forwards, library switches."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.found: list[str] = []
        self.locals: list[set[str]] = []
        tree = source.tree
        self.imported = {
            (alias.asname or alias.name).split(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        self.classes = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)} | {"cls"}
        self.visit(tree)

    def _foreign(self, name: str | None) -> str | None:
        if name == "cls":
            return "a class"
        if name is None or any(name in scope for scope in self.locals):
            return None
        if name in self.imported:
            return "something imported"
        return "a class" if name in self.classes else None

    def _check(self, target: ast.expr) -> None:
        if isinstance(target, ast.Tuple | ast.List):
            for element in target.elts:
                self._check(element)
        elif isinstance(target, ast.Starred):
            self._check(target.value)
        elif isinstance(target, ast.Attribute | ast.Subscript):
            text = ast.unparse(target)
            foreign = self._foreign(_root(target))
            if isinstance(target, ast.Attribute) and target.attr in ("__class__", "forward"):
                self._report(target, f"`{text} =` replaces a {target.attr}; use a slot on the instance or a `with`")
            elif _passes_class(target):
                self._report(target, f"`{text} =` changes a class")
            elif foreign:
                self._report(target, f"`{text} =` changes {foreign}")
            elif _root(target) is None and isinstance(target, ast.Subscript) and text.startswith("globals()"):
                self._report(target, f"`{text} =` changes the module's globals")

    def _report(self, node: ast.AST, message: str) -> None:
        self.found.append(self.source.finding(node, message))

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            self._check(target)
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._check(node.target)
        self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self._check(node.target)
        self.generic_visit(node)

    def visit_Delete(self, node: ast.Delete) -> None:
        for target in node.targets:
            self._check(target)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        function = node.func
        if isinstance(function, ast.Name) and function.id in ("setattr", "delattr") and len(node.args) >= 2:
            target, name = node.args[:2]
            named = isinstance(name, ast.Constant) and name.value in ("__class__", "forward")
            through = isinstance(target, ast.Name | ast.Attribute | ast.Subscript) and self._foreign(_root(target))
            if named or through or _passes_class(target):
                self._report(node, f"`{ast.unparse(node)}` changes a class, a forward or something imported")
        elif isinstance(function, ast.Attribute):
            text = ast.unparse(function)
            if text in ENVIRONMENT_WRITES or text in GLOBAL_SWITCHES:
                self._report(node, f"`{text}(...)` changes state the whole process shares")
        self.generic_visit(node)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> None:
        self.locals.append(_bound_in(node))
        self.generic_visit(node)
        self.locals.pop()

    visit_FunctionDef = visit_AsyncFunctionDef = visit_Lambda = _function


ENVIRONMENT_WRITES = ("os.environ.setdefault", "os.environ.update", "os.environ.pop", "os.putenv", "os.unsetenv")
GLOBAL_SWITCHES = (
    "torch.set_default_dtype",
    "torch.set_default_device",
    "torch.set_default_tensor_type",
    "torch.set_float32_matmul_precision",
    "warnings.filterwarnings",
    "warnings.simplefilter",
    "logging.disable",
    "sys.setrecursionlimit",
)


def assignment_violations(source: Source) -> list[str]:
    """Assignments to classes, imported things, `forward`, library switches and the process environment.

    A `# scoped: reason` allows one inside a context manager, which takes it back at its end.
    """
    lines = source.text.splitlines()
    scopes = [
        range(node.lineno, (node.end_lineno or node.lineno) + 1)
        for node in ast.walk(source.tree)
        if isinstance(node, ast.FunctionDef)
        and any(isinstance(d, ast.Name) and d.id == "contextmanager" for d in node.decorator_list)
    ]

    def is_scoped(finding: str) -> bool:
        line = int(finding.split(":", 2)[1])
        return "# scoped:" in lines[line - 1] and any(line in scope for scope in scopes)

    return [finding for finding in _Assignments(source).found if not is_scoped(finding)]


# ---------------------------------------------------------------------------------------------- banned in library code


def _docstrings(tree: ast.Module) -> set[int]:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    bodies = [node.body for node in ast.walk(tree) if isinstance(node, documented)]
    return {id(body[0].value) for body in bodies if body and isinstance(body[0], ast.Expr)}


def library_word_violations(source: Source, device_doors: Sequence[str] = ()) -> list[str]:
    """`.cuda()`, `.half()`, a "cuda:0" literal outside `device_doors`, `print(` and `import *`."""
    tree = source.tree
    docstrings = _docstrings(tree)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("cuda", "half"):
            found.append(
                source.finding(node, f"`.{node.func.attr}()`: take device and dtype from the tensor or module at hand")
            )
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            found.append(source.finding(node, "`print(`: library code logs, command lines use typer.echo or rich"))
        elif isinstance(node, ast.Constant) and node.value == "cuda:0" and id(node) not in docstrings:
            if source.path not in device_doors:
                found.append(source.finding(node, '"cuda:0": a device number belongs to the caller'))
        elif isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            found.append(source.finding(node, f"`from {node.module} import *`: name what you import"))
    return found


# ---------------------------------------------------------------------------------------------- sizes


def size_violations(source: Source) -> list[str]:
    """Files above the hard cap, and functions above theirs without a `# long: reason` on or above their first line."""
    lines = source.text.splitlines()
    found = []
    if len(lines) > MAX_FILE_LINES:
        found.append(
            source.finding(1, f"{len(lines)} lines; {MAX_FILE_LINES} is the cap, split the file by what it does")
        )
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            head = lines[max(0, first - 2) : node.body[0].lineno]
            if length > MAX_FUNCTION_LINES and not any("# long:" in line for line in head):
                message = f"{node.name} has {length} lines; above {MAX_FUNCTION_LINES} say why with `# long: reason`"
                found.append(source.finding(node, message))
    return found
