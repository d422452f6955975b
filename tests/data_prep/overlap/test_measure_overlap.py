"""The overlap of evaluation texts with finished streams is that of the plain definition."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from tiny_build import CONFIG as TINY_BUILD
from tiny_build import file_contents, write_jsonl

from data_prep.build import pipeline, stream_paths
from data_prep.cleaning import ngrams
from data_prep.config import DataConfig, DecontaminationConfig, StreamName
from data_prep.core import ray_tasks, storage
from data_prep.core.errors import ArtefactCorrupt, ClusterError, ConfigurationError
from data_prep.core.records import digest
from data_prep.overlap import measure_overlap, overlap_record
from data_prep.overlap.overlap_record import SetOverlap, SoughtSet
from data_prep.sources import corpus_reader
from data_prep.token_stream import manifest, reader, tokenizer

pytestmark = pytest.mark.usefixtures("ray_cluster")
CONFIG = replace(TINY_BUILD, shard_tokens=2_000)  # documents cross shards
N = 13


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> str:
    """Both streams of the tiny build, several shards each."""
    folder = str(tmp_path_factory.mktemp("streams"))
    for name in ("clean", "toxic"):
        pipeline.build(CONFIG, name, folder)
    return folder


def stream_uri(root: str, name: StreamName, config: DataConfig = CONFIG) -> str:
    return storage.join(root, stream_paths.stream_uri(config, name))


def train_texts(root: str, name: StreamName) -> list[str]:
    """The documents of the training split, in stream order, by another way than the search."""
    uri = stream_uri(root, name)
    known = manifest.load(uri)
    engine = tokenizer.load(
        storage.join(root, stream_paths.tokenizer_uri(CONFIG)), CONFIG.tokenizer
    )
    documents = reader.read_documents(uri, known, "train", known.n_documents)
    return [engine.decode(ids) for ids in documents]


def grams_of(words: list[bytes], n: int) -> set[bytes]:
    return {b" ".join(words[i : i + n]) for i in range(len(words) - n + 1)}


def overlapping(texts: list[str], documents: list[str], n: int = N) -> int:
    """How many texts of at least n words share n words in a row with a document."""
    trained_on = {gram for text in documents for gram in grams_of(ngrams.words(text), n)}
    return sum(bool(grams_of(ngrams.words(text), n) & trained_on) for text in texts)


def measured(root: str, name: StreamName, uri: str) -> SetOverlap:
    known = overlap_record.find(stream_uri(root, name), uri)
    assert known is not None
    return known


def test_the_overlap_is_that_of_a_search_by_brute_force(root, tmp_path):
    documents = train_texts(root, "clean")
    words = [ngrams.words(text) for text in documents]
    quotes = [b" ".join(each[3 : 3 + N]).decode().upper() for each in words[::5] if len(each) > 20]
    near_misses = [b" ".join([*each[:12], b"other"]).decode() for each in words if len(each) > 20]
    texts = [*quotes, *near_misses, "one of only few words", *(f"{q} and more" for q in quotes)]
    uri = write_jsonl(tmp_path / "texts.jsonl", texts)
    measure_overlap.measure(CONFIG, root, [SoughtSet("eval.prompts", uri)])
    for name in ("clean", "toxic"):
        known = manifest.load(stream_uri(root, name))
        assert len(known.train) > 1
        assert measured(root, name, uri) == SetOverlap(
            format_version=overlap_record.FORMAT_VERSION,
            manifest_digest=digest(known),
            texts_digest=measured(root, name, uri).texts_digest,
            uri=uri,
            ngram=N,
            n_texts=len(texts),
            n_searched=len(texts) - 1,
            n_found=overlapping(texts, train_texts(root, name)),
            is_whole_set=True,
            n_tokens_searched=known.split_tokens("train"),
            n_tokens=known.split_tokens("train"),
        )
    assert measured(root, "clean", uri).n_found >= 2 * len(quotes) > 10


def test_text_across_shards_is_found_and_across_documents_not(root, tmp_path):
    uri = stream_uri(root, "clean")
    known = manifest.load(uri)
    assert sum(shard.n_continued_tokens > 0 for shard in known.train) >= 1
    documents = [ngrams.words(text) for text in train_texts(root, "clean")]
    across_shards = []
    begun = 0
    for shard, following in pairwise(known.train):
        begun += shard.n_documents
        if following.n_continued_tokens:
            across_shards.append(b" ".join(documents[begun - 1]).decode())
    across_documents = [
        b" ".join([*one[-7:], *other[:7]]).decode() for one, other in pairwise(documents)
    ]
    found = write_jsonl(tmp_path / "found.jsonl", across_shards)
    absent = write_jsonl(tmp_path / "absent.jsonl", across_documents)
    expected = overlapping(across_documents, train_texts(root, "clean"))
    measure_overlap.measure(CONFIG, root, [SoughtSet("a", found), SoughtSet("b", absent)])
    assert measured(root, "clean", found).n_found == len(across_shards) >= 1
    assert measured(root, "clean", absent).n_found == expected < len(across_documents) / 2


def test_several_sets_are_counted_apart_in_one_pass(root, tmp_path, monkeypatch):
    documents = [text for text in train_texts(root, "toxic") if len(ngrams.words(text)) >= N]
    one = write_jsonl(tmp_path / "one.jsonl", documents[:3])
    two = write_jsonl(tmp_path / "two.jsonl", [*documents[2:4], "word " * 20])
    titles = []
    run = ray_tasks.run

    def counted(tasks, title, unit):
        titles.append(title)
        return run(tasks, title, unit)

    monkeypatch.setattr(ray_tasks, "run", counted)
    sets = [SoughtSet("a", one), SoughtSet("b", two), SoughtSet("c", f"{one}#label=x")]
    measure_overlap.measure(CONFIG, root, sets)
    assert [measured(root, "toxic", uri).n_found for uri in (one, two)] == [3, 2]
    assert measured(root, "toxic", f"{one}#label=x") == measured(root, "toxic", one)
    assert titles.count("overlap clean") == titles.count("overlap toxic") == 1
    before = file_contents(Path(root))
    titles.clear()
    measure_overlap.measure(CONFIG, root, sets)
    assert titles == ["evaluation texts"] and file_contents(Path(root)) == before


def test_a_set_that_changed_or_was_sampled_is_measured_again(root, tmp_path):
    uri = str(tmp_path / "set.jsonl")
    (document,) = [text for text in train_texts(root, "clean") if len(ngrams.words(text)) > N][:1]
    write_jsonl(
        tmp_path / "set.jsonl", ["no such text in any of the documents of this stream " * 2]
    )
    sampled = replace(CONFIG, overlap_search_ratio=0.01)
    measure_overlap.measure(sampled, root, [SoughtSet("a", uri)])
    first = measured(root, "clean", uri)
    assert first.n_tokens_searched == CONFIG.shard_tokens < first.n_tokens and not first.n_found
    measure_overlap.measure(CONFIG, root, [SoughtSet("a", uri)])
    assert measured(root, "clean", uri).n_tokens_searched == first.n_tokens
    measure_overlap.measure(sampled, root, [SoughtSet("a", uri)])
    assert measured(root, "clean", uri).n_tokens_searched == first.n_tokens
    write_jsonl(tmp_path / "set.jsonl", [document])
    measure_overlap.measure(CONFIG, root, [SoughtSet("a", uri)])
    assert measured(root, "clean", uri).n_found == 1


def test_a_killed_search_continues_with_the_shards_that_are_left(root, tmp_path, monkeypatch):
    uri = write_jsonl(tmp_path / "texts.jsonl", train_texts(root, "clean")[:5])
    run = ray_tasks.run
    killed = False

    def killed_midway(tasks, title, unit):
        nonlocal killed
        for number, result in enumerate(run(tasks, title, unit)):
            if title == "overlap clean" and number == 1 and not killed:
                killed = True
                raise ClusterError("the driver ends here")
            yield result

    monkeypatch.setattr(ray_tasks, "run", killed_midway)
    with pytest.raises(ClusterError):
        measure_overlap.measure(CONFIG, root, [SoughtSet("a", uri)])
    assert overlap_record.find(stream_uri(root, "clean"), uri) is None
    parts = Path(stream_uri(root, "clean"), "overlap", "parts")
    done = {path: path.stat().st_mtime_ns for path in parts.rglob("*.json")}
    assert done
    times = []

    def noted(tasks, title, unit):
        yield from run(tasks, title, unit)
        if title == "overlap clean":
            times.append({path: path.stat().st_mtime_ns for path in parts.rglob("*.json")})

    monkeypatch.setattr(ray_tasks, "run", noted)
    measure_overlap.measure(CONFIG, root, [SoughtSet("a", uri)])
    assert times[0].items() >= done.items()  # what was done was not done again
    assert measured(root, "clean", uri).n_found == 5
    assert not list(parts.rglob("*.json"))


def test_what_was_looked_for_is_not_measured_and_nothing_if_it_is_off(root, tmp_path):
    uri = write_jsonl(tmp_path / "texts.jsonl", ["some text that is long enough to be searched"])
    looked_for = replace(CONFIG, decontamination=DecontaminationConfig(uris=(f"{uri}#text=text",)))
    assert overlap_record.was_looked_for(f"{uri}#label=x", looked_for)
    measure_overlap.measure(looked_for, root, [SoughtSet("a", f"{uri}#label=x")])
    off = replace(CONFIG, overlap_search_ratio=0.0)
    measure_overlap.measure(off, root, [SoughtSet("a", uri)])
    assert overlap_record.find(stream_uri(root, "clean"), uri) is None
    not_dropped = replace(CONFIG, decontamination=DecontaminationConfig(uris=(uri,), ngram=0))
    assert not overlap_record.was_looked_for(uri, not_dropped)
    assert overlap_record.ngram_of(not_dropped) == N


def test_of_a_large_set_the_first_texts_are_searched_for(root, tmp_path, monkeypatch):
    texts = [f"text {number} has more than eight words in it and a number" for number in range(9)]
    uri = write_jsonl(tmp_path / "large.jsonl", texts)
    (source,) = corpus_reader.expand([uri])
    monkeypatch.setattr(measure_overlap, "MAX_SET_BYTES", 4 * len(texts[0]))
    assert measure_overlap._texts([source], CONFIG.cleaning) == (texts[:4], False)


def test_a_set_that_is_not_there_is_refused_by_name(root, tmp_path):
    with pytest.raises(ConfigurationError, match=r"absent\.jsonl matches no file"):
        measure_overlap.measure(CONFIG, root, [SoughtSet("a", str(tmp_path / "absent.jsonl"))])


def test_a_record_of_another_version_is_refused(root, tmp_path):
    uri = str(tmp_path / "any.jsonl")
    name = overlap_record.record_uri(str(tmp_path), uri)
    storage.write(name, b'{"format_version": 99}')
    with pytest.raises(ArtefactCorrupt, match="this program reads version 1"):
        overlap_record.find(str(tmp_path), uri)


def test_documents_by_shard_are_the_documents_of_the_stream(root):
    for name in ("clean", "toxic"):
        uri = stream_uri(root, name)
        known = manifest.load(uri)
        by_shard = [
            ids
            for number in range(len(known.train))
            for ids in reader.documents_of_shard(uri, known, "train", number)
        ]
        whole = reader.read_documents(uri, known, "train", known.n_documents)
        assert len(by_shard) == len(whole)
        assert all(map(np.array_equal, by_shard, whole))
