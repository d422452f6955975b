"""options behind `#` in a URI or a scorer's name: `rows.csv#text=body&label=class`"""

import re
from collections.abc import Mapping
from urllib.parse import unquote

from data_prep.core.errors import ConfigurationError

OPTION = re.compile(r"[a-z_]+=")
TEXT_OPTIONS = ("text", "unit")  # of all options of a corpus, those that decide its texts
TEXT_DEFAULTS = ("text=text", "unit=thread")


def split_options(
    name: str, allowed: Mapping[str, str | tuple[str, ...]]
) -> tuple[str, dict[str, str]]:
    """The part before `#`, and the options behind it by key, percent-decoded.

    allowed: for each key the values it may take, or a placeholder for any value, such as "FIELD".
    Raises ConfigurationError for an unknown key, a key given twice, and a value that is empty or
    not among those allowed.
    """
    base, _, fragment = name.partition("#")
    options: dict[str, str] = {}
    for item in _items(fragment):
        key, _, value = item.partition("=")
        value = unquote(value)
        values = allowed.get(key)
        is_known = values is not None and (isinstance(values, str) or value in values)
        if not is_known or not value or key in options:
            raise ConfigurationError(
                f"{name}: cannot use {item!r} after #; expected {_forms(allowed)}, "
                "each at most once, joined by &"
            )
        options[key] = value
    return base, options


def texts_of(name: str) -> str:
    """The URI with those options alone that decide which texts it gives, in one form.

    What behind `#` has not the form of options belongs to the name.
    """
    base, _, fragment = name.rpartition("#")
    items = _items(fragment)
    if not base or not all(OPTION.match(item) for item in items):
        return name
    kept = sorted(item for item in items if item.partition("=")[0] in TEXT_OPTIONS)
    kept = [item for item in kept if item not in TEXT_DEFAULTS]
    return f"{base}#{'&'.join(kept)}" if kept else base


def _items(fragment: str) -> list[str]:
    return [item for item in fragment.split("&") if item]


def _forms(allowed: Mapping[str, str | tuple[str, ...]]) -> str:
    return ", ".join(
        f"#{key}={values if isinstance(values, str) else ' or '.join(values)}"
        for key, values in allowed.items()
    )
