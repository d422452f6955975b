import os
import stat
import subprocess
import sys
from itertools import product
from pathlib import Path
from socket import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from proxy import Proxy

from data_prep.core import storage
from data_prep.core.errors import ArtefactCorrupt, ArtefactMissing, ConfigurationError, StorageError
from data_prep.core.records import record
from data_prep.core.store import locations, ranged_reads, temporaries


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
        locations.filesystem_of.cache_clear()

    yield point
    locations.filesystem_of.cache_clear()


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
    with pytest.raises(ZeroDivisionError), temporaries.publishing(tmp_path / "file") as file:
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


@pytest.mark.parametrize("name", ["out[v2]", "a*b", "what?", "[!x]", "x#1 %23 ü", "[[]", "a[b"])
def test_a_folder_is_literal_when_its_files_are_listed(root, name: str):
    folder = storage.join(root, name)
    names = ["runs/step-1/commit.json", "runs/step-2/commit.json", "runs/step-2/.part", "top.json"]
    for file in names:
        storage.write(storage.join(folder, file), b"x")
    storage.write(storage.join(root, "outv/top.json"), b"another folder")
    uris = [storage.join(folder, file) for file in names]
    assert storage.list_files(folder) == sorted(uris)
    assert storage.list_files(storage.join(folder, "runs"), "step-*/commit.json") == uris[:2]
    assert storage.list_files(folder, "*.json") == uris[3:]
    assert storage.list_files(storage.join(folder, "none"), "*") == []


def test_a_pattern_takes_the_literal_name_if_it_exists(root):
    for name in ("toxic[1].jsonl", "toxic1.jsonl", "a [v2]/x.jsonl", "a v/y.jsonl"):
        storage.write(storage.join(root, name), b"x")

    def found(pattern: str) -> list[str]:
        uris = storage.glob(storage.join(root, pattern))
        return [uri.removeprefix(storage.join(root, "")) for uri in uris]

    assert found("toxic[1].jsonl") == ["toxic[1].jsonl"]
    assert found("toxic[[]1].jsonl") == ["toxic[1].jsonl"]
    assert found("toxic[0-9].jsonl") == ["toxic1.jsonl"]
    assert found("a [v2]/*.jsonl") == ["a [v2]/x.jsonl"]
    assert found("a [vw]/*.jsonl") == ["a v/y.jsonl"]
    assert found("a [[]v2]/?.jsonl") == ["a [v2]/x.jsonl"]
    assert found("**/*.jsonl") == sorted(
        ["toxic[1].jsonl", "toxic1.jsonl", "a [v2]/x.jsonl", "a v/y.jsonl"]
    )


def test_a_wildcard_matches_no_leading_dot(root):
    for name in ("a.jsonl", "._a.jsonl", ".a.jsonl.swp", ".git/b.jsonl", "in/.c.jsonl", "in/d.x"):
        storage.write(storage.join(root, name), b"x")

    def found(pattern: str) -> list[str]:
        uris = storage.glob(storage.join(root, pattern))
        return [uri.removeprefix(storage.join(root, "")) for uri in uris]

    assert found("*.jsonl") == ["a.jsonl"]
    assert found("**") == ["a.jsonl", "in/d.x"]
    assert found("[._]*") == []
    assert found("._*") == ["._a.jsonl"]
    assert found(".*") == ["._a.jsonl", ".a.jsonl.swp"]
    assert found("*/.*.jsonl") == ["in/.c.jsonl"]
    assert found(".git/*") == [".git/b.jsonl"]


def test_a_match_that_cannot_be_read_is_refused_by_name(tmp_path: Path):
    (tmp_path / "part-0.jsonl").write_bytes(b"x")
    (tmp_path / "folder.jsonl").mkdir()
    pattern = f"{tmp_path}/*.jsonl"
    with pytest.raises(ConfigurationError, match=r"folder\.jsonl is a folder.*/\*\.jsonl"):
        storage.glob(pattern)
    assert storage.glob(f"{tmp_path}/*") == [f"{tmp_path}/part-0.jsonl"]
    (tmp_path / "folder.jsonl").rmdir()
    (tmp_path / "part-1.jsonl").symlink_to("/no/blob")
    for uri in (pattern, f"{tmp_path}/part-1.jsonl"):
        with pytest.raises(ConfigurationError, match=r"part-1\.jsonl .*link to /no/blob, which"):
            storage.glob(uri)
    (tmp_path / "part-1.jsonl").unlink()
    os.mkfifo(tmp_path / "part-2.jsonl")
    with pytest.raises(ConfigurationError, match=r"part-2\.jsonl is a pipe"):
        storage.glob(pattern)
    (tmp_path / "part-2.jsonl").unlink()
    name = os.fsdecode(b"caf\xe9.jsonl")
    (tmp_path / name).write_bytes(b"x")
    for uri in (pattern, f"{tmp_path}/{name}"):
        with pytest.raises(ConfigurationError, match=r"caf\\udce9\.jsonl.*not UTF-8.*rename it"):
            storage.glob(uri)


