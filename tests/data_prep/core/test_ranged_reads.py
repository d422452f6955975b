import io
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from proxy import Proxy

from data_prep.core import storage
from data_prep.core.errors import ArtefactCorrupt, ArtefactMissing
from data_prep.core.store import ranged_reads
from data_prep.core.store.ranged_reads import RangedFile

CONTENT = bytes(range(200))


@pytest.fixture
def uri(s3_server: str, proxy: Proxy, tmp_path: Path) -> str:
    """CONTENT in an object store."""
    storage.write(f"{s3_server}/{tmp_path.name}/object", CONTENT)
    return f"{s3_server}/{tmp_path.name}/object"


@pytest.mark.parametrize("block_bytes", [7, 64, 200, 999])
def test_a_stream_takes_one_get_per_block(
    proxy: Proxy, uri: str, monkeypatch: pytest.MonkeyPatch, block_bytes: int
):
    monkeypatch.setattr(storage, "BLOCK_BYTES", block_bytes)
    before = proxy.counts["GET"]
    with ranged_reads.open_stream(uri) as stream:
        assert b"".join(iter(lambda: stream.read(3), b"")) == CONTENT
    assert proxy.counts["GET"] - before == -(-len(CONTENT) // block_bytes)


def test_a_stream_can_be_read_from_any_position(uri: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(storage, "BLOCK_BYTES", 16)
    with ranged_reads.open_stream(uri) as stream:
        for start in (150, 0, 16, 199, 200, 40):
            assert (stream.seek(start), stream.read(40)) == (start, CONTENT[start : start + 40])
        assert stream.seek(-5, io.SEEK_END) == 195 and stream.read() == CONTENT[195:]


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.none() | st.integers(0, 250), st.integers(0, 120))),
    st.booleans(),
)
def test_any_seeks_and_reads_give_the_bytes_of_a_file(
    tmp_path: Path, reads: list[tuple[int | None, int]], read_ahead: bool
):
    """reads: where to seek to (None: read on from here), and how many bytes to read."""
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    expected = io.BytesIO(CONTENT)
    file = RangedFile(str(path), read_ahead=read_ahead)
    for start, n_bytes in reads:
        if start is not None:
            assert file.seek(start) == expected.seek(start)
        assert file.read(n_bytes) == expected.read(n_bytes)
        assert file.tell() == expected.tell()


def test_each_read_is_one_request_and_none_is_made_ahead(proxy: Proxy, uri: str):
    file = RangedFile(uri)
    before = proxy.counts["GET"]
    assert [file.read(50) for _ in range(3)] == [CONTENT[:50], CONTENT[50:100], CONTENT[100:150]]
    assert proxy.counts["GET"] - before == 3


def test_read_ahead_starts_with_the_second_of_two_adjacent_reads(monkeypatch: pytest.MonkeyPatch):
    storage.write("memory://ranged/file", CONTENT)
    ranges = []
    read_exactly = ranged_reads.read_exactly

    def recorded(uri: str, start: int, end: int) -> bytes:
        ranges.append((start, end))
        return read_exactly(uri, start, end)

    monkeypatch.setattr(ranged_reads, "read_exactly", recorded)
    file = RangedFile("memory://ranged/file", read_ahead=True)
    file.read(50)
    assert ranges == [(0, 50)]
    file.read(50)
    assert file.read(50) == CONTENT[100:150]
    file.seek(10)
    assert file.read(20) == CONTENT[10:30]
    assert sorted(ranges) == [(0, 50), (10, 30), (50, 100), (100, 150), (150, 200)]


def test_a_file_truncated_while_it_is_read_is_corrupt(tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    file = RangedFile(str(path), read_ahead=True)
    assert file.read(60) == CONTENT[:60]
    path.write_bytes(CONTENT[:100])
    with pytest.raises(ArtefactCorrupt, match=r"returned 40 bytes for the range 60 to 120"):
        file.read(60)


def test_a_missing_file_is_reported(tmp_path: Path):
    with pytest.raises(ArtefactMissing, match="nothing"):
        RangedFile(str(tmp_path / "nothing"))


@pytest.mark.parametrize("n_bytes", [0, 1, 15, 16, 17, 200])
def test_a_download_has_every_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_bytes: int):
    monkeypatch.setattr(storage, "BLOCK_BYTES", 16)
    storage.write("memory://ranged/down", CONTENT[:n_bytes])
    (tmp_path / "down").write_bytes(b"an older and longer file" * 20)
    ranged_reads.download("memory://ranged/down", tmp_path / "down")
    assert (tmp_path / "down").read_bytes() == CONTENT[:n_bytes]


def test_a_write_that_takes_a_part_only_is_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytes(range(256)) * 10
    storage.write(str(tmp_path / "whole"), content)
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, part, at: write(file, part[:100], at))
    ranged_reads.download(str(tmp_path / "whole"), tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content
