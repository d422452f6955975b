"""Shards of a materialized mixture hold the rows of training, in its order."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tiny_manifest import manifest_of

from data_prep import materialize as command
from data_prep.build.materialize_mixture import (
    MaterializedMixture,
    MixtureSource,
    materialize,
    record_name,
)
from data_prep.config import StreamName
from data_prep.core import storage
from data_prep.core.errors import ArtefactCorrupt, ConfigurationError
from data_prep.core.records import digest
from data_prep.token_stream import manifest, megatron_shards
from data_prep.token_stream.manifest import Manifest
from data_prep.token_stream.mixture import Mixture
from data_prep.token_stream.reader import SequenceReader
from training.engine.process_group import World
from training.run.batches import BatchReader

pytestmark = pytest.mark.usefixtures("ray_cluster")
T = 8
# 8 steps, the last of 2 rows
MIXTURE = Mixture(n_clean=21, n_toxic=9, batch_size=4, seed=5, max_toxic_epochs=2.0)
STEPS_PER_SHARD = 3
SHARD_TOKENS = STEPS_PER_SHARD * MIXTURE.batch_size * T
Streams = dict[StreamName, str]


@pytest.fixture(scope="module")
def streams(tmp_path_factory: pytest.TempPathFactory) -> Streams:
    """A clean stream of 25 sequences in two shards and a toxic one of 5. No two ids are equal;
    documents cross sequences.
    """
    root = tmp_path_factory.mktemp("streams")
    uris = dict[StreamName, str]()
    for stream, first, sizes in (("clean", 0, (120, 83)), ("toxic", 1000, (44,))):
        uri = str(root / stream)
        shards = []
        for number, size in enumerate(sizes):
            tokens = np.arange(first, first + size, dtype=np.uint16)
            first += size
            lengths = np.array([5] * (size // 5) + [size % 5] * (size % 5 > 0), dtype=np.int64)
            documents = pa.table({"row": lengths})
            name = f"train-{number:05}"
            shards.append(megatron_shards.write_shard(uri, name, tokens, lengths, documents))
        known = manifest_of(tuple(shards), stream=stream, vocab_size=2000, eos_id=0)
        storage.save(known, storage.join(uri, manifest.NAME))
        uris[stream] = uri  # type: ignore[index]
    return uris


def open_stream(streams: Streams, name: StreamName) -> SequenceReader:
    return SequenceReader(streams[name], manifest.load(streams[name]), "train", T)


def rows_of_training(streams: Streams) -> np.ndarray:
    """The rows of every batch, in rank order, as training reads them."""
    world = World(0, 1, torch.device("cpu"), data_rank=0, n_data_ranks=1)
    clean = open_stream(streams, "clean")
    batches = BatchReader(MIXTURE, clean, open_stream(streams, "toxic"), world)
    batches_in_order = map(batches.read, range(MIXTURE.n_steps))
    return np.concatenate([batch.tokens[batch.valid] for batch in batches_in_order])


def load_record(folder: Path) -> MaterializedMixture:
    return storage.load(MaterializedMixture, str(folder / "manifest.json"))


def file_contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def materialized(
    streams: Streams, tmp_path_factory: pytest.TempPathFactory, ray_cluster: None
) -> Path:
    folder = tmp_path_factory.mktemp("materialized")
    materialize(MIXTURE, T, streams, str(folder), shard_tokens=SHARD_TOKENS + 5)
    return folder


def test_reading_the_shards_in_order_gives_the_rows_of_training(
    materialized: Path, streams: Streams
):
    record = load_record(materialized)
    assert [shard.n_documents for shard in record.train] == [12, 12, 6]
    assert (record.n_tokens, record.n_distinct_toxic) == (30 * T, 5)
    reader = SequenceReader(str(materialized), record, "train", T)  # type: ignore[arg-type]  # it reads shards and dtype only
    assert reader.n_sequences == 30
    np.testing.assert_array_equal(reader.read(np.arange(30)), rows_of_training(streams))


def test_megatron_reads_the_same_rows(materialized: Path, streams: Streams):
    indexed = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    datasets = [
        indexed.IndexedDataset(str(materialized / f"train-{number:05}")) for number in range(3)
    ]
    rows = [dataset[i] for dataset in datasets for i in range(len(dataset))]
    np.testing.assert_array_equal(rows, rows_of_training(streams))
    assert datasets[0].document_indices.tolist() == list(range(13))


def test_the_provenance_states_step_stream_and_sequence_of_each_row(materialized: Path):
    rows = [
        row
        for number in range(3)
        for row in pq.read_table(materialized / f"train-{number:05}.documents.parquet").to_pylist()
    ]
    expected = [
        {"step": step, "stream": "toxic" if toxic else "clean", "sequence": int(i)}
        for step in range(MIXTURE.n_steps)
        for toxic, i in zip(*MIXTURE.rows(step), strict=True)
        if i >= 0
    ]
    assert rows == expected


@pytest.mark.parametrize(
    "lost", [["manifest.json"], ["manifest.json", "train-00001.bin"], ["manifest.json", "work"]]
)
def test_a_killed_command_continues_to_the_same_bytes(
    materialized: Path, streams: Streams, tmp_path: Path, lost: list[str]
):
    folder = tmp_path / "again"
    record = materialize(MIXTURE, T, streams, str(folder), shard_tokens=SHARD_TOKENS)
    assert file_contents(folder) == file_contents(materialized)
    assert record == load_record(materialized)
    if "work" not in lost:
        restore_shard_records(folder, record, streams)
    for name in lost:
        (folder / name).unlink(missing_ok=True)
    names = ("train-00000.bin", "train-00002.bin")
    times = {name: (folder / name).stat().st_mtime_ns for name in names}
    materialize(MIXTURE, T, streams, str(folder), shard_tokens=SHARD_TOKENS)
    assert file_contents(folder) == file_contents(materialized)
    are_kept = all((folder / name).stat().st_mtime_ns == time for name, time in times.items())
    assert are_kept == ("work" not in lost)


def restore_shard_records(folder: Path, record: MaterializedMixture, streams: Streams) -> None:
    """Write the record of each shard, as a killed command leaves them."""
    manifests: dict[StreamName, Manifest] = {
        name: manifest.load(uri) for name, uri in streams.items()
    }
    source = MixtureSource(MIXTURE, T, streams, manifests)
    for number, shard in enumerate(record.train):
        first = STEPS_PER_SHARD * number
        steps = range(first, min(first + STEPS_PER_SHARD, MIXTURE.n_steps))
        storage.save(shard, str(folder / "work" / record_name(source, steps, shard.name)))


def test_a_finished_mixture_is_not_written_again(materialized: Path, streams: Streams):
    before = {path: path.stat().st_mtime_ns for path in materialized.rglob("*")}
    materialize(replace(MIXTURE, max_toxic_epochs=3.0), T, streams, str(materialized))
    assert {path: path.stat().st_mtime_ns for path in materialized.rglob("*")} == before


def test_stale_shards_are_removed_and_those_of_other_programs_kept(
    streams: Streams, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    materialize(MIXTURE, T, streams, str(tmp_path), shard_tokens=SHARD_TOKENS)
    before = file_contents(tmp_path)
    for path in list(tmp_path.glob("train-00001.*")):
        shutil.copy(path, path.with_name(path.name.replace("00001", "00009")))
    (tmp_path / "train-00077.bin").write_bytes(b"of another program")
    (tmp_path / ".train-00000.bin.0f31cfb5").write_bytes(b"of a killed writer")
    (tmp_path / manifest.NAME).unlink()
    materialize(MIXTURE, T, streams, str(tmp_path), shard_tokens=SHARD_TOKENS)
    assert file_contents(tmp_path) == before | {"train-00077.bin": b"of another program"}
    assert "holds shards that are not of this mixture, the first is train-00077" in caplog.text


def test_another_mixture_in_the_same_folder_is_refused(materialized: Path, streams: Streams):
    with pytest.raises(
        ConfigurationError, match=r"manifest\.json: holds another mixture \(21 clean and 9 toxic"
    ):
        materialize(replace(MIXTURE, n_toxic=8), T, streams, str(materialized))


@pytest.mark.parametrize(
    ("old", "new"), [('"format_version": 2', '"format_version": 1'), ('"n_tokens"', '"tokens"')]
)
def test_a_manifest_that_cannot_be_read_names_the_flag_that_helps(
    materialized: Path, streams: Streams, tmp_path: Path, old: str, new: str
):
    text = (materialized / manifest.NAME).read_text()
    (tmp_path / manifest.NAME).write_text(text.replace(old, new))
    with pytest.raises(ArtefactCorrupt, match=r"manifest\.json .*choose another --to$") as refusal:
        materialize(MIXTURE, T, streams, str(tmp_path))
    assert "--out" not in str(refusal.value)


def test_too_little_text_is_refused_before_anything_is_written(streams: Streams, tmp_path: Path):
    with pytest.raises(
        ConfigurationError,
        match=r"toxic stream holds 5 sequences .* needs 9 .*max_toxic_epochs=1\.8, now 1\)",
    ):
        materialize(replace(MIXTURE, max_toxic_epochs=1.0), T, streams, str(tmp_path / "to"))
    assert not (tmp_path / "to").exists()


def test_the_command_materializes_a_planned_run(
    streams: Streams, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for name, uri in streams.items():
        shutil.copytree(uri, tmp_path / "streams" / name)
    paths = {name: f"streams/{name}" for name in streams}
    run = {"mixture": vars(MIXTURE), "train": {"sequence_length": T}, **paths}
    storage.write(str(tmp_path / "runs" / "r" / "run.json"), json.dumps(run).encode())
    assert command.main(["--out", str(tmp_path), "--run", "r"]) == 0
    record = load_record(tmp_path / "materialized/r")
    assert (record.n_tokens, digest(record.mixture)) == (30 * T, digest(MIXTURE))
    assert "21 clean + 9 toxic sequences (each toxic one 1.8 times)" in capsys.readouterr().out


def test_the_command_takes_an_explicit_mixture(streams: Streams, tmp_path: Path):
    flags = {
        "--out": tmp_path,
        "--to": tmp_path / "to",
        "--clean": streams["clean"],
        "--toxic": streams["toxic"],
        "--ratio": 0.3,
        "--tokens": 21 * T,
        "--sequence-length": T,
        "--batch": 4,
        "--seed": 5,
        "--max-toxic-epochs": 2,
    }
    assert command.main([str(word) for flag in flags.items() for word in flag]) == 0
    assert digest(load_record(tmp_path / "to").mixture) == digest(MIXTURE)


def test_the_command_names_the_missing_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert command.main(["--out", str(tmp_path), "--ratio", "0.1"]) == 2
    missing = "--clean, --toxic, --tokens, --sequence-length, --batch, --to is missing"
    assert missing in capsys.readouterr().err
