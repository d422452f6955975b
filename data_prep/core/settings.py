"""settings: groups that check themselves, dotted paths, and `--set path=value`

A group of settings is a record whose fields carry a unit, a default and a reason in a docstring
under each field, and a range in their type:

    @settings("train.optimizer")
    class OptimizerConfig:
        learning_rate: Annotated[float, Gt(0)]
        '''Peak learning rate.'''

A value out of range, or a number that is not finite, is refused when the group is constructed, with
its dotted path. `evolve` changes several paths at once and constructs each group once, so the order
of the changes does not matter.
"""

import ast
import difflib
import inspect
import math
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field, fields, is_dataclass, replace
from functools import cache
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    TypeVar,
    Union,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

from annotated_types import Ge, Gt, Interval, Le, Lt
from pydantic import ConfigDict, TypeAdapter, ValidationError

from data_prep.core.errors import ConfigurationError
from data_prep.core.records import describe_faults, operational, record, to_json

S = TypeVar("S")

Count = Annotated[int, Ge(1)]
CountOrZero = Annotated[int, Ge(0)]
Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Share = Annotated[float, Interval(ge=0, le=1)]


@dataclass_transform(
    kw_only_default=True, frozen_default=True, field_specifiers=(field, operational)
)
def settings(path: str) -> Callable[[type[S]], type[S]]:
    """Make a class a group of settings, known on the command line by its dotted `path`."""

    def decorate(cls: type[S]) -> type[S]:
        own_check = cls.__dict__.get("__post_init__")

        def check_then_own(self: Any) -> None:
            for name, hint in _hints(type(self)).items():
                _check(hint, getattr(self, name), f"{path}.{name}".removeprefix("."))
            if own_check:
                own_check(self)

        cls.__post_init__ = check_then_own  # type: ignore[attr-defined]
        return record(cls)

    return decorate


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)


def _check(hint: Any, value: Any, path: str) -> None:
    """Refuse a number that is not finite or out of the range that `hint` states."""
    items = value.values() if isinstance(value, dict) else value
    for item in items if isinstance(items, tuple | list | type({}.values())) else (value,):
        if isinstance(item, float) and not math.isfinite(item):
            raise ConfigurationError(f"{path} is {value}; expected a finite number")
    for bound, sign, holds in _bounds(hint):
        if isinstance(value, int | float) and not holds(value):
            raise ConfigurationError(f"{path} is {value}; expected a number {sign} {bound:g}")


def _bounds(hint: Any) -> Iterator[tuple[float, str, Callable[[float], bool]]]:
    """The bounds of an annotated number, also inside `Annotated[int, Ge(1)] | Literal["auto"]`."""
    if get_origin(hint) in (Union, types.UnionType):
        for part in get_args(hint):
            yield from _bounds(part)
    for mark in getattr(hint, "__metadata__", ()):
        for one in mark if isinstance(mark, Interval) else (mark,):
            if isinstance(one, Ge):
                yield float(one.ge), ">=", lambda x, b=one.ge: x >= b  # type: ignore[operator]
            elif isinstance(one, Gt):
                yield float(one.gt), ">", lambda x, b=one.gt: x > b  # type: ignore[operator]
            elif isinstance(one, Le):
                yield float(one.le), "<=", lambda x, b=one.le: x <= b  # type: ignore[operator]
            elif isinstance(one, Lt):
                yield float(one.lt), "<", lambda x, b=one.lt: x < b  # type: ignore[operator]


def evolve(value: S, changes: Mapping[str, Any]) -> S:
    """`value` with each dotted path set, every group constructed once.

    >>> evolve(experiment, {"train.optimizer.learning_rate": 3e-4, "seeds": (0, 1)})
    """
    own: dict[str, Any] = {}
    inner: dict[str, dict[str, Any]] = {}
    for path, new in changes.items():
        name, _, rest = path.partition(".")
        if rest:
            inner.setdefault(name, {})[rest] = new
        else:
            own[name] = new
    for name, those in inner.items():
        own[name] = evolve(own.get(name, getattr(value, name)), those)
    return replace(value, **own)  # type: ignore[type-var]


def parse_overrides(value: S, words: Sequence[str]) -> S:
    """`value` with every `path=text` of `--set`, typed, merged and then checked once.

    Text is read as JSON, or as a bare word where a string is expected. A group with a method
    `named` may be set as a whole by name: `train.model=olmo-150m`.
    """
    changes: dict[str, Any] = {}
    for word in words:
        path, equals, text = word.partition("=")
        if not equals or not path:
            raise ConfigurationError(
                f"--set {word}: expected PATH=VALUE, e.g. train.optimizer.learning_rate=1e-3"
            )
        changes[path] = _typed(value, path, text)
    return evolve(value, changes)


