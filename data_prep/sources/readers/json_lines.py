"""read JSON lines: one object per line, with a second reading for what orjson refuses"""

import io
import json
from collections import Counter
from collections.abc import Iterator
from typing import IO, Any, cast

import orjson

from data_prep.core.errors import ConfigurationError
from data_prep.sources.readers.file_row import Columns, FileRow
from data_prep.sources.readers.foreign_content import HEAD_BYTES, INDENTED_OBJECT
from data_prep.sources.readers.lines import BYTE_ORDER_MARK, lines, too_long

# A key that an object has twice comes from the program that wrote the file, so the first lines show
# it. To look for one takes as long as to parse the line.
CHECKED_LINES = 100


def rows(stream: IO[bytes], uri: str, columns: Columns) -> Iterator[FileRow]:
    """The rows of JSON lines; blank lines are none, but count in the numbers."""
    loads = orjson.loads
    new = tuple.__new__  # half the time of FileRow(…)
    for number, line in enumerate(lines(stream)):
        if line is None:
            yield FileRow(number, number + 1, too_long())
            continue
        if number == 0:
            line = line.removeprefix(BYTE_ORDER_MARK)
            if line.lstrip().startswith(b"["):
                raise ConfigurationError(
                    f"{uri} holds a JSON array; expected one object per line; "
                    "convert it with jq -c '.[]'"
                )
            if INDENTED_OBJECT.match(line + cast(io.BufferedReader, stream).peek(HEAD_BYTES)):
                raise ConfigurationError(
                    f"{uri} holds an object over several lines; expected one object per line; "
                    "convert it with jq -c ."
                )
        try:
            content = loads(line)
        except orjson.JSONDecodeError as error:
            if line.isspace() or not line:
                continue
            content = _read_again(line, error.msg)
        else:
            if type(content) is not dict:
                content = "is not a JSON object"
            elif type(content.get("id")) is float:  # orjson rounds integers beyond 64 bits
                content = _read_again(line, "")
        if number < CHECKED_LINES and (name := _doubled_key(line, columns)):
            content = f"has the field {name!r} more than once"
        yield new(FileRow, (number, number + 1, content))


def _read_again(line: bytes, fault: str) -> dict[str, Any] | str:
    """The object of a line that orjson refused for `fault`, by the standard library: it takes NaN
    and Infinity, integers of any size, and lone surrogates, which are removed here.
    """
    try:
        content = json.loads(line.decode())
        if type(content) is not dict:
            return "is not a JSON object"
        return _without_surrogates(content) if b"\\u" in line else content
    except (ValueError, RecursionError):
        return f"is not JSON in UTF-8 ({fault})"


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "ignore").decode()
    if isinstance(value, list):
        return [_without_surrogates(inner) for inner in value]
    if isinstance(value, dict):
        return {_without_surrogates(name): _without_surrogates(value[name]) for name in value}
    return value


def _doubled_key(line: bytes, columns: Columns) -> str | None:
    """The first field in use that the object of a line has twice."""
    suspects = {name for name in columns.tops() if line.count(b'"%b"' % name.encode()) > 1}
    if not suspects:
        return None
    outermost: list[tuple[str, Any]] = []

    def keep(pairs: list[tuple[str, Any]]) -> None:  # called for the outermost object last
        outermost[:] = pairs

    try:
        json.loads(line.decode(), object_pairs_hook=keep)
    except (ValueError, RecursionError):
        return None
    counts = Counter(name for name, _ in outermost)
    return min((name for name in suspects if counts[name] > 1), default=None)
