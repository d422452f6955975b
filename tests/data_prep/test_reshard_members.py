"""Members of an archive: read where that is right, otherwise refused or named in a warning."""

import bz2
import gzip
import io
import logging
import tarfile
import tracemalloc
from pathlib import Path

import pytest
import zstandard

from data_prep import reshard as command
from data_prep.core import telemetry
from data_prep.core.errors import ArtefactCorrupt, ConfigurationError
from data_prep.reshard import reshard
from data_prep.sources import corpus_reader
from data_prep.sources.readers import lines

BOM = b"\xef\xbb\xbf"
APPLE = b"\x00\x05\x16\x07" + bytes(60)


def rows(first: int, n: int = 2) -> bytes:
    return b"".join(b'{"text": "row %d"}\n' % number for number in range(first, first + n))


def member(name: str, content: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


def archive_of(folder: Path, *members: tuple[tarfile.TarInfo, bytes], name: str = "a.tar") -> str:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    (folder / name).write_bytes(buffer.getvalue())
    return str(folder / name)


def texts_after_reshard(archive: str, out: Path, **options: str) -> list[str]:
    reshard(archive, str(out), 1 << 20, **options)
    sources = corpus_reader.expand([f"{out}/*.ndjson.zst"])
    return [document.text for source in sources for document in corpus_reader.read(source)]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(telemetry.logger, "propagate", True)
    caplog.set_level(logging.INFO, "hormesis")
    return caplog


def warnings(log: pytest.LogCaptureFixture) -> str:
    return "\n".join(r.getMessage() for r in log.records if r.levelno >= logging.WARNING)


def test_side_files_of_macos_are_no_data(tmp_path: Path, log: pytest.LogCaptureFixture):
    archive = archive_of(
        tmp_path,
        member("./._a.jsonl", APPLE),
        member("./a.jsonl", rows(0)),
        member("__MACOSX/._b.jsonl", APPLE),
        member("b.jsonl", rows(2)),
    )
    assert texts_after_reshard(archive, tmp_path / "out") == [f"row {n}" for n in range(4)]
    assert warnings(log) == "" and "2 side files of macOS" in log.text


def test_hidden_members_are_left_out_and_named(tmp_path: Path, log: pytest.LogCaptureFixture):
    archive = archive_of(
        tmp_path,
        member("a.jsonl", rows(0)),
        member(".a.jsonl", rows(2)),
        member("./.git/b.jsonl", rows(4)),
    )
    assert texts_after_reshard(archive, tmp_path / "out") == ["row 0", "row 1"]
    assert "2 hidden members" in warnings(log) and ".git/b.jsonl" in warnings(log)


def test_byte_order_marks_of_members_are_removed(tmp_path: Path):
    archive = archive_of(
        tmp_path, member("a.jsonl", BOM + rows(0)), member("b.jsonl", BOM + rows(2))
    )
    assert texts_after_reshard(archive, tmp_path / "out") == [f"row {n}" for n in range(4)]


def test_compressed_members_are_read(tmp_path: Path, log: pytest.LogCaptureFixture):
    archive = archive_of(
        tmp_path,
        member("a.jsonl", rows(0)),
        member("b.jsonl.gz", gzip.compress(BOM + rows(2))),
        member("c.ndjson.ZST", zstandard.compress(rows(4)[:-1])),
        member("d.json", rows(6)),
    )
    assert texts_after_reshard(archive, tmp_path / "out") == [f"row {n}" for n in range(8)]
    assert warnings(log) == ""


def test_a_damaged_compressed_member_is_named(tmp_path: Path):
    packed = gzip.compress(rows(2, 1000))
    archive = archive_of(tmp_path, member("a.jsonl", rows(0)), member("b.jsonl.gz", packed[:-9]))
    with pytest.raises(ArtefactCorrupt, match=r"a\.tar is damaged .*b\.jsonl\.gz"):
        reshard(archive, str(tmp_path / "out"), 1 << 20)


@pytest.mark.parametrize(
    ("name", "content", "remedy"),
    [
        ("b.jsonl.bz2", bz2.compress(rows(2)), "gzip or zstd"),
        ("b.jsonl.zip", b"PK\x03\x04", "gzip or zstd"),
        ("b.tar.gz", b"\x1f\x8b", "split it on its own"),
        ("b.csv", b"text\na\n", "name it as a corpus"),
        ("b.parquet", b"PAR1", "name it as a corpus"),
    ],
)
def test_a_member_that_is_not_read_is_named_in_a_warning(
    name: str, content: bytes, remedy: str, tmp_path: Path, log: pytest.LogCaptureFixture
):
    archive = archive_of(tmp_path, member("a.jsonl", rows(0)), member(name, content))
    assert texts_after_reshard(archive, tmp_path / "out") == ["row 0", "row 1"]
    assert name in warnings(log) and remedy in warnings(log)


def test_links_to_what_is_read_lose_nothing(tmp_path: Path, log: pytest.LogCaptureFixture):
    archive = archive_of(
        tmp_path,
        member("x/early.jsonl", type=tarfile.SYMTYPE, linkname="../a.jsonl"),
        member("./a.jsonl", rows(0)),
        member("hard.jsonl", type=tarfile.LNKTYPE, linkname="a.jsonl"),
    )
    assert texts_after_reshard(archive, tmp_path / "out") == ["row 0", "row 1"]
    assert warnings(log) == "" and "2 links" in log.text


def test_links_to_anything_else_are_named_in_a_warning(
    tmp_path: Path, log: pytest.LogCaptureFixture
):
    archive = archive_of(
        tmp_path,
        member("a.jsonl", rows(0)),
        member("data.bin", rows(2)),
        member("hard.jsonl", type=tarfile.LNKTYPE, linkname="data.bin"),
        member("out.jsonl", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    )
    assert texts_after_reshard(archive, tmp_path / "out") == ["row 0", "row 1"]
    for name in ("hard.jsonl", "out.jsonl", "unpack the archive"):
        assert name in warnings(log)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("b.json", b'[{"text": "a"}]', r"member b\.json .*JSON array.*jq -c '\.\[\]'"),
        ("b.json", b'{\n "a": 1\n}\n', r"member b\.json .*several lines.*jq -c \."),
        ("b.jsonl", '{"text": "a"}'.encode("utf-16"), r"member b\.jsonl is UTF-16"),
        ("b.jsonl", b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of git-lfs"),
        ("b.jsonl", gzip.compress(rows(0)), "is compressed with gzip"),
        ("b.jsonl", b"words\n", "contains no JSON lines"),
    ],
)
def test_a_member_that_is_no_json_lines_is_refused_by_name(
    name: str, content: bytes, words: str, tmp_path: Path
):
    archive = archive_of(tmp_path, member("a.jsonl", rows(0)), member(name, content))
    with pytest.raises(ConfigurationError, match=words) as caught:
        reshard(archive, str(tmp_path / "out"), 1 << 20)
    assert "--members" in str(caught.value)
    assert texts_after_reshard(archive, tmp_path / "out", members="a*") == ["row 0", "row 1"]


def test_members_can_be_chosen_and_the_choice_is_recorded(tmp_path: Path):
    archive = archive_of(tmp_path, member("x/a.jsonl", rows(0)), member("x/b.jsonl", rows(2)))
    assert texts_after_reshard(archive, tmp_path / "out", members="x/b*") == ["row 2", "row 3"]
    with pytest.raises(ConfigurationError, match=r"--members 'x/b\*' or another --out"):
        reshard(archive, str(tmp_path / "out"), 1 << 20)
    with pytest.raises(ConfigurationError, match=r"no member .* 'y\*'"):
        reshard(archive, str(tmp_path / "other"), 1 << 20, members="y*")


HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202egnp.jsonl\nforged line"


def test_names_of_members_reach_no_terminal_unescaped(
    tmp_path: Path, log: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture
):
    archive = archive_of(
        tmp_path, member("a.jsonl", rows(0)), member(HOSTILE, b""), member("\udce9.bin", b"")
    )
    arguments = ["--archive", archive, "--out", str(tmp_path / "out")]
    assert command.main(arguments) == 0
    printed = capsys.readouterr()
    shown = printed.out + printed.err + log.text
    assert r"\x1b]0;owned\x07" in shown and r"\nforged line" in shown and r"\udce9" in shown
    assert not set("\x1b\x07\u202e") & set(shown)
    archive = archive_of(tmp_path, member(HOSTILE.replace(".jsonl\n", "") + ".jsonl", b"words"))
    assert command.main(["--archive", archive, "--out", str(tmp_path / "none")]) == 2
    assert not set("\x1b\x07\u202e") & set(capsys.readouterr().err)


def test_an_archive_whose_name_is_not_utf8_is_refused(tmp_path: Path):
    path = tmp_path / "caf\udce9.jsonl"
    path.write_bytes(rows(0))
    with pytest.raises(ConfigurationError, match=r"not UTF-8.*rename it"):
        reshard(str(path), str(tmp_path / "out"), 1 << 20)


def test_a_tar_header_of_any_size_takes_little_memory(tmp_path: Path):
    info = tarfile.TarInfo("header")
    info.type = tarfile.XHDTYPE
    info.size = 64 << 20
    buffer = io.BytesIO(info.tobuf(tarfile.USTAR_FORMAT) + bytes(info.size))
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(buffer.getvalue()))
    del buffer
    tracemalloc.start()
    try:
        with pytest.raises(ArtefactCorrupt, match="header of 67,108,864 bytes"):
            reshard(str(tmp_path / "a.tar.gz"), str(tmp_path / "out"), 1 << 20)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_a_line_above_the_limit_is_refused_by_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lines, "MAX_ROW_BYTES", 100_000)
    content = rows(0) + b'{"text": "' + b"x" * 200_000 + b'"}\n' + rows(2)
    archive = archive_of(tmp_path, member("a.jsonl", content))
    with pytest.raises(ConfigurationError, match=r"line 3 .*longer than 100,000 bytes"):
        reshard(archive, str(tmp_path / "out"), 1 << 20)


def test_a_large_zstd_window_is_read_here(tmp_path: Path):
    parameters = zstandard.ZstdCompressionParameters(window_log=28)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    (tmp_path / "a.jsonl.zst").write_bytes(compressor.compress(rows(0)) + compressor.flush())
    assert texts_after_reshard(str(tmp_path / "a.jsonl.zst"), tmp_path / "out")


def test_members_of_what_is_no_tar_cannot_be_chosen(tmp_path: Path):
    (tmp_path / "a.jsonl").write_bytes(rows(0))
    with pytest.raises(ConfigurationError, match="--members is for a tar"):
        reshard(str(tmp_path / "a.jsonl"), str(tmp_path / "out"), 1 << 20, members="a*")
