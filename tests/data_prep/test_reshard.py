"""The shards of an archive are its text, also after a kill; nothing is written twice."""

import gzip
import io
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.core import storage
from data_prep.core.errors import ArtefactCorrupt, ConfigurationError
from data_prep.reshard import Resharded, main, reshard
from data_prep.sources import corpus_reader, formats

ROOT = Path(__file__).parents[2]
TEXT = b"".join(
    json.dumps({"n": n, "text": f"line {n} " * (n % 7)}).encode() + b"\n" for n in range(100)
)
ZSTD = zstandard.ZstdCompressor().compress


def tar_archive(**members: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name.replace("_", "."))
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def write_file(folder: Path, name: str, content: bytes) -> str:
    (folder / name).write_bytes(content)
    return str(folder / name)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def text_of(folder: Path) -> bytes:
    """The text of all shards, one after the other."""
    return b"".join(
        zstandard.ZstdDecompressor().decompressobj().decompress(path.read_bytes())
        for path in sorted(folder.glob("*.ndjson.zst"))
    )


ARCHIVES = {
    "pol.tar.zst": lambda text: ZSTD(tar_archive(pol_ndjson=text)),
    "pol.tar.gz": lambda text: gzip.compress(tar_archive(pol_ndjson=text)),
    "POL.TGZ": lambda text: gzip.compress(tar_archive(pol_ndjson=text)),
    "pol.tar": lambda text: tar_archive(pol_ndjson=text),
    "pol.ndjson.zst": lambda text: ZSTD(text[:999]) + ZSTD(text[999:]),
    "pol.json.gz": gzip.compress,
    "pol.jsonl": lambda text: text,
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_every_kind_of_archive_gives_the_same_shards(name, tmp_path):
    archive, out = write_file(tmp_path, name, ARCHIVES[name](TEXT)), tmp_path / "out"
    done = reshard(archive, str(out), 1000)
    assert text_of(out) == TEXT
    assert done == storage.load(Resharded, str(out / "reshard.json"))
    assert (done.n_bytes, done.n_lines, done.archive_bytes) == (
        len(TEXT),
        100,
        Path(archive).stat().st_size,
    )
    documents = [
        d
        for s in corpus_reader.expand([f"{out}/{name[:3]}-*.ndjson.zst"])
        for d in corpus_reader.read(s)
    ]
    assert [document.fields["n"] for document in documents] == list(range(100))


@settings(max_examples=100)
@given(
    st.lists(
        st.binary(max_size=40).map(lambda line: b"{" + line.replace(b"\n", b"")),
        min_size=1,
        max_size=30,
    ),
    st.booleans(),
    st.integers(1, 200),
)
def test_shards_end_with_the_line_that_reaches_their_size(
    tmp_path_factory, lines, ended, shard_bytes
):
    folder = tmp_path_factory.mktemp("cut")
    text = b"\n".join(lines) + b"\n" * ended
    done = reshard(write_file(folder, "a.jsonl", text), str(folder / "out"), shard_bytes)
    assert text_of(folder / "out") == text
    expected, begin = [], 0
    for end in [at + 1 for at, byte in enumerate(text) if byte == 10]:
        if end - begin >= shard_bytes:
            expected.append(end)
            begin = end
    assert [shard.end_bytes for shard in done.shards] == expected + [len(text)] * (
        begin < len(text)
    )


def test_members_that_are_json_lines_become_one_text(tmp_path):
    content = tar_archive(
        README_md=b"read me", a_ndjson=b'{"n": 1}', b_jsonl=b'{"n": 2}\n', c_csv=b"n\n3\n"
    )
    done = reshard(write_file(tmp_path, "two.tar.zst", ZSTD(content)), str(tmp_path / "out"), 1000)
    assert (text_of(tmp_path / "out"), done.n_lines) == (b'{"n": 1}\n{"n": 2}\n', 2)


def test_a_repeated_command_does_nothing_and_says_so(tmp_path, capsys, caplog):
    arguments = [
        "--archive",
        write_file(tmp_path, "pol.tar.zst", ARCHIVES["pol.tar.zst"](TEXT)),
        "--out",
        str(tmp_path / "out"),
        "--shard-bytes",
        "999",
    ]
    assert main(arguments) == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert main(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before
    printed = capsys.readouterr()
    assert (
        "pol-*.ndjson.zst" in printed.out and "is resharded already; nothing to do" in printed.err
    )


@pytest.mark.parametrize("kept", [0, 1, 3])
@pytest.mark.parametrize("torn", ["", "pol-{:05d}.json", "pol-{:05d}.ndjson.zst"])
def test_existing_shards_are_kept_and_the_rest_has_the_same_bytes(kept, torn, tmp_path):
    """torn: of the shard after those kept only this file exists, with its text truncated."""
    archive, out = (
        write_file(tmp_path, "pol.tar.zst", ARCHIVES["pol.tar.zst"](TEXT)),
        tmp_path / "out",
    )
    reshard(archive, str(out), 1000)
    whole = contents(out)
    for path in out.iterdir():
        if path.name == torn.format(kept):
            path.write_bytes(path.read_bytes()[: -9 if torn.endswith("zst") else None])
        elif path.name == "reshard.json" or int(path.name[4:9]) >= kept:
            path.unlink()
    if torn.endswith(".json"):
        write_file(out, f"pol-{kept:05d}.ndjson.zst", b"short")
    before = {
        path.name: path.stat().st_mtime_ns for path in out.iterdir() if int(path.name[4:9]) < kept
    }
    reshard(archive, str(out), 1000)
    assert contents(out) == whole
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before


@pytest.mark.parametrize("name", ["pol.tar.zst", "pol.tar.gz", "pol.ndjson.zst", "pol.tar"])
def test_a_truncated_archive_keeps_shards_that_the_whole_one_resumes(name, tmp_path):
    text = TEXT + b"".join(
        b'{"text": "%s"}\n' % random.Random(n).randbytes(600).hex().encode() for n in range(1000)
    )
    content = ARCHIVES[name](text)
    archive, out = write_file(tmp_path, name, content[: len(content) * 2 // 3]), tmp_path / "out"
    with pytest.raises(
        ArtefactCorrupt,
        match=r"pol\.\S+ is damaged or truncated at about byte [\d,]+ of .*"
        r"the \d+ shards up to line \d+ are complete",
    ):
        reshard(archive, str(out), 20_000)
    kept = text_of(out)
    assert (
        text.startswith(kept)
        and kept.endswith(b"\n")
        and len(kept) > len(text) / 3
        and not (out / "reshard.json").exists()
    )
    reshard(write_file(tmp_path, name, content), str(out), 20_000)
    assert text_of(out) == text


def test_damage_inside_an_archive_is_reported(tmp_path):
    content = bytearray(ARCHIVES["pol.tar"](TEXT) + tar_archive(more_ndjson=TEXT))
    begin = len(content) - len(tar_archive(more_ndjson=TEXT))
    # Without end marks and padding, the second header follows the first member at once; its changed
    # name makes its checksum wrong.
    content[begin - 2 * 512 : begin] = b""
    content = bytearray(bytes(content).replace(b"more.ndjson", b"mOre.ndjson"))
    with pytest.raises(ArtefactCorrupt, match="damaged"):
        reshard(write_file(tmp_path, "pol.tar", bytes(content)), str(tmp_path / "out"), 1000)


def test_another_archive_or_shard_size_in_the_folder_is_refused(tmp_path):
    out = str(tmp_path / "out")
    archive = write_file(tmp_path, "pol.jsonl", TEXT)
    done = reshard(archive, out, 1000)
    with pytest.raises(ConfigurationError, match="--shard-bytes 1000 or another --out"):
        reshard(archive, out, 999)
    write_file(tmp_path, "pol.jsonl", TEXT + b"{}\n")
    with pytest.raises(
        ConfigurationError,
        match=r"reshard\.json is the record of pol\.jsonl .* choose another --out",
    ):
        reshard(archive, out, 1000)
    (tmp_path / "out" / "reshard.json").unlink()
    for other in (
        TEXT.replace(b"line 1 ", b"line X "),
        TEXT[: TEXT.index(b'{"n": 50')],
        TEXT[: done.shards[1].end_bytes],
    ):
        write_file(tmp_path, "pol.jsonl", other)
        with pytest.raises(
            ArtefactCorrupt, match=r"pol-\d+\.ndjson\.zst was split from other text"
        ):
            reshard(archive, out, 1000)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("pol.zip", b"PK", "names no archive"),
        ("pol.zst", ZSTD(b"{}"), "names no archive"),
        (
            "pol.tar.zst",
            ZSTD(tar_archive(a_csv=b"n\n1\n")),
            "contains no JSON lines; expected a member",
        ),
        (
            "pol.tar.zst",
            ZSTD(tar_archive(a_json=b"[1,\n2]")),
            "contains no JSON lines, it is a JSON array",
        ),
        ("pol.jsonl", b"", "contains no JSON lines"),
    ],
)
def test_a_file_that_is_no_archive_of_json_lines_is_refused(name, content, words, tmp_path):
    with pytest.raises(ConfigurationError, match=words):
        reshard(write_file(tmp_path, name, content), str(tmp_path / "out"), 1000)


def test_archive_and_shards_may_be_in_an_object_store(s3_server):
    storage.write(f"{s3_server}/raw/pol.tar.zst", ARCHIVES["pol.tar.zst"](TEXT))
    done = reshard(f"{s3_server}/raw/pol.tar.zst", f"{s3_server}/pol", 1000)
    sources = corpus_reader.expand([f"{s3_server}/pol/pol-*.ndjson.zst"])
    assert len(sources) == len(done.shards) > 3
    assert sum(1 for source in sources for _ in formats.rows(source.uri)) == 100


@pytest.mark.slow
def test_killed_and_repeated_it_writes_the_same_bytes(tmp_path):
    generator = random.Random(7)
    text = b"".join(
        b'{"text": "%s"}\n' % generator.randbytes(2000).hex().encode() for _ in range(6000)
    )
    archive = write_file(tmp_path, "pol.tar.zst", ZSTD(tar_archive(pol_ndjson=text)))
    reshard(archive, str(tmp_path / "undisturbed"), 500_000)
    out = tmp_path / "out"
    n_kills = 0
    command = [
        sys.executable,
        "data_prep/reshard.py",
        "--archive",
        archive,
        "--out",
        str(out),
        "--shard-bytes",
        "500000",
    ]
    for kill_after_shards in (1, 15, 30, None):
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.DEVNULL,
        )
        if kill_after_shards:
            while process.poll() is None and len(list(out.glob("pol-*.json"))) < kill_after_shards:
                time.sleep(0.001)
            process.send_signal(signal.SIGKILL)
            n_kills += process.wait() == -signal.SIGKILL
    assert process.wait() == 0 and n_kills == 3
    for path in out.glob(".*"):
        path.unlink()  # temporary files of the kill: hidden, so that no pattern finds them
    assert contents(out) == contents(tmp_path / "undisturbed")
