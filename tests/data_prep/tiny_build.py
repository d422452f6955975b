"""A small build of token streams: what the tests of the stream build share."""

import json
from dataclasses import replace
from pathlib import Path

from data_prep.config import DataConfig, TokenizerConfig
from data_prep.token_stream import tokenizer

# The embedded corpus, in several files and shards.
CONFIG = DataConfig(
    clean=("synthetic:clean?documents=90&seed=0&parts=3",),
    toxic=("synthetic:toxic?documents=30&seed=0&parts=2",),
    tokenizer=TokenizerConfig(source="train", vocab_size=400, train_bytes=40_000),
    held_out_ratio=0.2,
    shard_tokens=8_000,
)
TEXTS = [f"the document with the number {i} is a document like any other" for i in range(30)]


def write_jsonl(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def given_tokenizer(folder: Path) -> TokenizerConfig:
    """A tokenizer file in `folder`, given by URI and fingerprint."""
    trained = tokenizer.train(iter(TEXTS), TokenizerConfig(source="train", vocab_size=280))
    uri = str(folder / "given.json")
    tokenizer.save(trained, uri)
    return TokenizerConfig(source=uri, vocab_size=280, fingerprint=trained.fingerprint)


def config_for_files(folder: Path, *clean: str) -> DataConfig:
    """Settings of a build of files of our own, with a tokenizer in the same folder."""
    return replace(CONFIG, clean=clean, tokenizer=given_tokenizer(folder), held_out_ratio=0.3)


def file_contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