def _typed(value: Any, path: str, text: str) -> Any:
    """The value that `text` gives the setting at `path`, checked against its type."""
    asked, group, names = f"--set {path}={text}", value, path.split(".")
    for depth, name in enumerate(names):
        if not is_dataclass(group) or name not in _hints(type(group)):
            raise ConfigurationError(
                f"{asked}: there is no setting {path}; {_nearest(value, path)}"
            )
        if depth < len(names) - 1:
            group = getattr(group, name)
    current, hint = getattr(group, names[-1]), _hints(type(group))[names[-1]]
    if hasattr(current, "named"):
        return current.named(text)  # type: ignore[union-attr]
    if is_dataclass(current):
        inside = ", ".join(f"{path}.{f.name}" for f in fields(current))
        raise ConfigurationError(f"{asked}: {path} is a group; set one of {inside}")
    adapter = TypeAdapter(hint, config=None if is_dataclass(hint) else ConfigDict(strict=True))
    try:
        return adapter.validate_json(text)
    except ValidationError as as_json:
        try:
            return adapter.validate_python(text)  # a bare word is a string without its quotes
        except ValidationError as as_word:
            fault = as_word if as_json.errors()[0]["type"] == "json_invalid" else as_json
            raise ConfigurationError(
                f"{asked}: {describe_faults(fault)}; expected {type_name(hint)}, "
                f"e.g. {path}={_example(hint, current)}"
            ) from fault


def _example(hint: Any, current: Any) -> str:
    """A value of the right form, as a user would type it."""
    if current not in (None, (), {}, ""):
        return " ".join(to_json(current).split()).replace("[ ", "[").replace(" ]", "]")
    return "'[\"URI\"]'" if get_origin(hint) is tuple else "…"


def _nearest(value: Any, path: str) -> str:
    known = [setting.path for setting in describe(value)]
    close = difflib.get_close_matches(path, known, n=1, cutoff=0.4)
    same_end = [name for name in known if name.rpartition(".")[2] == path.rpartition(".")[2]]
    found = (same_end or close)[:1]
    nearest = f"did you mean {found[0]}? " if found else ""
    return f"{nearest}`python launch/sweep.py --settings` lists all"


class Setting(NamedTuple):
    """One setting: its dotted path, its type in words, its current value and what it means."""

    path: str
    type: str
    value: Any
    meaning: str
    is_operational: bool


def describe(value: Any, prefix: str = "") -> list[Setting]:
    """Every setting of `value` whose path starts with `prefix`, in the order of declaration."""
    return [setting for setting in _walk(value, "") if setting.path.startswith(prefix)]


def _walk(group: Any, within: str) -> Iterator[Setting]:
    meanings, hints = field_docstrings(type(group)), _hints(type(group))
    for f in fields(group):
        current, path = getattr(group, f.name), f"{within}{f.name}"
        if is_dataclass(current) and not isinstance(current, type):
            yield from _walk(current, f"{path}.")
        else:
            yield Setting(
                path,
                type_name(hints[f.name]),
                current,
                meanings.get(f.name, ""),
                bool(f.metadata.get("operational")),
            )


@cache
def field_docstrings(cls: type) -> dict[str, str]:
    """The docstring under each field of a class, by field name."""
    (tree,) = ast.parse(inspect.cleandoc("\n" + inspect.getsource(cls))).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for above, below in zip(tree.body, tree.body[1:], strict=False):
        is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        if isinstance(above, ast.AnnAssign) and isinstance(above.target, ast.Name) and is_text:
            found[above.target.id] = " ".join(str(below.value.value).split())  # type: ignore[union-attr]
    return found


def type_name(hint: Any) -> str:
    """A type in words for a user: `number >= 0`, `one of adamw, muon`, `list of text`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        bounds = " and ".join(f"{sign} {bound:g}" for bound, sign, _ in _bounds(hint))
        return f"{type_name(arguments[0])} {bounds}".rstrip()
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin in (Union, types.UnionType):
        return " or ".join(type_name(part) for part in arguments)
    if origin is tuple:
        return f"list of {type_name(arguments[0])}"
    if origin is dict:
        return f"map from {type_name(arguments[0])} to {type_name(arguments[1])}"
    names = {int: "whole number", float: "number", str: "text", bool: "true or false"}
    return names.get(hint, "null" if hint is type(None) else getattr(hint, "__name__", str(hint)))
