import stat
from itertools import product
from pathlib import Path
from socket import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.core import ranged_reads, storage
from data_prep.core.errors import ArtefactCorrupt, ArtefactMissing, ConfigurationError, StorageError
from data_prep.core.records import record


@record
class Note:
    text: str


@pytest.fixture(params=["file", "memory", "s3"])
def root(request, tmp_path: Path) -> str:
    """An empty folder in each kind of store."""
    if request.param == "s3":
        return f"{request.getfixturevalue('s3_server')}/{tmp_path.name}"
    return f"memory://{tmp_path.name}" if request.param == "memory" else str(tmp_path)


@pytest.fixture
def at_endpoint(monkeypatch: pytest.MonkeyPatch):
    """Use another S3 endpoint in this test only; a process keeps its clients."""

    def point(endpoint: str) -> None:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "test")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        storage._filesystem.cache_clear()

    yield point
    storage._filesystem.cache_clear()


def test_a_file_is_read_back_and_replaced_completely(root):
    uri = storage.join(root, "deep/er/name.bin")
    assert not storage.exists(uri)
    storage.write(uri, b"a longer first text")
    storage.write(uri, b"second")
    assert storage.read(uri) == b"second"
    assert storage.size(uri) == 6
    assert storage.exists(uri)
    assert not storage.exists(storage.join(root, "deep"))  # a folder is not a file


