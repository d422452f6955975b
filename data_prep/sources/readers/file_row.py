"""a row of a file, and which columns its reader of documents uses"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from data_prep.core.errors import ConfigurationError

BLANKS = " \t\r\n\u00a0\ufeff\u200b"  # spreadsheets leave them around the names of columns


class FileRow(NamedTuple):
    """A row as it is in the file.

    number: from 0, bad rows included. line: from 1; in a Parquet file the row from 1.
    content: the columns, or a text that says what is wrong with the row.
    """

    number: int
    line: int
    content: dict[str, Any] | str


class Columns(NamedTuple):
    """The fields that a reader of documents uses; dots reach into objects.

    named: those that the options of the URI name; without them a row is bad. others: used where
    they are present. is_all: other columns are returned as well, if their values can be read.
    """

    named: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    is_all: bool = True

    def tops(self) -> set[str]:
        """The names of columns that may hold one of the fields."""
        fields = (*self.named, *self.others)
        return {*fields, *(field.partition(".")[0] for field in fields)}

    def named_tops(self) -> set[str]:
        """The names of columns that may hold one of the named fields."""
        return Columns(self.named).tops()


def check_doubled(names: Sequence[str], columns: Columns, uri: str) -> None:
    """Raise ConfigurationError if a column in use is in the file more than once, also if the names
    differ in blanks around them: which one is right cannot be known.
    """
    for wanted in sorted(columns.tops()):
        same = [name for name in names if name == wanted or name.strip(BLANKS) == wanted]
        if len(same) > 1:
            places = ", ".join(
                f"{number} ({name!r})" for number, name in enumerate(names, 1) if name in same
            )
            raise ConfigurationError(
                f"{uri} has the column {wanted!r} more than once (columns {places}); expected one, "
                "because the others would be lost: rename or remove them in the file"
            )
