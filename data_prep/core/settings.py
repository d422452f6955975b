"""settings in groups: checked when constructed, changed by `--set dotted.path=value`

A group of settings is a record. Each field has its range in its type, and its unit, meaning and
reason for the default in a docstring under it:

    @settings("train.optimizer")
    class OptimizerConfig:
        learning_rate: Annotated[float, Gt(0)] = 3e-4
        '''Peak learning rate.'''

Construction refuses a value of another type, out of range or not finite, and names its dotted path.
Python itself would take `True` for a count and NaN for a rate, and fail hours later on a GPU. A
group always exists; one that can be off has a setting for it (`data.annotation.kind=none`).
`evolve` changes several paths at once and constructs each group once, so values that are only right
together can be changed in any order. A setting that maps names to values takes one entry by its
name: `--set eval.prompts.rtp=rtp.jsonl`.
"""

import ast
import difflib
import inspect
import json
import shlex
import textwrap
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
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

from annotated_types import Ge, Gt, Interval, MinLen
from pydantic import ConfigDict, TypeAdapter, ValidationError

from data_prep.core.errors import ConfigurationError, mask_secrets
from data_prep.core.records import operational, record, refuse_doubled_keys, to_dict

S = TypeVar("S")

Count = Annotated[int, Ge(1)]
CountOrZero = Annotated[int, Ge(0)]
Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Share = Annotated[float, Interval(ge=0, le=1)]

LIST_COMMAND = "python launch/sweep.py --settings"


@dataclass(frozen=True, eq=False)  # the value may be a dict, which has no hash
class Example:
    """In the `Annotated` type of a setting: a value that its own check takes, for errors."""

    value: Any


NonEmptyText = Annotated[str, MinLen(1), Example("TEXT")]

SIGNS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}  # attributes of annotated_types' bounds
NAMES = {
    int: "whole number",
    float: "number",
    str: "text",
    bool: "true or false",
    type(None): "null",
}
PLURALS = {int: "whole numbers", float: "numbers", str: "texts"}


@dataclass_transform(
    kw_only_default=True, frozen_default=True, field_specifiers=(field, operational)
)
def settings(path: str) -> Callable[[type[S]], type[S]]:
    """Make a class a group of settings, known on the command line by its dotted `path`.

    A `__post_init__` of its own runs after the fields were checked one by one.
    """

    def decorate(cls: type[S]) -> type[S]:
        own_check = getattr(cls, "__post_init__", None)

        def check(self: Any) -> None:
            for name, hint in field_types(type(self)).items():
                _check_field(f"{path}.{name}".removeprefix("."), hint, getattr(self, name))
            if own_check:
                own_check(self)

        cls.__post_init__ = check  # type: ignore[attr-defined]
        return record(cls)

    return decorate


def _check_field(path: str, hint: Any, value: Any) -> None:
    if not is_valid(hint, value):
        if is_dataclass(hint):
            raise ConfigurationError(
                f"{path} is {value!r}; expected {getattr(hint, '__name__', hint)}"
            )
        sample = json.dumps(example(hint))
        raise ConfigurationError(f"{path} is {value!r}; expected {type_name(hint)}, e.g. {sample}")
    texts = value.values() if isinstance(value, dict) else value
    texts = (texts,) if isinstance(texts, str) else texts if isinstance(texts, Iterable) else ()
    if any(isinstance(text, str) and mask_secrets(text) != text for text in texts):
        # Settings are saved beside the results and shown in the report.
        raise ConfigurationError(
            f"{path} is {value!r}, with credentials in a URI; expected a URI without them: set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment"
        )


def evolve(value: S, changes: Mapping[str, Any]) -> S:
    """`value` with each dotted path set, every group constructed once.

    >>> evolve(experiment, {"train.optimizer.learning_rate": 3e-4, "seeds": (0, 1)})

    A whole group (`train.model`) is set before paths inside it (`train.model.d_mlp`).
    """
    return _evolve(value, changes, within="")


def _evolve(group: S, changes: Mapping[str, Any], within: str) -> S:
    own: dict[str, Any] = {}
    below: dict[str, dict[str, Any]] = {}
    for path, new in changes.items():
        name, _, rest = path.partition(".")
        if not is_dataclass(group) or name not in field_types(type(group)):
            raise ConfigurationError(
                f"there is no setting {within}{path}; `{LIST_COMMAND}` lists all"
            )
        if rest:
            below.setdefault(name, {})[rest] = new
        else:
            own[name] = new
    for name, inner_changes in below.items():
        current = own.get(name, getattr(group, name))
        if isinstance(current, dict):
            own[name] = current | inner_changes
        else:
            own[name] = _evolve(current, inner_changes, f"{within}{name}.")
    return replace(group, **own)  # type: ignore[type-var]


