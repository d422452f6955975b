"""lines of a byte stream, none of them longer than the limit of one row"""

from collections.abc import Iterator
from functools import partial
from typing import IO

# A few MB of gzip can hold a line of gigabytes, and parsed JSON can take 30 times the memory of its
# text. Documents of this size are far above data.cleaning.max_chars.
MAX_ROW_BYTES = 64 << 20
SKIPPED_BYTES = 256 << 10  # of a line above the limit, read at once
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def lines(stream: IO[bytes]) -> Iterator[bytes | None]:
    """The lines of a file; None for one above MAX_ROW_BYTES, which is never held whole."""
    for line in iter(partial(stream.readline, MAX_ROW_BYTES + 1), b""):
        if len(line) <= MAX_ROW_BYTES:
            yield line
            continue
        rest = line
        while rest and not rest.endswith(b"\n"):
            rest = stream.readline(SKIPPED_BYTES)
        yield None


def too_long() -> str:
    return f"is longer than {MAX_ROW_BYTES:,} bytes (the limit of one row)"