def test_links_to_folders_are_followed_once(tmp_path: Path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.txt").write_bytes(b"x")
    (tmp_path / "data/loop").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path / "data")
    assert storage.glob(f"{tmp_path}/**") == [f"{tmp_path}/again/a.txt", f"{tmp_path}/data/a.txt"]


def test_an_absolute_path_means_the_same_everywhere(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("2024-01-01T00:00:00.jsonl") == f"{tmp_path}/2024-01-01T00:00:00.jsonl"
    assert storage.absolute("a:b/c.jsonl#text=x") == f"{tmp_path}/a:b/c.jsonl#text=x"
    for uri in ("s3://b/x", "hub:owner/name", "synthetic:clean?documents=6", "memory://x"):
        assert storage.absolute(uri) == uri
    with pytest.raises(ConfigurationError, match=r"caf\\udce9.*rename it"):
        storage.absolute(os.fsdecode(b"caf\xe9"))


def test_an_object_root_has_no_empty_segments(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for uri in ("s3://bucket//study", "s3://bucket/study/", "s3://bucket/study"):
        assert storage.object_root(uri) == "s3://bucket/study"
    assert storage.object_root("out[v2]//x/") == f"{tmp_path}/out[v2]/x"
    assert storage.object_root("file://x") == f"file://{tmp_path}/x"
    for uri, message in [
        ("s3:///study", "names no bucket"),
        ("s3://", "names no bucket"),
        ("s3://bucket/../x", r"segment \. or \.\."),
        ("s3a://bucket/x", "unknown protocol"),
        ("", "empty text"),
    ]:
        with pytest.raises(ConfigurationError, match=message):
            storage.object_root(uri)


def test_a_version_differs_when_a_file_of_the_same_size_is_replaced(root):
    uri = storage.join(root, "a.jsonl")
    storage.write(uri, b"one")
    before = storage.file_versions([uri])[uri]
    assert before.n_bytes == 3
    assert storage.file_versions([uri])[uri] == before
    storage.write(uri, b"two")
    after = storage.file_versions([uri])[uri]
    assert after.n_bytes == 3 and after.version != before.version


def test_versions_of_many_objects_take_one_listing(s3_server: str, proxy: Proxy, tmp_path: Path):
    uris = [f"{s3_server}/{tmp_path.name}/part-{i}.jsonl" for i in range(6)]
    for i, uri in enumerate(uris):
        storage.write(uri, b"x" * i)
    proxy.reset()
    versions = storage.file_versions(uris)
    assert [versions[uri].n_bytes for uri in uris] == list(range(6))
    assert sum(proxy.counts.values()) == 1
    assert versions[uris[0]] == storage.file_versions(uris[:1])[uris[0]]


def test_the_version_of_a_missing_file_is_an_error(root):
    with pytest.raises(ArtefactMissing, match="there is no such file"):
        storage.file_versions([storage.join(root, f"no-{i}") for i in range(4)])


def test_a_file_that_is_read_whole_has_a_size_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    uri = str(tmp_path / "settings.json")
    storage.write(uri, "{} é".encode())
    assert storage.read_text(uri) == "{} é"
    monkeypatch.setattr(storage, "MAX_TEXT_BYTES", 4)
    for endless in (uri, "/dev/zero"):
        with pytest.raises(ConfigurationError, match=f"{endless} has more than 4 bytes"):
            storage.read_text(endless)
    storage.write(uri, b"\xff")
    with pytest.raises(ConfigurationError, match=r"settings\.json is not UTF-8"):
        storage.read_text(uri)


def test_temporary_files_of_killed_writers_are_removed_and_no_others(tmp_path: Path):
    target = tmp_path / "a" / "train-00000.bin"
    lines = (
        "import os, sys, pathlib",
        "from data_prep.core.store import temporaries",
        "with temporaries.publishing(pathlib.Path(sys.argv[1])) as file:",
        "    file.write(b'half of'); file.flush(); os._exit(9)",
    )
    subprocess.run([sys.executable, "-c", "\n".join(lines), str(target)], check=False)
    (left,) = target.parent.iterdir()
    assert left.name.startswith(".train-00000.bin.")
    others = [target.parent / name for name in (".hidden", "train-00000.bin.0f31cfb5")]
    for other in others:
        other.write_bytes(b"")
    with temporaries.publishing(target) as file:
        file.write(b"content")
        assert storage.remove_abandoned(str(tmp_path)) == [str(left)]
    assert sorted(target.parent.iterdir()) == sorted([target, *others])
    assert target.read_bytes() == b"content"