def parse_overrides(value: S, words: Sequence[str], *, list_command: str = LIST_COMMAND) -> S:
    """`value` with every `path=text` of `--set`, typed, merged and then checked once.

    Text is JSON, or a bare word where a string is expected. Of two words for one path the last
    counts. A group with a method `named` is set as a whole by a name: `train.model=olmo-150m`.

    list_command: lists all settings; errors name it.
    """
    changes: dict[str, Any] = {}
    for word in words:
        path, equals, text = word.partition("=")
        if not equals or not path:
            raise ConfigurationError(
                f"--set {word}: expected PATH=VALUE, e.g. train.optimizer.learning_rate=1e-3"
            )
        changes[path] = _parse(value, path, text, list_command)
    return evolve(value, changes)


def _field_fault(error: ValidationError) -> str:
    """The field of a map's entry that is wrong, and how; empty for a value without fields."""
    first = error.errors(include_url=False)[0]
    if not first["loc"]:
        return ""
    return f" ({'.'.join(map(str, first['loc']))}: {first['msg']})"


class _Target(NamedTuple):
    """What a path names: its type, its value now, and whether it is one entry of a map."""

    hint: Any
    current: Any
    is_entry: bool


def _parse(root: Any, path: str, text: str, list_command: str) -> Any:
    """The value that `text` gives the setting at `path`, checked against its type."""
    word = f"--set {path}={text}"
    hint, current, is_entry = _lookup(root, path, word, list_command)
    if hasattr(current, "named"):
        return current.named(text)
    if is_dataclass(hint) and not is_entry:
        paths = ", ".join(f"{path}.{f.name}" for f in fields(hint))
        raise ConfigurationError(f"{word}: {path} is a group; set one of {paths}")
    refuse_doubled_keys(text, word)
    try:
        return adapter(hint).validate_json(text)
    except ValidationError as error:
        fault = error
    try:
        return adapter(hint).validate_python(text)  # a bare word is a string without its quotes
    except ValidationError:
        is_empty = current in (None, (), {}, "")
        sample = _as_text(example(hint) if is_empty else to_dict(current))
        details = _field_fault(fault)
        raise ConfigurationError(
            f"{word}: got {text!r}{details}; expected {type_name(hint)}, "
            f"e.g. --set {shlex.quote(f'{path}={sample}')}"
        ) from fault


def _lookup(root: Any, path: str, word: str, list_command: str) -> _Target:
    """The setting at `path`, or the entry of a setting that maps names to values."""
    *groups, name = path.split(".")
    group, hint = root, None
    for group_name in groups:
        hint = field_types(type(group)).get(group_name) if is_dataclass(group) else None
        group = getattr(group, group_name, None)
    if isinstance(group, dict):
        return _Target(get_args(_unannotated(hint))[1], group.get(name, ""), is_entry=True)
    entry = _entry_above(root, path)
    if entry:
        raise ConfigurationError(
            f"{word}: {entry.rpartition('.')[0]} takes one entry by its name, and the whole of it: "
            f"--set '{entry}=…'"
        )
    if not is_dataclass(group) or name not in field_types(type(group)):
        raise ConfigurationError(
            f"{word}: there is no setting {path}; "
            f"{nearest(list(_paths(type(root))), path, list_command)}"
        )
    return _Target(field_types(type(group))[name], getattr(group, name), is_entry=False)


def _entry_above(root: Any, path: str) -> str:
    """The path of the map's entry that `path` leads into, e.g. eval.conditions.iti; "" if none."""
    names = path.split(".")
    group = root
    for i, name in enumerate(names):
        if isinstance(group, dict):
            return ".".join(names[: i + 1]) if i + 1 < len(names) else ""
        group = getattr(group, name, None)
    return ""


