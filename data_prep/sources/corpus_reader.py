"""named corpora → documents: JSON lines, CSV, Parquet, plain text, thread dumps and the embedded
corpus

A corpus is a list of URIs; each names files (with wildcards) or parts of the embedded corpus:

    s3://c4/en/c4-train.*.json.gz          the text is in the field `text`
    tweets.csv.gz#text=tweet&label=class   in another one, with a label beside it; `text=prompt.text` reaches into objects
    pol.ndjson.zst#text=posts              a 4chan thread a line: its posts, HTML undone, joined by blank lines (fourchan.py)
    pol.ndjson.zst#text=posts&unit=post    the same posts, each a document
    prompts.jsonl#text=prompt.text&scores=prompt   with the scores that stand beside the text, or in a column of numbers;
                                           columns `perspectives` and `scores` are found by
                                           themselves
    hub:allenai/c4?config=en&revision=…    streamed from the hub (hub.py)
    synthetic:clean?documents=6000&parts=4 the embedded corpus

A plain-text file is one document, for a blank line inside prose ends a paragraph, not a text; lines
that hold only `<|endoftext|>` divide it into several. Rows that cannot be read are counted with
their place, never skipped in silence: a file with too many of them stops the build, because it
usually is a file in another format.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from data_prep.core import ranged_reads, storage
from data_prep.core.errors import ArtefactCorrupt, ConfigurationError
from data_prep.sources import formats, fourchan, hub, synthetic
from data_prep.sources.uri_options import split_options

VERSION = 2  # raise it with any change of the documents that a file gives: units made by another version are made again
SAMPLE_ROWS = 100  # below this a share of bad rows says little, unless the file ends
OPTIONS = {"text": "FIELD", "label": "FIELD", "scores": "FIELD", "unit": ("thread", "post")}
SOURCE_FIELDS = {  # the field of Source that an option sets
    "text": "text_field",
    "label": "label_field",
    "unit": "unit",
    "scores": "scores_field",
}
PLAIN = (None, "thread", None)  # all but the text field of a Source, where nothing is asked for
SCORES = ("perspectives", "scores")  # columns that hold scores wherever they occur
MAX_PLACES = 5  # bad places kept for the message
CHUNK_BYTES = 128 << 10


class Source(NamedTuple):
    """One input file (or one part of the embedded corpus) and what to take from its rows."""

    uri: str
    text_field: str
    label_field: str | None
    unit: Literal["thread", "post"] = "thread"
    scores_field: str | None = None


class Document(NamedTuple):
    """One text of a row, and where it is from.

    row: the row's 0-based number in the file; blank lines and bad rows count.
    fields: the row's other columns; a label asked for by a dotted name is there under that name.
    part: 0-based in its row: with #unit=post a thread gives a document a post.
    id: the source's own name for it: column `id`, else `url`; a thread's or post's number.
    scores: of toxicity and the like, in [0, 1], names in lower case; None where there are none.
    """

    row: int
    text: str
    fields: dict[str, Any]
    part: int = 0
    id: str | None = None
    scores: dict[str, float] | None = None


@dataclass
class BadRows:
    """What one `read` could not use, filled while it runs: a fresh one for each file."""

    n_rows: int = 0
    count: int = 0
    places: list[str] = field(default_factory=list)
    n_without_field: int = 0
    columns: set[str] = field(default_factory=set)


class _Fault(NamedTuple):
    reason: str
    columns: tuple[str, ...] | None = (
        None  # the fields present, when the fault is that one is absent
    )


def expand(uris: Sequence[str]) -> list[Source]:
    """The files that `uris` name, in the order of the URIs, then by name; every one exists, is not
    empty and comes once.
    """
    sources = [source for uri in uris for source in _expand_one(uri)]
    seen: dict[str, str] = {}
    for source in sources:
        identity = _identity(source.uri)
        if identity in seen:
            raise ConfigurationError(
                f"{source.uri} comes twice (also as {seen[identity]}) in {list(uris)}; name each file once"
            )
        seen[identity] = source.uri
    return sources


def settings(source: Source) -> tuple[Any, ...]:
    """What decides the documents of a source beside its bytes: for the digest that names what is
    made of them.
    """
    return (VERSION, *source[1:])


def checksum(source: Source) -> str:
    """sha256 of the file's bytes; of a synthetic part or a shard of the hub, of its full name and
    the version of what reads it.
    """
    if maker := _maker(source.uri):
        return hashlib.sha256(f"{maker.VERSION} {source.uri}".encode()).hexdigest()
    sha256 = hashlib.sha256()
    with ranged_reads.open_stream(source.uri) as stream:
        while chunk := stream.read(CHUNK_BYTES):
            sha256.update(chunk)
    return sha256.hexdigest()


def n_bytes(source: Source) -> int:
    """Size of the file; of a synthetic part, about the size of its text, for plans and progress
    bars; of a shard nominal.
    """
    maker = _maker(source.uri)
    return maker.n_bytes(source.uri) if maker else storage.size(source.uri)


def read(
    source: Source, bad: BadRows | None = None, *, max_bad_rows_ratio: float = 0.01
) -> Iterator[Document]:
    """The file's documents in order; `bad` learns which rows could not be used.

    Raises ArtefactCorrupt when the file is damaged, or when at its end, or after any row from the
    100th on, the share of bad rows exceeds `max_bad_rows_ratio`; ConfigurationError when no row has
    the field asked for.
    """
    bad = BadRows() if bad is None else bad
    plain, text_field, new = source[2:] == PLAIN, source.text_field, tuple.__new__
    for row in _rows(source):
        bad.n_rows += 1
        number, _, columns = row
        if plain and type(columns) is dict and type(text := columns.get(text_field)) is str:
            # The hot path, a text in a column and nothing else asked for, without a call: 1 µs. The
            # row is ours, so what is left of it are its other fields; Document(…) would take three
            # times as long as the tuple.
            del columns[text_field]
            own_id = columns.get("id")
            own_id = own_id if type(own_id) is str else _own_id(columns)
            scores = (
                _scores(columns, None) if SCORES[0] in columns or SCORES[1] in columns else None
            )
            yield new(Document, (number, text, columns, 0, own_id, scores))
        elif isinstance(found := _documents(row, source), list):
            yield from found
        else:
            _note(found, f"{source.uri}:{row.line}", bad)
        if bad.count and bad.n_rows >= SAMPLE_ROWS:
            _check_share(source, bad, max_bad_rows_ratio)
    _check_share(source, bad, max_bad_rows_ratio)


def _expand_one(uri: str) -> list[Source]:
    pattern, options = split_options(uri, OPTIONS)
    chosen: dict[str, Any] = {"text_field": "text", "label_field": None}
    chosen |= {SOURCE_FIELDS[key]: value for key, value in options.items()}
    if maker := _maker(pattern):
        return [Source(part, **chosen) for part in maker.expand(pattern)]
    found = storage.glob(pattern)
    if not found:
        below = (
            ""
            if "://" in pattern or Path(pattern).is_absolute()
            else f" below the working folder {Path.cwd()}"
        )
        raise ConfigurationError(
            f"{uri} matches no file{below}; expected the URI of a file, or a pattern such as folder/*.jsonl.gz; check the name"
        )
    for name in found:
        formats.check(name)
        if storage.size(name) == 0:
            raise ConfigurationError(
                f"{name} is empty (0 bytes); expected documents; remove it from the corpus or fetch it again"
            )
    return [Source(name, **chosen) for name in found]


def _maker(uri: str) -> Any:
    """The module that knows the rows of a URI that names no file; None for files."""
    return synthetic if synthetic.is_synthetic(uri) else hub if hub.is_hub(uri) else None


def _identity(uri: str) -> str:
    local = uri.removeprefix("file://")
    return uri if "://" in local or _maker(uri) else os.path.realpath(local)


def _documents(row: formats.Row, source: Source) -> list[Document] | _Fault:
    columns = row.content
    if isinstance(columns, str):
        return _Fault(columns)
    text = _lookup(columns, source.text_field)
    wanted = (source.text_field, source.label_field, source.scores_field)
    if isinstance(text, list):
        wanted = (source.label_field,) if source.unit == "thread" else ()
    for name in filter(None, wanted):
        if _lookup(columns, name) is None:
            return _Fault(f"no field {name!r}", tuple(columns))
    if isinstance(text, list):
        return _of_posts(row.number, columns, text, source)
    if not isinstance(text, str) or source.unit == "post":
        kind = "text" if source.unit == "thread" else "list of posts"
        return _Fault(f"field {source.text_field!r} is no {kind}", tuple(columns))
    fields = _fields(columns, source.text_field, source.label_field)
    return [
        Document(
            row.number, text, fields, 0, _own_id(columns), _scores(columns, source.scores_field)
        )
    ]


def _of_posts(
    number: int, columns: dict[str, Any], posts: list[Any], source: Source
) -> list[Document] | _Fault:
    """A thread as one document, or as one a post: then fields and label are the post's own."""
    try:
        if source.unit == "thread":
            thread = fourchan.as_thread(posts, source.scores_field)
            fields = _fields(columns, source.text_field, source.label_field)
            return [Document(number, thread.text, fields, 0, thread.id, thread.scores)]
        return [
            Document(
                number,
                text.text,
                _fields(posts[text.part], "com", source.label_field),
                text.part,
                text.id,
                text.scores,
            )
            for text in fourchan.as_posts(posts, source.scores_field)
        ]
    except ValueError as error:
        return _Fault(f"field {source.text_field!r} {error}", tuple(columns))


