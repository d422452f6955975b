"""Documents in both streams are counted always, and left out of the clean one on request."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from tiny_build import CONFIG, TEXTS, config_for_files, file_contents, write_jsonl

from data_prep import build_streams
from data_prep.build import dedup, pipeline, stream_paths
from data_prep.cards import data_card
from data_prep.config import AnnotationConfig, DataConfig
from data_prep.core import storage
from data_prep.core.errors import ArtefactMissing, ConfigurationError
from data_prep.token_stream import manifest, text_hashes
from data_prep.token_stream.text_hashes import CommonDocuments

pytestmark = pytest.mark.usefixtures("ray_cluster")
COMMON = TEXTS[:7]
TOXIC = [*COMMON, *(f"a rude text with the number {i} in it" for i in range(13))]


def two_corpora(folder: Path, **changes: object) -> DataConfig:
    """30 clean and 20 toxic documents, of which 7 are in both."""
    config = config_for_files(folder, write_jsonl(folder / "clean.jsonl", TEXTS))
    config = replace(config, toxic=(write_jsonl(folder / "toxic.jsonl", TOXIC),))
    return replace(config, **changes)


def build(config: DataConfig, root: str) -> dict[str, manifest.Manifest]:
    return {name: pipeline.build(config, name, root) for name in ("clean", "toxic")}


def uris(config: DataConfig, root: str) -> dict:
    return {n: storage.join(root, stream_paths.stream_uri(config, n)) for n in ("clean", "toxic")}


def counts(config: DataConfig, root: str) -> tuple[int, int, int]:
    common = data_card.load_all(uris(config, root))["clean"].common
    assert common
    return common.n_texts, common.n_clean, common.n_toxic


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"dedup": "keep"},
        {"annotation": AnnotationConfig(kind="inst", scorer="lexicon:synthetic:lexicon")},
        {"shard_tokens": 64},
    ],
)
def test_documents_in_both_streams_are_counted(tmp_path: Path, changes: dict) -> None:
    config = two_corpora(tmp_path, **changes)
    build(config, str(tmp_path / "out"))
    assert counts(config, str(tmp_path / "out")) == (7, 7, 7)


def test_copies_within_a_stream_are_counted_each(tmp_path: Path) -> None:
    config = two_corpora(tmp_path, dedup="keep")
    write_jsonl(tmp_path / "clean.jsonl", [*TEXTS, TEXTS[0], TEXTS[1], TEXTS[29]])
    build(config, str(tmp_path / "out"))
    assert counts(config, str(tmp_path / "out")) == (7, 9, 7)


def test_the_count_is_the_same_with_many_ranges_of_hashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = two_corpora(tmp_path)
    monkeypatch.setattr(dedup, "HASHES_PER_TASK", 4)
    build(config, str(tmp_path / "out"))
    assert counts(config, str(tmp_path / "out")) == (7, 7, 7)
    clean, toxic = (text_hashes.files(uri) for uri in uris(config, str(tmp_path / "out")).values())
    assert (len(clean), len(toxic)) == (8, 5)
    texts = text_hashes.read(clean, 0, 1 << 64)
    assert texts.hashes.tolist() == sorted(dedup.exact_hashes(TEXTS).tolist())
    assert np.array_equal(texts.n_documents, np.ones(30))


def test_common_documents_are_warned_of_with_the_remedy(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    config = two_corpora(tmp_path)
    build(config, str(tmp_path / "out"))
    assert "7 documents of the clean stream (23 %) and 7 of the toxic one (35 %)" in caplog.text
    assert "data.common_documents=drop" in caplog.text


def test_common_documents_are_left_out_of_the_clean_stream_on_request(tmp_path: Path) -> None:
    config = two_corpora(tmp_path, common_documents="drop")
    root = str(tmp_path / "out")
    streams = build(config, root)
    assert streams["clean"].drops == {"in_toxic_stream": 7}
    assert (streams["clean"].n_documents, streams["toxic"].n_documents) == (23, 20)
    assert counts(config, root) == (0, 0, 0)
    rows = set[int]()
    for shard in (*streams["clean"].train, *streams["clean"].held_out):
        uri = storage.join(uris(config, root)["clean"], f"{shard.name}.documents.parquet")
        rows |= set(pq.read_table(uri)["row"].to_pylist())
    assert rows == set(range(7, 30))


@pytest.mark.parametrize("mode", ["keep", "exact"])
def test_each_copy_of_a_common_document_is_left_out(tmp_path: Path, mode: str) -> None:
    config = two_corpora(tmp_path, common_documents="drop", dedup=mode)
    write_jsonl(tmp_path / "clean.jsonl", [*TEXTS, TEXTS[0], TEXTS[29]])
    known = pipeline.build(config, "clean", str(tmp_path / "out"))
    expected = {"in_toxic_stream": 8} | ({"exact_duplicate": 1} if mode == "exact" else {})
    assert known.drops == expected


def test_leaving_out_makes_the_clean_stream_depend_on_the_toxic_one() -> None:
    config = CONFIG
    drop = replace(config, common_documents="drop")
    assert stream_paths.stream_uri(config, "toxic") == stream_paths.stream_uri(drop, "toxic")
    assert stream_paths.stream_uri(config, "clean") != stream_paths.stream_uri(drop, "clean")
    other = replace(drop, toxic=("c",))
    assert stream_paths.stream_uri(other, "clean") != stream_paths.stream_uri(drop, "clean")


def test_a_clean_stream_of_another_toxic_one_is_refused(tmp_path: Path) -> None:
    config = two_corpora(tmp_path, common_documents="drop")
    root = str(tmp_path / "out")
    build(config, root)
    write_jsonl(tmp_path / "toxic.jsonl", TOXIC[1:])
    Path(uris(config, root)["toxic"], manifest.NAME).unlink()
    pipeline.build(config, "toxic", root)
    with pytest.raises(ConfigurationError, match="built without the documents of the toxic stream"):
        pipeline.build(config, "clean", root)
    Path(uris(config, root)["clean"], manifest.NAME).unlink()  # what the message says
    assert pipeline.build(config, "clean", root).drops == {"in_toxic_stream": 6}


def test_a_corpus_that_is_wholly_in_the_toxic_one_is_refused(tmp_path: Path) -> None:
    config = two_corpora(tmp_path, common_documents="drop")
    write_jsonl(tmp_path / "clean.jsonl", COMMON)
    with pytest.raises(ConfigurationError, match="clean corpus: no document is left after"):
        pipeline.build(config, "clean", str(tmp_path / "out"))


def test_a_stream_of_an_earlier_version_is_not_counted_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = two_corpora(tmp_path)
    root = str(tmp_path / "out")
    build(config, root)
    folder = Path(uris(config, root)["clean"])
    (count,) = folder.glob("common-with-*.json")
    count.unlink()
    (folder / "texts-00000-of-00001.parquet").unlink()
    pipeline.build(config, "clean", root)
    assert "documents common to both streams are not counted" in caplog.text
    with pytest.raises(ArtefactMissing, match="delete the manifest and build the stream again"):
        text_hashes.files(str(folder))
    (folder / manifest.NAME).unlink()
    pipeline.build(config, "clean", root)
    assert counts(config, root) == (7, 7, 7)


def test_a_count_of_other_manifests_is_made_again(tmp_path: Path) -> None:
    config = two_corpora(tmp_path)
    root = str(tmp_path / "out")
    build(config, root)
    (path,) = Path(uris(config, root)["clean"]).glob("common-with-*.json")
    known = storage.load(CommonDocuments, str(path))
    before = file_contents(path.parent)
    storage.save(replace(known, toxic_manifest_digest="0" * 16, n_clean=99), str(path))
    pipeline.build(config, "clean", root)
    assert file_contents(path.parent) == before


def test_the_command_shows_what_was_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = two_corpora(tmp_path)
    write_jsonl(tmp_path / "clean.jsonl", [*TEXTS, "short", TEXTS[0]] + TEXTS * 10)
    with (tmp_path / "clean.jsonl").open("a") as file:
        file.write("no json\n")
    write_jsonl(tmp_path / "empty.jsonl", ["short"])
    config = replace(config, clean=(*config.clean, str(tmp_path / "empty.jsonl")))
    settings = tmp_path / "data.json"
    storage.save(config, str(settings))
    assert build_streams.main(["--config", str(settings), "--out", str(tmp_path / "out")]) == 0
    printed = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    for row in (
        "clean toxic",
        "documents read 333 20",
        "unreadable rows 1 0",
        "files without a document 1 0",
        "dropped: exact_duplicate 301 0",
        "dropped: too_short 2 0",
        "documents kept 30 20",
        "kept, also in the other stream 7 (23 %) 7 (35 %)",
    ):
        assert row in printed, printed
