"""Files whose content is not what their name says: pointers, other encodings, other formats."""

import gzip
import io
import zipfile
from pathlib import Path

import pytest
import zstandard
from corpus_files import corpus_file, json_lines, texts_of

from data_prep.core.errors import ConfigurationError
from data_prep.sources.corpus_reader import BadRows, expand, read

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 123\n"
ANNEX = b"/annex/objects/SHA256E-s1234--4d7a21.jsonl\n"
ANNEX_RELATIVE = b"../.git/annex/objects/xx/yy/SHA256E-s1234--4d7a21/SHA256E-s1234--4d7a21.jsonl"
DVC = b"outs:\n- md5: a304afb96060aad90176268345e10355\n  size: 37891850\n  path: data.jsonl\n"
XET = b"# xet version 0\nfilesize = 1234\nhash = '4d7a21'\n"
ENDINGS = ["jsonl", "csv", "txt", "parquet", "jsonl.gz", "csv.zst"]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        (LFS, "git lfs pull"),
        (ANNEX, "git annex get"),
        (ANNEX_RELATIVE, "git annex get"),
        (DVC, "dvc pull"),
        (XET, "git xet"),
    ],
)
def test_a_pointer_is_refused_by_name(content: bytes, remedy: str, ending: str, tmp_path: Path):
    (tmp_path / f"a.{ending}").write_bytes(content)
    with pytest.raises(ConfigurationError, match=rf"a\.{ending} is a pointer .*{remedy}"):
        expand([f"{tmp_path}/*"])


def test_a_file_known_only_to_dvc_is_not_left_out(tmp_path: Path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a"}\n')
    assert len(expand([f"{tmp_path}/*.jsonl"])) == 1
    (tmp_path / "b.jsonl.dvc").write_bytes(DVC)
    for uri in (f"{tmp_path}/*.jsonl", f"{tmp_path}/b.jsonl", f"{tmp_path}/*"):
        with pytest.raises(ConfigurationError, match=r"b\.jsonl.*dvc pull"):
            expand([uri])


ENCODINGS = {
    "utf-16": "UTF-16",
    "utf-16-le": "UTF-16LE",
    "utf-16-be": "UTF-16BE",
    "utf-32": "UTF-32",
    "utf-32-le": "UTF-32LE",
    "utf-32-be": "UTF-32BE",
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", '{"text": "a boat"}\n'),
        ("a.csv", "text,label\na boat,1\n"),
        ("a.txt", "A boat left.\n"),
        ("a.txt.gz", "A boat left.\n"),
    ],
)
def test_utf16_and_utf32_are_named(encoding: str, name: str, text: str):
    content = text.encode(encoding)
    content = gzip.compress(content) if name.endswith(".gz") else content
    with pytest.raises(ConfigurationError, match=rf"{name} is {ENCODINGS[encoding]}.*iconv -f"):
        texts_of(corpus_file(content, name))


def test_the_conversion_that_the_error_names_works(tmp_path: Path):
    text = '{"text": "a boat"}\n'
    assert texts_of(corpus_file(text.encode("utf-16").decode("utf-16").encode(), "b.jsonl"))


def zip_of(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.jsonl", content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (gzip.compress(b'{"text": "a"}\n'), "is compressed with gzip; .*rename it to .*gz"),
        (zstandard.compress(b'{"text": "a"}\n'), "is compressed with zstd; .*rename it to .*zst"),
        (zip_of(b'{"text": "a"}\n'), "is a zip archive"),
        (b"PAR1" + bytes(20) + b"PAR1", "is a Parquet file; .*rename it to .*parquet"),
        (b"BZh91AY&SY" + bytes(20), "is compressed with bzip2"),
        (b"\xfd7zXZ\0" + bytes(20), "is compressed with xz"),
    ],
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.txt"])
def test_another_format_under_a_wrong_name_is_said(content: bytes, what: str, name: str):
    with pytest.raises(ConfigurationError, match=rf"{name} {what}"):
        texts_of(corpus_file(content, name))


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv.gz", "a.jsonl.zst"])
def test_a_file_without_any_row_is_named_in_a_warning(
    name: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    from data_prep.core import telemetry

    monkeypatch.setattr(telemetry.logger, "propagate", True)
    content = b"text,label\n" if ".csv" in name else b"\n \n"
    content = gzip.compress(content) if name.endswith("gz") else content
    content = zstandard.compress(content) if name.endswith("zst") else content
    assert texts_of(corpus_file(content, name)) == []
    assert f"{name} has no rows" in caplog.text


def test_a_zstd_window_above_the_limit_names_the_way_out():
    compressor = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters(window_log=28)
    ).compressobj()
    content = compressor.compress(json_lines([{"text": "a"}])) + compressor.flush()
    message = r"a\.jsonl\.zst .*window of 268,435,456 bytes.*--long=28.*reshard\.py"
    with pytest.raises(ConfigurationError, match=message):
        texts_of(corpus_file(content, "a.jsonl.zst"))


def test_many_short_lines_of_one_text_take_little_memory():
    import tracemalloc

    content = b"ab\n" * 500_000
    source = corpus_file(content, "lines.txt")
    tracemalloc.start()
    try:
        (document,) = read(source, BadRows())
        assert tracemalloc.get_traced_memory()[1] < 8 * len(content)
    finally:
        tracemalloc.stop()
    assert document.text == content.decode()
