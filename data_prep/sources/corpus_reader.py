"""read a corpus: from document URIs to documents, with unreadable rows counted

A corpus is a list of URIs. Each names files (with wildcards) or another source of rows:

    s3://c4/en/c4-train.*.json.gz          the text is in the field `text`
    tweets.csv.gz#text=tweet&label=class   other fields; dots reach into objects: text=prompt.text
    pol.ndjson.zst#text=posts              one 4chan thread per line, as one document (fourchan.py)
    pol.ndjson.zst#text=posts&unit=post    the same posts, each as a document
    prompts.jsonl#text=prompt.text&scores=prompt   with the scores in that object, or in a column of
                                           numbers; the columns `perspectives` and `scores` are
                                           read without being named
    hub:allenai/c4?config=en&revision=…    streamed from the Hugging Face hub (hub.py)
    synthetic:clean?documents=6000&parts=4 the embedded corpus (synthetic.py)

A field of text is needed: a list is read as a thread only if its objects are posts. A list of texts
or of chat messages is refused with the command that joins it. A column in use that a file has twice
is refused, too.

A plain-text file is one document, because a blank line inside prose ends a paragraph and not a
text; a line that holds only `<|endoftext|>` separates documents. Rows that cannot be read are
counted with their place and never skipped silently. A file with too many of them stops the build,
because it usually has another format.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from data_prep.core import storage, telemetry
from data_prep.core.store import ranged_reads
from data_prep.sources import formats, fourchan, label_values
from data_prep.sources.corpus_uris import Source, expand, row_source
from data_prep.sources.field_faults import (
    BadRows,
    Fault,
    check_bad_rows,
    missing_field,
    wrong_score,
    wrong_type,
)
from data_prep.sources.readers.file_row import Columns, FileRow

__all__ = [
    "BadRows", "Document", "Source", "checksum", "expand", "lookup", "n_bytes", "read",
    "reading_settings",
]  # fmt: skip

VERSION = 4  # raise it with any change of the documents that a file gives
MIN_ROWS_TO_JUDGE = 100  # below this a share of bad rows says little, unless the file ends
ONLY_TEXT = (None, "thread", None)  # a Source from its label_field on, without any option but text
SCORE_COLUMNS = ("perspectives", "scores")  # hold scores without being named in the URI
OWN_COLUMNS = ("id", "url", *SCORE_COLUMNS)  # read where a row has them
CHUNK_BYTES = 128 << 10


class Document(NamedTuple):
    """One text of a row, and where it comes from.

    row: the row's 0-based number in the file; blank lines and bad rows count.
    fields: the row's other columns; a label with a dotted name is in it under that name. Of a
        Parquet file they are those that `read` was asked for.
    part: 0-based number within the row: with #unit=post a thread is one document per post.
    id: the corpus's own identifier: column `id`, else `url`; the number of a thread or post.
    scores: of toxicity and the like, in [0, 1], with names in lower case; None without scores.
    """

    row: int
    text: str
    fields: dict[str, Any]
    part: int = 0
    id: str | None = None
    scores: dict[str, float] | None = None


def reading_settings(source: Source) -> tuple[Any, ...]:
    """Everything besides the bytes of a source that decides its documents, for a digest."""
    return (VERSION, *source[1:])


def checksum(source: Source) -> str:
    """sha256 of the file's bytes.

    For a row source without files: sha256 of its full name and the version of its reader.
    """
    if reader := row_source(source.uri):
        return hashlib.sha256(f"{reader.VERSION} {source.uri}".encode()).hexdigest()
    sha256 = hashlib.sha256()
    with ranged_reads.open_stream(source.uri) as stream:
        while chunk := stream.read(CHUNK_BYTES):
            sha256.update(chunk)
    return sha256.hexdigest()


def n_bytes(source: Source) -> int:
    """The size of the file; for a row source without files an estimate, for plans and progress."""
    reader = row_source(source.uri)
    return reader.n_bytes(source.uri) if reader else storage.size(source.uri)


def read(
    source: Source,
    bad: BadRows | None = None,
    *,
    max_bad_rows_ratio: float = 0.01,
    columns: Sequence[str] | None = None,
) -> Iterator[Document]:
    """The file's documents in order; rows that cannot be used are added to `bad`, or named in a
    warning without it.

    columns: other fields that the caller uses; None for all. A Parquet file is read only for these
    and for what the source names; the values of no other column can make a row bad.

    Raises ArtefactCorrupt for a damaged file, and when the share of bad rows exceeds
    `max_bad_rows_ratio` after any row from the 100th on or at the end of the file.
    Raises ConfigurationError when no row has the requested field.
    """
    is_counted = bad is not None
    bad = BadRows() if bad is None else bad
    only_text = source[2:] == ONLY_TEXT
    text_field = source.text_field
    new = tuple.__new__
    for row in _rows(source, columns):
        bad.n_rows += 1
        number, _, content = row
        if only_text and type(content) is dict and type(text := content.get(text_field)) is str:
            # The hot path, 1 µs: a text in a column and no other option, without a function call.
            # The row is not used again, so the rest of it becomes `fields`. Document(…) would take
            # three times as long as tuple.__new__.
            del content[text_field]
            own_id = content.get("id")
            own_id = own_id if type(own_id) is str else _own_id(content)
            has_scores = SCORE_COLUMNS[0] in content or SCORE_COLUMNS[1] in content
            scores = _scores(content, None) if has_scores else None
            yield new(Document, (number, text, content, 0, own_id, scores))
        elif isinstance(documents := _documents(row, source), list):
            yield from documents
        else:
            bad.add(documents, f"{source.uri}:{row.line}")
        if bad.count and bad.n_rows >= MIN_ROWS_TO_JUDGE:
            check_bad_rows(bad, max_bad_rows_ratio, source.uri, _named_fields(source))
    check_bad_rows(bad, max_bad_rows_ratio, source.uri, _named_fields(source))
    if not bad.n_rows:
        telemetry.logger.warning(
            "%s has no rows, so it gives no documents; download it again if it should have some",
            source.uri,
        )
    elif bad.count and not is_counted:
        telemetry.logger.warning(
            "%s: %s of %s rows cannot be used and %s left out: %s",
            source.uri,
            f"{bad.count:,}",
            f"{bad.n_rows:,}",
            "is" if bad.count == 1 else "are",
            "; ".join(bad.places),
        )


def _documents(row: FileRow, source: Source) -> list[Document] | Fault:
    columns = row.content
    if isinstance(columns, str):
        return Fault(columns)
    text = lookup(columns, source.text_field)
    required = (source.text_field, source.label_field, source.scores_field)
    if isinstance(text, list):  # the scores and, with #unit=post, the label are in the posts
        required = (source.label_field,) if source.unit == "thread" else ()
    for name in filter(None, required):
        if lookup(columns, name) is None:
            return missing_field(name, columns, is_null=_is_present(columns, name))
    if isinstance(text, list):
        return _documents_of_posts(row.number, columns, text, source)
    if not isinstance(text, str) or source.unit == "post":
        expected = "a text" if source.unit == "thread" else "a list of posts"
        return wrong_type(source.text_field, text, columns, expected)
    if source.scores_field is not None:
        fault = wrong_score(source.scores_field, lookup(columns, source.scores_field), columns)
        if fault is not None:
            return fault
    fields = _other_fields(columns, source.text_field, source.label_field)
    own_id = _own_id(columns)
    scores = _scores(columns, source.scores_field)
    return [Document(row.number, text, fields, part=0, id=own_id, scores=scores)]


def _documents_of_posts(
    number: int, columns: dict[str, Any], posts: list[Any], source: Source
) -> list[Document] | Fault:
    """A thread as one document, or as one per post with the post's own fields and label."""
    if posts and not any(isinstance(post, dict) and fourchan.is_post(post) for post in posts):
        expected = "a text" if source.unit == "thread" else "a list of posts"
        return wrong_type(source.text_field, posts, columns, expected)
    try:
        if source.unit == "thread":
            thread = fourchan.as_thread(posts, source.scores_field)
            fields = _other_fields(columns, source.text_field, source.label_field)
            return [Document(number, thread.text, fields, 0, thread.id, thread.scores)]
        return [
            Document(
                number,
                post.text,
                _other_fields(posts[post.part], "com", source.label_field),
                post.part,
                post.id,
                post.scores,
            )
            for post in fourchan.as_posts(posts, source.scores_field)
        ]
    except ValueError as error:
        return Fault(f"field {source.text_field!r} {error}", tuple(columns))


