"""An input that was changed or replaced is noticed, and one that was only touched is accepted."""

import gzip
import json
import logging
import os
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_build import CONFIG, TEXTS, config_for_files, given_tokenizer, write_jsonl

from data_prep.build import pipeline, stream_inputs, stream_paths, tokenize_file, train_tokenizer
from data_prep.config import AnnotationConfig, DataConfig, DecontaminationConfig
from data_prep.core import storage
from data_prep.core.errors import ConfigurationError
from data_prep.sources import corpus_reader, input_files
from data_prep.sources.corpus_reader import Source
from data_prep.sources.input_files import InputVersion
from data_prep.token_stream import manifest

pytestmark = pytest.mark.usefixtures("ray_cluster")
OTHERS = [text.replace("document", "tnemucod") for text in TEXTS]  # of the same sizes


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO)
    return caplog


def touch(path: Path, seconds: int = 5) -> None:
    modified = path.stat().st_mtime + seconds
    os.utime(path, (modified, modified))


def build_clean(config: DataConfig, folder: Path) -> manifest.Manifest:
    return pipeline.build(config, "clean", str(folder / "out"))


def test_an_input_replaced_by_one_of_the_same_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    config = config_for_files(tmp_path, write_jsonl(path, TEXTS))
    known = build_clean(config, tmp_path)
    write_jsonl(path, OTHERS)
    touch(path)
    with pytest.raises(
        ConfigurationError,
        match=r"manifest\.json: the input .*/a\.jsonl \(modified .* UTC; now modified .* UTC\) has "
        r"the same size and another content .* sha256 [0-9a-f]{16}… then, [0-9a-f]{16}… now; "
        r"restore the file, or delete .*manifest\.json to build .* or choose another --out",
    ):
        build_clean(config, tmp_path)
    uri = tmp_path / "out" / stream_paths.stream_uri(config, "clean") / manifest.NAME
    uri.unlink()  # what the message says
    again = build_clean(config, tmp_path)
    assert again.inputs[0].sha256 != known.inputs[0].sha256
    assert build_clean(config, tmp_path) == again