def _fields(columns: dict[str, Any], text_field: str, label_field: str | None) -> dict[str, Any]:
    fields = {name: value for name, value in columns.items() if name != text_field}
    if label_field is not None:
        fields[label_field] = _lookup(columns, label_field)
    return fields


def _own_id(columns: dict[str, Any]) -> str | None:
    own_id = columns.get("id")
    if own_id is None:
        own_id = columns.get("url")
    return own_id if own_id is None or type(own_id) is str else str(own_id)


def _scores(columns: dict[str, Any], scores_field: str | None) -> dict[str, float] | None:
    """From the field asked for, an object of scores or one number; else from an object in a column
    of SCORES.
    """
    for name in [scores_field] if scores_field else SCORES:
        value = _lookup(columns, name)
        if isinstance(value, dict):
            return fourchan.scores_in(value)
        if scores_field:
            return fourchan.scores_in({name.rpartition(".")[2]: _as_number(value)})
    return None


def _as_number(value: Any) -> Any:
    """A score in a CSV file is a word."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return None


def _lookup(columns: dict[str, Any], name: str) -> Any:
    """The value of column `name`, or of the object it reaches into by dots; None when absent."""
    if name in columns:
        return columns[name]
    value: Any = columns
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _note(fault: _Fault, place: str, bad: BadRows) -> None:
    bad.count += 1
    if len(bad.places) < MAX_PLACES:
        bad.places.append(f"{place} {fault.reason}")
    if fault.columns is not None:
        bad.n_without_field += 1
        bad.columns.update(fault.columns)


def _check_share(source: Source, bad: BadRows, max_bad_rows_ratio: float) -> None:
    if bad.count <= max_bad_rows_ratio * bad.n_rows:
        return
    if bad.n_without_field == bad.n_rows:
        named = {
            "text": source.text_field,
            "label": source.label_field,
            "scores": source.scores_field,
        }
        wanted = ", ".join(f"{what} in field {name!r}" for what, name in named.items() if name)
        raise ConfigurationError(
            f"{source.uri}: no row has {wanted}; the rows have {', '.join(sorted(bad.columns)) or 'no fields'}; "
            "say which one holds it with URI#text=FIELD (likewise label and scores, joined by &)"
        )
    raise ArtefactCorrupt(
        f"{source.uri}: {bad.count} of the first {bad.n_rows} rows cannot be used: {'; '.join(bad.places)}; their share "
        f"{bad.count / bad.n_rows:.3g} exceeds {max_bad_rows_ratio:g}; mend the file, or raise data.cleaning.max_bad_rows_ratio"
    )


def _rows(source: Source) -> Iterator[formats.Row]:
    if maker := _maker(source.uri):
        return (
            formats.Row(number, number + 1, row)
            for number, row in enumerate(maker.rows(source.uri))
        )
    return formats.rows(source.uri)