def _other_fields(
    columns: dict[str, Any], text_field: str, label_field: str | None
) -> dict[str, Any]:
    fields = {name: value for name, value in columns.items() if name != text_field}
    if label_field is not None:
        fields[label_field] = lookup(columns, label_field)
    return fields


def _own_id(columns: dict[str, Any]) -> str | None:
    own_id = columns.get("id")
    if own_id is None:
        own_id = columns.get("url")
    return own_id if own_id is None or type(own_id) is str else str(own_id)


def _scores(columns: dict[str, Any], scores_field: str | None) -> dict[str, float] | None:
    """Scores from the field named (an object, or one number), else from a column of SCORE_COLUMNS
    that holds an object.
    """
    for name in [scores_field] if scores_field else SCORE_COLUMNS:
        value = lookup(columns, name)
        if isinstance(value, dict):
            return fourchan.scores_in(value)
        if scores_field:
            return fourchan.scores_in({name.rpartition(".")[2]: label_values.as_number(value)})
    return None


def lookup(columns: Mapping[str, Any], name: str) -> Any:
    """The value of column `name`, or inside the object that its dots reach into; None if absent."""
    if name in columns:
        return columns[name]
    value: Any = columns
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _is_present(columns: dict[str, Any], name: str) -> bool:
    outer, _, last = name.rpartition(".")
    holder = lookup(columns, outer) if outer else columns
    return name in columns or (isinstance(holder, dict) and last in holder)


def _named_fields(source: Source) -> dict[str, str]:
    """The fields that the options of the URI name, by what they are for."""
    fields = {
        "text": source.text_field,
        "label": source.label_field,
        "scores": source.scores_field,
    }
    return {what: name for what, name in fields.items() if name}


def _rows(source: Source, columns: Sequence[str] | None) -> Iterator[FileRow]:
    if reader := row_source(source.uri):
        return (
            FileRow(number, number + 1, row) for number, row in enumerate(reader.rows(source.uri))
        )
    in_use = Columns(
        named=tuple(_named_fields(source).values()),
        others=(*OWN_COLUMNS, *(columns or ())),
        is_all=columns is None,
    )
    return formats.rows(source.uri, in_use)
