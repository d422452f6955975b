"""An archive that is cut, misnamed or not named at all is refused, and nothing of it is lost."""

import gzip
import io
import re
import subprocess
import tarfile
from pathlib import Path

import pytest
import zstandard

from data_prep import reshard as command
from data_prep.core.errors import ArtefactCorrupt, ConfigurationError
from data_prep.reshard import reshard
from data_prep.sources import corpus_reader

BLOCK = 512
PACK = {
    "a.tar": lambda content: content,
    "a.tar.gz": gzip.compress,
    "a.tar.zst": zstandard.compress,
}


def row(number: int) -> bytes:
    return b'{"text": "row %d"}\n' % number


def tar_of(*numbers: int, tar_format: int = tarfile.PAX_FORMAT, name: str = "m") -> bytes:
    """A tar of one member per number, each of a header and one block."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tar_format) as tar:
        for number in numbers:
            info = tarfile.TarInfo(f"{name}{number}.jsonl")
            info.size = len(row(number))
            tar.addfile(info, io.BytesIO(row(number)))
    return file.getvalue()


def texts(archive: Path, out: Path) -> list[str]:
    reshard(str(archive), str(out), 1 << 20)
    sources = corpus_reader.expand([f"{out}/*.ndjson.zst"])
    return [document.text for source in sources for document in corpus_reader.read(source)]


@pytest.mark.parametrize("name", PACK)
@pytest.mark.parametrize(
    "end",
    [
        pytest.param(2 * BLOCK, id="after the first member"),
        pytest.param(6 * BLOCK, id="after the last member"),
        pytest.param(2 * BLOCK + 7, id="inside the second header"),
        pytest.param(3 * BLOCK, id="after the second header"),
        pytest.param(3 * BLOCK + 30, id="in the padding of the second member"),
        pytest.param(6 * BLOCK + 100, id="inside the first zero block"),
    ],
)
def test_a_tar_that_is_cut_anywhere_is_refused(name: str, end: int, tmp_path: Path):
    archive = tmp_path / name
    archive.write_bytes(PACK[name](tar_of(1, 2, 3)[:end]))
    with pytest.raises(ArtefactCorrupt, match=r"truncated .*; no shard was written; download"):
        reshard(str(archive), str(tmp_path / "out"), 1 << 20)
    assert not list((tmp_path / "out").glob("*"))
    archive.write_bytes(PACK[name](tar_of(1, 2, 3)))
    assert texts(archive, tmp_path / "out") == ["row 1", "row 2", "row 3"]


def test_a_damaged_header_before_zeros_is_refused(tmp_path: Path):
    content = bytearray(tar_of(1, 2))
    content[2 * BLOCK] ^= 1
    content[3 * BLOCK :] = bytes(len(content) - 3 * BLOCK)
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(ArtefactCorrupt, match="damaged"):
        reshard(str(tmp_path / "a.tar"), str(tmp_path / "out"), 1 << 20)


@pytest.mark.parametrize("n_zeros", [BLOCK, BLOCK + 100, 2 * BLOCK, 100 * BLOCK + 3])
def test_one_zero_block_ends_an_archive(n_zeros: int, tmp_path: Path):
    (tmp_path / "a.tar").write_bytes(tar_of(1, 2)[: 4 * BLOCK] + bytes(n_zeros))
    assert texts(tmp_path / "a.tar", tmp_path / "out") == ["row 1", "row 2"]


def test_other_bytes_behind_the_end_are_refused(tmp_path: Path):
    for tail in (b"x", b"x" * BLOCK):
        (tmp_path / "a.tar").write_bytes(tar_of(1, 2) + tail)
        with pytest.raises(ArtefactCorrupt, match="damaged"):
            reshard(str(tmp_path / "a.tar"), str(tmp_path / "out"), 1 << 20)


@pytest.mark.parametrize("name", PACK)
def test_all_members_of_concatenated_archives_are_read(name: str, tmp_path: Path):
    (tmp_path / name).write_bytes(PACK[name](tar_of(1, 2)) + PACK[name](tar_of(3)))
    assert texts(tmp_path / name, tmp_path / "out") == ["row 1", "row 2", "row 3"]


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, 2])
@pytest.mark.parametrize("name", ["m", 90 * "n"])
def test_every_format_of_python_is_read(tar_format: int, name: str, tmp_path: Path):
    (tmp_path / "a.tar").write_bytes(tar_of(1, 2, tar_format=tar_format, name=name))
    assert texts(tmp_path / "a.tar", tmp_path / "out") == ["row 1", "row 2"]


@pytest.mark.parametrize("options", [[], ["-b1"], ["--format=v7"], ["--format=gnu"], ["-z"]])
def test_archives_of_gnu_tar_are_read(options: list[str], tmp_path: Path):
    for number in (1, 2):
        (tmp_path / f"{number}.jsonl").write_bytes(row(number))
    archive = tmp_path / ("a.tar.gz" if "-z" in options else "a.tar")
    subprocess.run(
        ["tar", *options, "-cf", archive, "-C", tmp_path, "1.jsonl", "2.jsonl"], check=True
    )
    assert texts(archive, tmp_path / "out") == ["row 1", "row 2"]


@pytest.mark.parametrize(
    ("name", "content", "new_name"),
    [
        ("a.tar.gz", tar_of(1), "a.tar"),
        ("a.tgz", tar_of(1), "a.tar"),
        ("a.tar.gz", tar_of(1, tar_format=tarfile.USTAR_FORMAT), "a.tar"),
        ("a.tar.gz", zstandard.compress(tar_of(1)), "a.tar.zst"),
        ("a.tar.zst", tar_of(1), "a.tar"),
        ("a.tar.zst", gzip.compress(tar_of(1)), "a.tar.gz"),
        ("a.tar", gzip.compress(tar_of(1)), "a.tar.gz"),
        ("a.tar", zstandard.compress(tar_of(1)), "a.tar.zst"),
        ("a.tar", row(1), "a.jsonl"),
        ("a.jsonl", tar_of(1), "a.tar"),
        ("a.jsonl.gz", row(1), "a.jsonl"),
        ("a.jsonl", gzip.compress(row(1)), "a.jsonl.gz"),
        ("a.jsonl.zst", gzip.compress(row(1)), "a.jsonl.gz"),
    ],
)
def test_the_name_for_a_misnamed_archive_works(
    name: str, content: bytes, new_name: str, tmp_path: Path
):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigurationError, match=rf"rename it to \S*/{new_name}$"):
        reshard(str(tmp_path / name), str(tmp_path / "out"), 1 << 20)
    (tmp_path / name).rename(tmp_path / new_name)
    assert texts(tmp_path / new_name, tmp_path / "out") == ["row 1"]


def test_a_pointer_in_place_of_an_archive_is_refused(tmp_path: Path):
    (tmp_path / "a.tar.zst").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ConfigurationError, match="git lfs pull"):
        reshard(str(tmp_path / "a.tar.zst"), str(tmp_path / "out"), 1 << 20)


@pytest.mark.parametrize(
    ("archive", "words"),
    [
        ("", "--archive is empty; expected the URI of one archive"),
        ("{folder}/*.tar", "is a pattern.*expected the URI of one archive"),
        ("{folder}/no.tar", "no.tar"),
        ("{folder}", "is a folder"),
        ("{folder}/folder.tar", "is a folder"),
    ],
)
def test_what_names_no_archive_is_refused_in_one_line(
    archive: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "folder.tar").mkdir()
    arguments = ["--archive", archive.format(folder=tmp_path), "--out", str(tmp_path / "out")]
    assert command.main(arguments) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert re.search(words, printed)


def test_a_file_whose_name_has_a_star_is_read(tmp_path: Path):
    (tmp_path / "a*.tar").write_bytes(tar_of(1))
    assert texts(tmp_path / "a*.tar", tmp_path / "out") == ["row 1"]


def test_an_archive_without_json_lines_is_told_the_endings(tmp_path: Path):
    (tmp_path / "a.tar").write_bytes(tar_of().ljust(BLOCK, b"\0"))
    with pytest.raises(ConfigurationError, match=r"ends in \.ndjson or \.jsonl or \.json$"):
        reshard(str(tmp_path / "a.tar"), str(tmp_path / "out"), 1 << 20)
