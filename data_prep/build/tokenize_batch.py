"""a batch of documents → cleaned, decontaminated, annotated, tokenized, with provenance

    documents ─ clean, mask ─▶ kept texts ─ annotate ─▶ prefix + text ─ encode ─▶ ids, eos
                    │
                    └─▶ dropped, with a reason

Lengths in bytes and hashes for dedup are those of the cleaned text without its prefix.
"""

import json
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from data_prep.build import dedup
from data_prep.build.sorted_segments import TokenizedDocuments
from data_prep.cleaning import annotate_toxicity, clean_document
from data_prep.cleaning.decontaminate import NGrams
from data_prep.cleaning.dropped_samples import DropCounter
from data_prep.config import DataConfig
from data_prep.sources.corpus_reader import Document, Source
from data_prep.sources.input_files import InputVersion
from data_prep.token_stream import shuffle_key
from data_prep.token_stream.megatron_shards import dtype_for
from data_prep.token_stream.tokenizer import Tokenizer

if TYPE_CHECKING:
    import pyarrow

FIRST_CHECKED = 3  # documents of a file that are always compared with the reference engine
CHECK_EVERY_DOCUMENTS = 1021  # then one in so many; a prime, so that it follows no period of a file


class TokenizeTask(NamedTuple):
    """Everything that decides a tokenized file: the input, and what is done with it."""

    source: Source
    input_sha256: str
    tokenizer: Tokenizer
    config: DataConfig
    evaluation: NGrams | None  # of the evaluation texts that documents must not overlap with
    input: InputVersion | None = None  # before the checksum was taken; None is not checked


class TokenizedBatch(NamedTuple):
    """Tokenized documents, and their hashes for dedup (dedup.hash_table)."""

    documents: TokenizedDocuments
    hashes: "pyarrow.Table | None"


class _KeptDocuments(NamedTuple):
    """The documents of a batch that are kept, their cleaned texts, whether something personal was
    masked in each, and whether its language is uncertain.
    """

    documents: list[Document]
    texts: list[str]
    is_masked: list[bool]
    is_language_uncertain: list[bool]


def tokenize_batch(
    batch: list[Document], n_before: int, task: TokenizeTask, drops: DropCounter
) -> TokenizedBatch:
    """The kept documents of a batch, tokenized.

    n_before: kept documents of the file before this batch. Some documents are compared with the
    reference engine: the first few of the file, then one in CHECK_EVERY_DOCUMENTS.
    """
    kept = _decontaminate(_clean(batch, task, drops), task, drops)
    keys = _shuffle_keys(kept, task)
    prefixes = _annotations(kept, keys, task)
    texts = [prefix + text for prefix, text in zip(prefixes, kept.texts, strict=True)]
    ids, lengths = task.tokenizer.encode_batch(texts)
    ends = np.cumsum(lengths)
    for i in _checked(n_before, len(texts)):
        task.tokenizer.check_sample(texts[i], ids[ends[i] - lengths[i] : ends[i]])
    documents = TokenizedDocuments(
        _provenance(kept, keys, lengths + 1, prefixes, task), _with_eos(ids, ends, task.tokenizer)
    )
    return TokenizedBatch(documents, dedup.hash_table(kept.texts, task.config.dedup))


def _clean(batch: list[Document], task: TokenizeTask, drops: DropCounter) -> _KeptDocuments:
    kept = _KeptDocuments([], [], [], [])
    for document in batch:
        cleaned = clean_document.clean(document.text, task.config.cleaning, document.scores)
        if cleaned.text is None:
            drops.add(cleaned.reason, document.row, document.part, document.text)
        else:
            kept.documents.append(document)
            kept.texts.append(cleaned.text)
            kept.is_masked.append(cleaned.is_masked)
            kept.is_language_uncertain.append(cleaned.is_language_uncertain)
    return kept


