"""Segments are read back by ranges of keys, and damage is noticed."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from tiny_tokenized_file import (
    numbered_rows,
    read_segment,
    segment_keys,
    task_for,
    tokenize_rows,
    train_tiny_tokenizer,
    write_source,
)

from data_prep.build import sorted_segments, tokenize_file
from data_prep.core import storage
from data_prep.core.errors import ArtefactCorrupt
from data_prep.token_stream import megatron_shards, shuffle_key
from data_prep.token_stream.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tiny_tokenizer()


@pytest.mark.parametrize("row_group", [1, 3, 8192])
def test_ranges_of_keys_cut_a_segment_without_loss_or_overlap(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, row_group: int
) -> None:
    monkeypatch.setattr(sorted_segments, "ROW_GROUP", row_group)
    uri, _ = tokenize_rows(tmp_path, tokenizer, numbered_rows(40))
    whole = read_segment(uri)
    keys = segment_keys(uri)
    edges = [0, 1, keys[3], keys[3] + 1, keys[20] - 1, keys[39], shuffle_key.KEY_SPACE]
    pieces = [read_segment(uri, low, high) for low, high in pairwise(edges)]
    assert [piece.table.num_rows for piece in pieces] == [0, 3, 1, 16, 19, 1]
    assert [key for piece in pieces for key in piece.table["key"].to_pylist()] == keys
    assert np.array_equal(np.concatenate([piece.tokens for piece in pieces]), whole.tokens)


def test_a_range_fetches_only_its_tokens_and_row_groups(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sorted_segments, "ROW_GROUP", 400)
    uri, record = tokenize_rows(tmp_path, tokenizer, numbered_rows(4000))
    keys = segment_keys(uri)
    lengths = read_segment(uri).table["n_tokens"].to_pylist()
    requests: list[tuple[str, int, int]] = []
    read = storage.read
    monkeypatch.setattr(
        storage,
        "read",
        lambda uri, start, end: requests.append((uri, start, end)) or read(uri, start, end),
    )
    assert read_segment(uri, keys[2000], keys[2002]).table["key"].to_pylist() == keys[2000:2002]
    itemsize = np.dtype(record.dtype).itemsize
    spans = [(start, end) for name, start, end in requests if name.endswith("tokens.bin")]
    assert spans == [(sum(lengths[:2000]) * itemsize, sum(lengths[:2002]) * itemsize)]
    _footer, *groups = [
        end - start for name, start, end in requests if name.endswith("documents.parquet")
    ]
    n_bytes = storage.size(f"{uri}/segment-00000.documents.parquet")
    assert 0 < sum(groups) < n_bytes / 5  # one or two row groups of ten


@pytest.mark.parametrize("name", ["tokens.bin", "documents.parquet"])
def test_a_flipped_byte_is_noticed_and_its_file_named(
    tmp_path: Path, tokenizer: Tokenizer, name: str
) -> None:
    uri, _ = tokenize_rows(tmp_path, tokenizer)
    path = Path(uri) / f"segment-00000.{name}"
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtefactCorrupt, match=name):
        read_segment(uri)


def test_a_file_of_tokens_that_is_cut_off_is_noticed(tmp_path: Path, tokenizer: Tokenizer) -> None:
    uri, _ = tokenize_rows(tmp_path, tokenizer)
    path = Path(uri) / "segment-00000.tokens.bin"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(ArtefactCorrupt, match=r"tokens\.bin: has .* bytes from token 0 on"):
        read_segment(uri)


def test_segments_and_shards_are_written_to_and_read_from_s3(
    tmp_path: Path, tokenizer: Tokenizer, s3_server: str
) -> None:
    rows = numbered_rows(40)
    local_uri, record = tokenize_rows(tmp_path, tokenizer, rows)
    remote_uri = f"{s3_server}/work/one"
    task = task_for(write_source(tmp_path, rows), tokenizer)
    assert tokenize_file.tokenize_file(task, remote_uri) == record
    keys = segment_keys(local_uri)
    local, remote = (read_segment(uri, keys[7], keys[31]) for uri in (local_uri, remote_uri))
    assert remote.table.equals(local.table) and remote.table.num_rows == 24
    assert np.array_equal(remote.tokens, local.tokens)
    lengths = remote.table["n_tokens"].to_numpy()
    shard = megatron_shards.write_shard(
        f"{s3_server}/stream", "train-00000", remote.tokens, lengths, remote.table
    )
    megatron_shards.check_shard(f"{s3_server}/stream", shard)
