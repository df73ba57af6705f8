"""Options that several commands share, written once: the fields of a dataclass become flags of each of them.

@dataclass(frozen=True, kw_only=True)
class Load:
    model: Annotated[str | None, typer.Option(help="Checkpoint folder.")] = None

@app.command()
@sharing(Load)
def memory(options: Load, *, new_tokens: int = 32) -> None: ...
"""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from functools import wraps
from typing import Any, get_type_hints


def sharing(shared: type[Any], **defaults: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A function `main(options, *, ...)` as one that typer reads: flags of its own first, then those of `shared`, of
    which it gets an instance as `options`.

    defaults: in place of those the class has.
    """

    def decorate(main: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(shared, include_extras=True)
        common = []
        for option in fields(shared):
            default = inspect.Parameter.empty if option.default is MISSING else option.default
            common.append(_parameter(option.name, hints[option.name], defaults.get(option.name, default)))
        signature = inspect.signature(main).parameters
        own = [
            _parameter(name, hint, signature[name].default)
            for name, hint in get_type_hints(main, include_extras=True).items()
            if name not in ("options", "return")
        ]

        @wraps(main)
        def command(**given: Any) -> None:
            main(shared(**{parameter.name: given.pop(parameter.name) for parameter in common}), **given)

        command.__signature__ = inspect.Signature([*own, *common])  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *common)}
        return command

    return decorate


def _parameter(name: str, hint: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=hint, default=default)