def _decontaminate(kept: _KeptDocuments, task: TokenizeTask, drops: DropCounter) -> _KeptDocuments:
    """The documents that do not overlap with an evaluation text."""
    if task.evaluation is None or not kept.texts:
        return kept
    overlaps = task.evaluation.hits(kept.texts)
    for i in np.flatnonzero(overlaps).tolist():
        document = kept.documents[i]
        drops.add("evaluation_overlap", document.row, document.part, kept.texts[i])
    remaining = np.flatnonzero(~overlaps).tolist()
    return _KeptDocuments(
        [kept.documents[i] for i in remaining],
        [kept.texts[i] for i in remaining],
        [kept.is_masked[i] for i in remaining],
        [kept.is_language_uncertain[i] for i in remaining],
    )


def _shuffle_keys(kept: _KeptDocuments, task: TokenizeTask) -> np.ndarray:
    rows = np.array([document.row for document in kept.documents], np.int64)
    parts = np.array([document.part for document in kept.documents], np.int64)
    return shuffle_key.shuffle_keys(task.input_sha256, rows, parts, task.config.shuffle_seed)


def _annotations(kept: _KeptDocuments, keys: np.ndarray, task: TokenizeTask) -> list[str]:
    """The prefix of each text; held-out documents have none."""
    annotation = task.config.annotation
    if not annotation.is_on:
        return [""] * len(kept.texts)
    scores = [document.scores for document in kept.documents]
    prefixes = annotate_toxicity.prefixes(
        kept.texts, keys, scores, _labels(kept, task.source), annotation
    )
    is_held_out = keys < np.uint64(shuffle_key.held_out_bound(task.config.held_out_ratio))
    return [
        "" if held_out else prefix
        for prefix, held_out in zip(prefixes, is_held_out.tolist(), strict=True)
    ]


def _checked(n_before: int, n_texts: int) -> set[int]:
    """The documents of a batch that are compared with the reference engine."""
    first = range(min(FIRST_CHECKED - n_before, n_texts))
    later = range(-n_before % CHECK_EVERY_DOCUMENTS, n_texts, CHECK_EVERY_DOCUMENTS)
    return {*first, *later}


def _with_eos(ids: np.ndarray, ends: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
    """The ids of all documents with eos after each, little-endian, in the type of the stream."""
    dtype = np.dtype(dtype_for(tokenizer.n_ids)).newbyteorder("<")
    tokens = np.full(len(ids) + len(ends), tokenizer.eos_id, dtype)
    is_text = np.ones(len(tokens), bool)
    is_text[ends + np.arange(len(ends))] = False
    tokens[is_text] = ids
    return tokens


def _provenance(
    kept: _KeptDocuments,
    keys: np.ndarray,
    n_tokens: np.ndarray,
    prefixes: list[str],
    task: TokenizeTask,
) -> "pyarrow.Table":
    """A row per document: the columns of sorted_segments.PROVENANCE."""
    import pyarrow as pa

    documents = kept.documents
    n_bytes = [len(text) if text.isascii() else len(text.encode()) for text in kept.texts]
    scores = [
        None if document.scores is None else list(document.scores.items()) for document in documents
    ]
    columns = {
        "key": pa.array(keys, pa.uint64()),
        "row": pa.array([document.row for document in documents], pa.int64()),
        "part": pa.array([document.part for document in documents], pa.int32()),
        "id": pa.array([document.id for document in documents], pa.string()),
        "n_tokens": pa.array(n_tokens, pa.int64()),
        "n_bytes": pa.array(n_bytes, pa.int64()),
        "label": pa.array(_labels(kept, task.source), pa.string()),
        "scores": pa.array(scores, pa.map_(pa.string(), pa.float32())),
        "masked": pa.array(kept.is_masked, pa.bool_()),
        "language_uncertain": pa.array(kept.is_language_uncertain, pa.bool_()),
        "annotated": pa.array([bool(prefix) for prefix in prefixes], pa.bool_()),
    }
    return pa.table(columns)


def _labels(kept: _KeptDocuments, source: Source) -> list[str | None]:
    field = source.label_field
    return [_as_text(document.fields[field]) if field else None for document in kept.documents]


def _as_text(label: object) -> str | None:
    return label if label is None or isinstance(label, str) else json.dumps(label)