def test_a_large_buffer_is_uploaded_in_parts_and_read_back(root, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(storage, "PART_BYTES", 5 << 20)  # S3 takes no smaller part
    content, uri = bytes(range(256)) * (12 << 12), storage.join(root, "large")
    storage.write(uri, memoryview(content))
    assert storage.read(uri) == content
    storage.write(uri, memoryview(content)[:7])
    assert storage.read(uri) == content[:7]


def test_a_record_is_saved_and_loaded(root):
    storage.save(Note(text="α"), storage.join(root, "note.json"))
    assert storage.load(Note, storage.join(root, "note.json")) == Note(text="α")


def test_an_upload_and_a_download_keep_the_bytes(root, tmp_path: Path):
    source, back = tmp_path / "source", tmp_path / "new folder" / "back"
    source.write_bytes(bytes(range(256)))
    storage.upload(source, storage.join(root, "up/there"))
    ranged_reads.download(storage.join(root, "up/there"), back)
    assert back.read_bytes() == source.read_bytes()


def test_a_stream_reads_from_first_to_last_byte(root):
    storage.write(storage.join(root, "lines"), b"one\ntwo\n")
    with ranged_reads.open_stream(storage.join(root, "lines")) as stream:
        assert list(stream) == [b"one\n", b"two\n"]


def test_a_range_is_a_slice(root):
    content = b"012345"
    storage.write(storage.join(root, "digits"), content)
    for start, end in product((None, 0, 3, 6, 9), repeat=2):
        assert storage.read(storage.join(root, "digits"), start, end) == content[start:end], (
            start,
            end,
        )


def test_glob_returns_sorted_uris_that_can_be_read(root):
    for name in ("b.txt", "a.txt", "a.json", "below/c.txt"):
        storage.write(storage.join(root, name), name.encode())
    assert storage.glob(storage.join(root, "*.txt")) == [
        storage.join(root, "a.txt"),
        storage.join(root, "b.txt"),
    ]
    everything = storage.glob(storage.join(root, "**"))
    assert [storage.read(uri).decode() for uri in everything] == [
        "a.json",
        "a.txt",
        "b.txt",
        "below/c.txt",
    ]
    assert storage.glob(storage.join(root, "a.json")) == [storage.join(root, "a.json")]
    assert storage.glob(storage.join(root, "nothing.json")) == []


def test_glob_of_a_relative_path_is_relative(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    storage.write("folder/file", b"")
    assert storage.glob("folder/*") == ["folder/file"]


def test_deleting_twice_is_no_error(root):
    uri = storage.join(root, "gone")
    storage.write(uri, b"x")
    storage.delete(uri)
    storage.delete(uri)
    assert not storage.exists(uri)


def test_every_operation_reports_a_missing_file(root, tmp_path: Path):
    uri = storage.join(root, "no/such")
    for attempt in (
        storage.read,
        storage.size,
        lambda uri: ranged_reads.download(uri, tmp_path / "x"),
        lambda uri: storage.load(Note, uri),
    ):
        with pytest.raises(ArtefactMissing, match="no/such"):
            attempt(uri)
    with pytest.raises(ArtefactMissing, match="no/such"), ranged_reads.open_stream(uri):
        pass


def test_a_missing_bucket_is_reported(s3_server):
    for attempt in (
        storage.read,
        lambda uri: storage.write(uri, b"x"),
        lambda uri: storage.glob(uri + "*"),
    ):
        with pytest.raises(ArtefactMissing, match=r"s3://no-such-bucket/key.*bucket"):
            attempt("s3://no-such-bucket/key")


def test_check_writable_leaves_no_file(root):
    storage.check_writable(root)
    assert storage.glob(storage.join(root, "**")) == []


def test_a_failed_write_keeps_the_old_file_only(tmp_path: Path):
    storage.write(str(tmp_path / "file"), b"old")
    with pytest.raises(ZeroDivisionError), storage._publishing(tmp_path / "file") as file:
        file.write(b"half of the new")
        raise ZeroDivisionError
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"file": b"old"}


def test_a_failed_upload_leaves_nothing(root, tmp_path: Path):
    with pytest.raises(ArtefactMissing):
        storage.upload(tmp_path / "not there", storage.join(root, "target"))
    assert storage.glob(storage.join(root, "**")) == []


def test_a_published_file_is_as_readable_as_any_other(tmp_path: Path):
    storage.write(str(tmp_path / "published"), b"")
    (tmp_path / "ordinary").touch()
    assert stat.filemode((tmp_path / "published").stat().st_mode) == stat.filemode(
        (tmp_path / "ordinary").stat().st_mode
    )


def test_a_path_that_cannot_be_written_is_a_storage_error(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"cannot write .*file/below"):
        storage.check_writable(str(tmp_path / "file" / "below"))
    assert not storage.exists(str(tmp_path / "file" / "below"))


def test_an_unknown_protocol_is_refused():
    with pytest.raises(ConfigurationError, match=r"gopher://.*file, s3, memory"):
        storage.read("gopher://hole/file")


def test_a_store_that_does_not_respond_is_an_error_not_a_no(at_endpoint):
    with socket() as bound:
        bound.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        at_endpoint(f"http://127.0.0.1:{bound.getsockname()[1]}")
        with pytest.raises(StorageError, match=r"s3://bucket/key.*connect.*check AWS_ENDPOINT_URL"):
            storage.exists("s3://bucket/key")


def test_a_store_that_refuses_is_an_error_not_a_no(at_endpoint, refusing_store: str):
    at_endpoint(refusing_store)
    for attempt in (
        storage.exists,
        storage.read,
        storage.check_writable,
        storage.glob,
        lambda uri: storage.glob(uri + "*"),
    ):
        with pytest.raises(StorageError, match=r"s3://bucket/key.*denied.*AWS_ACCESS_KEY_ID"):
            attempt("s3://bucket/key")


@given(st.binary(max_size=40), st.integers(1, 16))
def test_each_block_has_a_checksum_that_detects_a_changed_byte(content: bytes, block_bytes: int):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "BLOCK_BYTES", block_bytes)
        blocks = [content[at : at + block_bytes] for at in range(0, len(content), block_bytes)]
        sums = storage.block_sha256(content)
        assert len(sums) == len(blocks)
        for n, (block, expected) in enumerate(zip(blocks, sums, strict=True)):
            storage.verify_block(block, expected, "shard.bin", n)
            with pytest.raises(
                ArtefactCorrupt, match=rf"shard\.bin: block {n} \(bytes {n * block_bytes} to"
            ):
                storage.verify_block(bytes([block[0] ^ 1]) + block[1:], expected, "shard.bin", n)


def test_deleting_the_last_file_of_a_folder_removes_the_folder(tmp_path: Path):
    for name in ("kept", "a/b/first", "a/b/second"):
        storage.write(str(tmp_path / name), b"x")
    storage.delete(str(tmp_path / "a/b/first"))
    assert (tmp_path / "a/b").is_dir()
    storage.delete(str(tmp_path / "a/b/second"))
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_check_writable_keeps_an_empty_folder(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    storage.check_writable(str(tmp_path / "empty"))
    assert (tmp_path / "empty").is_dir() and not list((tmp_path / "empty").iterdir())