def test_an_input_that_was_only_touched_is_accepted_and_recorded(
    tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.jsonl"
    config = config_for_files(tmp_path, write_jsonl(path, TEXTS))
    known = build_clean(config, tmp_path)
    touch(path)
    assert build_clean(config, tmp_path) == known
    assert "comparing the content of 1 input files" in log.text and "a.jsonl (modified" in log.text
    log.clear()
    assert build_clean(config, tmp_path) == known
    assert "comparing" not in log.text


def test_unchanged_inputs_are_compared_only_on_request(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    config = config_for_files(tmp_path, write_jsonl(path, TEXTS))
    status = path.stat()
    known = build_clean(config, tmp_path)
    write_jsonl(path, OTHERS)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as `cp -p` leaves it
    assert build_clean(config, tmp_path) == known
    with pytest.raises(ConfigurationError, match=r"a\.jsonl .*the same size and another content"):
        build_clean(replace(config, verify_inputs=True), tmp_path)
    write_jsonl(path, TEXTS)
    assert build_clean(replace(config, verify_inputs=True), tmp_path) == known


def test_a_stream_without_recorded_versions_says_how_to_record_them(
    tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.jsonl"
    config = config_for_files(tmp_path, write_jsonl(path, TEXTS))
    known = build_clean(config, tmp_path)
    folder = tmp_path / "out" / stream_paths.stream_uri(config, "clean")
    (folder / stream_inputs.NAME).unlink()
    touch(path)
    assert build_clean(config, tmp_path) == known
    assert "set data.verify_inputs=true once" in log.text
    log.clear()
    assert build_clean(replace(config, verify_inputs=True), tmp_path) == known
    assert build_clean(config, tmp_path) == known
    assert "verify_inputs" not in log.text


def test_a_trained_tokenizer_notices_a_replaced_corpus(
    tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.jsonl"
    config = replace(
        CONFIG,
        clean=(write_jsonl(path, TEXTS),),
        tokenizer=replace(CONFIG.tokenizer, vocab_size=280),
    )
    root = str(tmp_path / "out")
    known = train_tokenizer.build_tokenizer(config, root)
    touch(path)
    assert train_tokenizer.build_tokenizer(config, root).fingerprint == known.fingerprint
    assert "the tokenizer is the same" in log.text
    write_jsonl(path, OTHERS)
    touch(path, 10)
    with pytest.raises(
        ConfigurationError, match=f"has fingerprint {known.fingerprint}, but made of the files of"
    ) as error:
        train_tokenizer.build_tokenizer(config, root)
    assert str(tmp_path / "out" / stream_paths.stream_uri(config, "toxic")) in str(error.value)


def test_a_replaced_tokenizer_file_is_noticed_and_a_lost_one_is_not_needed(tmp_path: Path) -> None:
    config = replace(CONFIG, tokenizer=given_tokenizer(tmp_path))
    config = replace(config, tokenizer=replace(config.tokenizer, fingerprint=None))
    given, root = tmp_path / "given.json", str(tmp_path / "out")
    known = train_tokenizer.build_tokenizer(config, root)
    parsed = json.loads(given.read_text())
    parsed["model"]["merges"].pop()
    given.write_text(json.dumps(parsed))
    touch(given)
    with pytest.raises(ConfigurationError, match="restore the files, or choose another --out"):
        train_tokenizer.build_tokenizer(config, root)
    given.unlink()
    assert train_tokenizer.build_tokenizer(config, root).fingerprint == known.fingerprint


@pytest.mark.parametrize("changes", ["decontamination", "lexicon"])
def test_replaced_evaluation_texts_and_lexicons_are_noticed(tmp_path: Path, changes: str) -> None:
    path = tmp_path / "evaluation.jsonl"
    other = Path(write_jsonl(path, ["number document other"]))
    config = config_for_files(tmp_path, write_jsonl(tmp_path / "a.jsonl", TEXTS))
    if changes == "lexicon":
        annotation = AnnotationConfig(kind="meda", scorer=f"lexicon:{other}")
        config = replace(config, annotation=annotation)
    else:
        config = replace(config, decontamination=DecontaminationConfig(uris=(str(other),)))
    build_clean(config, tmp_path)
    write_jsonl(path, ["number tnemucod other"])
    touch(path)
    with pytest.raises(
        ConfigurationError, match=r"the input .*evaluation\.jsonl .*another content"
    ):
        build_clean(config, tmp_path)


def test_an_input_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl"
    config = config_for_files(tmp_path, write_jsonl(path, TEXTS))
    source = Source(str(path), "text", None)
    tokenizer = train_tokenizer.build_tokenizer(config, str(tmp_path / "out"))
    uri = storage.join(str(tmp_path / "out"), stream_paths.tokenizer_uri(config))
    checksum = corpus_reader.checksum

    def checksum_before_a_change(source: Source) -> str:
        result = checksum(source)
        write_jsonl(path, OTHERS)
        touch(path)
        return result

    monkeypatch.setattr(corpus_reader, "checksum", checksum_before_a_change)
    pinned = (uri, replace(config.tokenizer, fingerprint=tokenizer.fingerprint))
    work = tmp_path / "work"
    with pytest.raises(ConfigurationError, match=r"a\.jsonl was changed while it was read: .* now"):
        tokenize_file.tokenize_input(source, str(path), config, pinned, None, str(work))
    assert not list(work.rglob("*")), "nothing is published under the wrong checksum"


def test_a_build_that_starts_again_says_which_inputs_changed(
    tmp_path: Path, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl"
    config = config_for_files(tmp_path, write_jsonl(path, TEXTS))
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "find_duplicates", lambda *_: pytest.fail("killed here"))
        with pytest.raises(pytest.fail.Exception):
            build_clean(config, tmp_path)
    write_jsonl(path, OTHERS)
    touch(path)
    known = build_clean(config, tmp_path)
    assert "a.jsonl (modified" in log.text and "changed since this build was started" in log.text
    assert known.inputs[0].sha256 == corpus_reader.checksum(Source(str(path), "text", None))


def test_one_file_in_both_corpora_is_refused_under_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl"
    uri = write_jsonl(path, TEXTS)
    link = tmp_path / "link.jsonl"
    link.symlink_to(path)
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    config = config_for_files(tmp_path, uri)
    for name in (uri, "a.jsonl", f"file://{uri}", str(link), "a.*", f"{uri}#label=label"):
        with pytest.raises(ConfigurationError, match=r"is in both corpora, .* and data\.toxic"):
            stream_inputs.check_both_corpora(replace(config, toxic=(name,)))
    with pytest.raises(ConfigurationError, match=r"copy\.jsonl in data\.toxic have the same bytes"):
        pipeline.build(replace(config, toxic=(str(copy),)), "toxic", str(tmp_path / "out"))


def test_one_corpus_on_both_sides_is_refused_before_it_is_listed() -> None:
    with pytest.raises(ConfigurationError, match=r"^s3://b/\*\.jsonl is in both corpora, data"):
        replace(CONFIG, clean=("a", "s3://b/*.jsonl"), toxic=("s3://b/*.jsonl",))


def test_one_file_may_hold_clean_and_toxic_text_in_two_fields(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"polite": "a kind sentence", "rude": "another sentence"}\n')
    config = replace(CONFIG, clean=(f"{path}#text=polite",), toxic=(f"{path}#text=rude",))
    stream_inputs.check_both_corpora(config)


def test_files_of_one_size_and_other_bytes_are_two_files(tmp_path: Path) -> None:
    clean = write_jsonl(tmp_path / "a.jsonl", TEXTS)
    toxic = write_jsonl(tmp_path / "b.jsonl", OTHERS)
    stream_inputs.check_both_corpora(replace(CONFIG, clean=(clean,), toxic=(toxic,)))


def test_changed_names_sizes_or_order_of_inputs_are_refused() -> None:
    def files(*names_and_sizes: tuple[str, int]) -> list[InputVersion]:
        return [InputVersion(uri=uri, n_bytes=n, version="") for uri, n in names_and_sizes]

    then = files(("a", 1), ("b", 2))
    input_files.check_same_files("r.json", then, then, "build again")
    for now, message in (
        (
            files(("a", 1), ("b", 3)),
            "2 files then, 2 now, .*: b had 2 bytes, and has 3 bytes; rest",
        ),
        (files(("b", 2), ("a", 1)), "first difference: their order"),
        (files(("a", 1)), r"2 files then, 1 now, .*: b \(2 bytes\) is not among them now"),
        (files(*[(file.uri, file.n_bytes) for file in then], ("c", 5)), r"c \(5 bytes\) was not"),
    ):
        with pytest.raises(ConfigurationError, match=rf"^r\.json: the inputs changed .*{message}"):
            input_files.check_same_files("r.json", then, now, "build again")


def test_the_version_of_an_embedded_corpus_is_its_name() -> None:
    (first, second) = input_files.of_corpus(["synthetic:clean?documents=9&parts=2"])
    assert first.version.startswith("name ") and first.version != second.version


def test_compressed_inputs_are_compared_by_their_bytes(tmp_path: Path) -> None:
    lines = b"".join(b'{"text": "%s"}\n' % text.encode() for text in TEXTS)
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(lines, mtime=1))
    config = config_for_files(tmp_path, str(path))
    build_clean(config, tmp_path)
    path.write_bytes(gzip.compress(lines, mtime=2))
    touch(path)
    with pytest.raises(ConfigurationError, match="another content"):
        build_clean(config, tmp_path)