def _unannotated(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _as_text(value: Any) -> str:
    """A value as `--set` takes it."""
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def nearest(known: Sequence[str], path: str, list_command: str = LIST_COMMAND) -> str:
    """The known path that `path` may be meant for, and the command that lists all; of paths with
    the same last name the closest.
    """
    same_name = [name for name in known if name.rpartition(".")[2] == path.rpartition(".")[2]]
    near = difflib.get_close_matches(path, same_name or known, n=1, cutoff=0.4) or same_name
    suggestion = f"did you mean {near[0]}? " if near else ""
    return f"{suggestion}`{list_command}` lists all"


def _paths(cls: type, within: str = "") -> Iterator[str]:
    for name, hint in field_types(cls).items():
        if is_dataclass(hint):
            yield from _paths(hint, f"{within}{name}.")  # type: ignore[arg-type]
        else:
            yield f"{within}{name}"


class Setting(NamedTuple):
    """One setting: its dotted path, its type in words, its value as `--set` takes it, and what it
    means.
    """

    path: str
    type: str
    value: str
    meaning: str
    is_operational: bool


def describe(value: Any, prefix: str = "") -> list[Setting]:
    """Every setting of `value` whose path starts with `prefix`, in the order of declaration."""
    return [setting for setting in _walk(value, "") if setting.path.startswith(prefix)]


def _walk(group: Any, within: str) -> Iterator[Setting]:
    hints = field_types(type(group))
    for f in fields(group):
        path = f"{within}{f.name}"
        current = getattr(group, f.name)
        if is_dataclass(current):
            yield from _walk(current, f"{path}.")
        else:
            yield Setting(
                path=path,
                type=type_name(hints[f.name]),
                value=_as_text(to_dict(current)),
                meaning=field_docstrings(type(group)).get(f.name, ""),
                is_operational=bool(f.metadata.get("operational")),
            )


@cache
def field_docstrings(cls: type) -> dict[str, str]:
    """The docstring under each field of a class, by field name."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(tree, ast.ClassDef)
    docstrings = {}
    for above, below in zip(tree.body, tree.body[1:], strict=False):
        is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        if isinstance(above, ast.AnnAssign) and isinstance(above.target, ast.Name) and is_text:
            docstrings[above.target.id] = " ".join(str(below.value.value).split())  # type: ignore[union-attr]
    return docstrings


# The type of a setting: check a value, name the type in words, give an example.


@cache
def field_types(cls: type) -> dict[str, Any]:
    """The type of each field of a dataclass, with the ranges that `Annotated` states."""
    return get_type_hints(cls, include_extras=True)


@cache
def adapter(hint: Any) -> TypeAdapter[Any]:
    """pydantic's reader of a type: strict, with finite numbers only."""
    if isinstance(hint, type) and is_dataclass(hint):  # it brings its own configuration
        return TypeAdapter(hint)
    return TypeAdapter(hint, config=ConfigDict(strict=True, allow_inf_nan=False))


def is_valid(hint: Any, value: Any) -> bool:
    """Whether `value` has the type and is in the range of `hint`; a bool is not a number."""
    if is_dataclass(hint):
        return type(value) is hint  # a group checked its own fields when it was constructed
    try:
        adapter(hint).validate_python(value)
    except ValidationError:
        return False
    return True


def type_name(hint: Any) -> str:
    """A type in words for a user: `whole number >= 1 or auto`, `list of texts`."""
    origin = get_origin(hint)
    arguments = get_args(hint)
    if hint == NonEmptyText:
        return "text that is not empty"
    if origin is Annotated:
        bounds = " and ".join(f"{sign} {bound}" for sign, bound in _bounds(hint))
        return f"{type_name(arguments[0])} {bounds}".rstrip()
    if origin is Literal:
        return ("one of " if len(arguments) > 1 else "") + ", ".join(map(str, arguments))
    if origin in (Union, types.UnionType):
        return " or ".join(map(type_name, arguments))
    if origin is tuple and arguments[-1] is Ellipsis:
        return f"list of {PLURALS.get(arguments[0], type_name(arguments[0]))}"
    if origin is tuple:
        return f"list of exactly {len(arguments)}: {', '.join(map(type_name, arguments))}"
    if origin is dict:
        return f"map from {type_name(arguments[0])} to {type_name(arguments[1])}"
    if is_dataclass(hint):
        return f"{{{', '.join(f.name for f in fields(hint))}}}"
    return NAMES.get(hint, getattr(hint, "__name__", str(hint)))


def example(hint: Any) -> Any:
    """A small valid value of the type, as plain JSON data."""
    origin = get_origin(hint)
    arguments = get_args(hint)
    if origin is Annotated:
        own = [mark.value for mark in hint.__metadata__ if isinstance(mark, Example)]
        return to_dict(own[0]) if own else _example_in_range(hint, arguments[0])
    if origin is Literal:
        return arguments[0]
    if origin in (Union, types.UnionType):
        return example(next(part for part in arguments if part is not type(None)))
    if origin is tuple:
        return [example(part) for part in arguments if part is not Ellipsis]
    if origin is dict:
        return {example(arguments[0]): example(arguments[1])}
    if is_dataclass(hint):
        return {f.name: example(field_types(hint)[f.name]) for f in fields(hint)}  # type: ignore[arg-type]
    return {int: 1, float: 0.5, bool: True, str: "TEXT"}.get(hint)


def _example_in_range(hint: Any, base: Any) -> Any:
    bounds = {sign[0]: bound for sign, bound in _bounds(hint)}  # ">" and "<", included or not
    low = bounds.get(">", bounds.get("<", 1) - 1)
    high = bounds.get("<", low + 2)
    middle = (low + high) / 2
    return int(middle) if base is int else middle


def _bounds(hint: Any) -> Iterator[tuple[str, Any]]:
    """The range of an annotated number as (sign, bound) pairs: `>=` and 1."""
    for mark in getattr(hint, "__metadata__", ()):
        for name, sign in SIGNS.items():
            if getattr(mark, name, None) is not None:
                yield sign, getattr(mark, name)
