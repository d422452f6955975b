"""A small input file, tokenized: what the tests of segments and tokenization share."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_prep.build import sorted_segments, tokenize_file
from data_prep.build.sorted_segments import TokenizedDocuments
from data_prep.build.tokenize_batch import TokenizeTask
from data_prep.build.tokenize_file import TokenizedFile
from data_prep.config import CleaningConfig, DataConfig, TokenizerConfig
from data_prep.sources import corpus_reader
from data_prep.sources.corpus_reader import Source
from data_prep.token_stream import shuffle_key
from data_prep.token_stream.tokenizer import Tokenizer, train

ROWS = [
    {"text": "the cat sat on the mat", "grade": 1},
    {"text": "x", "grade": 2},
    {"text": "a rat with <|endoftext|> in it", "grade": "odd"},
    {"text": "", "grade": 3},
    {"text": "that is that, and the cat is fat", "grade": None},
    {"text": "the last one of them all", "grade": 4},
]
CONFIG = DataConfig(
    clean=("unused",),
    toxic=("unused, too",),
    tokenizer=TokenizerConfig(source="train", vocab_size=260),
    cleaning=CleaningConfig(min_chars=5),
)


def train_tiny_tokenizer() -> Tokenizer:
    return train(iter([row["text"] for row in ROWS]), CONFIG.tokenizer)


def numbered_rows(n: int) -> list[dict]:
    return [{"text": f"document number {i} of the mat"} for i in range(n)]


def write_source(folder: Path, rows: list[dict] = ROWS) -> Source:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Source(str(path), "text", None)


def task_for(source: Source, tokenizer: Tokenizer, config: DataConfig = CONFIG) -> TokenizeTask:
    return TokenizeTask(source, corpus_reader.checksum(source), tokenizer, config, None)


class TokenizedRows(NamedTuple):
    """The folder of a tokenized file, and its record."""

    uri: str
    record: TokenizedFile


def tokenize_rows(
    folder: Path, tokenizer: Tokenizer, rows: list[dict] = ROWS, config: DataConfig = CONFIG
) -> TokenizedRows:
    uri = str(folder / "tokenized")
    task = task_for(write_source(folder, rows), tokenizer, config)
    return TokenizedRows(uri, tokenize_file.tokenize_file(task, uri))


def read_segment(
    uri: str, low: int = 0, high: int = shuffle_key.KEY_SPACE, number: int = 0
) -> TokenizedDocuments:
    return sorted_segments.read(sorted_segments.uri_of(uri, number), low, high, "uint16")


def segment_keys(uri: str) -> list[int]:
    return read_segment(uri).table["key"].to_pylist()


def decode_documents(documents: TokenizedDocuments, tokenizer: Tokenizer) -> list[str]:
    """The texts without eos, which must end each of them and occur nowhere else."""
    lengths = documents.table["n_tokens"].to_numpy()
    pieces = np.split(documents.tokens, np.cumsum(lengths)[:-1])
    for piece in pieces:
        assert piece[-1] == tokenizer.eos_id
        assert tokenizer.eos_id not in piece[:-1]
    return [tokenizer.decode(piece[:-1]) for piece in pieces]


def file_contents(uri: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(uri).iterdir()}
