"""Shards of a data set, each identified by its full name; here offline, from local folders."""

import gzip
import json
from pathlib import Path

import pytest

from data_prep.core.errors import ArtefactCorrupt, ArtefactMissing, ConfigurationError, StorageError
from data_prep.sources import corpus_reader

pytest.importorskip("datasets")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three shards, as C4 names its own."""
    for shard in range(3):
        rows = [
            {"text": f"row {n} of {shard}", "url": f"https://a.example/{shard}/{n}"}
            for n in range(2)
        ]
        content = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"c4-train.{shard:05d}-of-00003.json.gz").write_bytes(
            gzip.compress(content.encode())
        )
    return tmp_path


def test_each_shard_is_a_source_with_its_rows(folder):
    sources = corpus_reader.expand([f"hub:{folder}"])
    documents = [list(corpus_reader.read(source)) for source in sources]
    assert documents == [
        [
            corpus_reader.Document(n, f"row {n} of {shard}", {"url": url}, id=url)
            for n in range(2)
            for url in [f"https://a.example/{shard}/{n}"]
        ]
        for shard in range(3)
    ]


def test_some_of_the_shards_can_be_requested(folder):
    everything = corpus_reader.expand([f"hub:{folder}?split=train"])
    assert corpus_reader.expand([f"hub:{folder}?shards=2"]) == everything[:2]
    assert corpus_reader.expand([everything[2].uri]) == everything[2:]
    (chosen,) = corpus_reader.expand([f"hub:{folder}?shards=1#text=body&label=url"])
    assert chosen == everything[0]._replace(text_field="body", label_field="url")
    with pytest.raises(ConfigurationError, match="is named twice"):
        corpus_reader.expand([f"hub:{folder}", f"hub:{folder}?shards=1"])


def test_all_splits_of_a_folder_are_read_one_after_the_other(folder):
    (folder / "c4-test.json").write_text('{"text": "to test on", "url": "u"}\n')
    sources = corpus_reader.expand([f"hub:{folder}?split=all"])
    texts = [document.text for source in sources for document in corpus_reader.read(source)]
    assert sorted(texts) == sorted(
        ["to test on", *(f"row {n} of {shard}" for shard in range(3) for n in range(2))]
    )
    before = [corpus_reader.checksum(source) for source in sources]
    (folder / "c4-test.json").write_text('{"text": "another", "url": "u"}\n')
    after = corpus_reader.expand([f"hub:{folder}?split=all"])
    assert not set(before) & {corpus_reader.checksum(source) for source in after}


def test_a_checksum_depends_on_the_shard_and_the_folders_content(folder):
    sums = [corpus_reader.checksum(source) for source in corpus_reader.expand([f"hub:{folder}"])]
    assert len(set(sums)) == 3
    (folder / "c4-train.00000-of-00003.json.gz").write_bytes(
        gzip.compress(b'{"text": "other", "url": "u"}\n')
    )
    changed = [corpus_reader.checksum(source) for source in corpus_reader.expand([f"hub:{folder}"])]
    assert not set(sums) & set(changed)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("shards=4", "has 3 shards"),
        ("shards=0", "has 3 shards"),
        ("shard=3", "has 3 shards"),
        ("shards=all", "cannot use shards=all"),
        ("shard=", "cannot use shard="),
        ("split=a&split=b", "split is given twice"),
        ("name=en", "cannot use name=en"),
        ("split=test", "check config= and split="),
        ("config=en", "check config="),
    ],
)
def test_a_shard_split_or_config_that_does_not_exist_is_refused(query, words, folder):
    with pytest.raises(ConfigurationError, match=words):
        corpus_reader.expand([f"hub:{folder}?{query}"])


def test_a_data_set_of_the_hub_needs_a_commit():
    for uri in ("hub:allenai/c4", "hub:allenai/c4?config=en&revision=main"):
        with pytest.raises(ConfigurationError, match="40 hex digits"):
            corpus_reader.expand([uri])


def test_a_hub_that_does_not_answer_is_a_storage_error():
    with pytest.raises(StorageError, match="HF_HUB_OFFLINE is set"):  # as all tests run
        corpus_reader.expand([f"hub:allenai/c4?config=en&revision={COMMIT}"])


def test_a_folder_without_data_is_missing(tmp_path):
    with pytest.raises(ArtefactMissing, match=f"hub:{tmp_path}"):
        corpus_reader.expand([f"hub:{tmp_path}"])


def test_a_damaged_shard_is_reported_by_name(folder):
    path = folder / "c4-train.00001-of-00003.json.gz"
    path.write_bytes(path.read_bytes()[:-9])
    sources = corpus_reader.expand([f"hub:{folder}"])
    assert len(list(corpus_reader.read(sources[0]))) == 2
    with pytest.raises(ArtefactCorrupt, match="shard=1 cannot be read"):
        list(corpus_reader.read(sources[1]))
