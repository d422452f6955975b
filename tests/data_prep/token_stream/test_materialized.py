import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_manifest import manifest_of

from data_prep import materialize
from data_prep.config import StreamName
from data_prep.core import storage
from data_prep.core.errors import ConfigurationError
from data_prep.core.records import digest
from data_prep.token_stream import manifest, materialized, megatron_shards
from data_prep.token_stream.mixture import Mixture
from data_prep.token_stream.reader import SequenceReader
from training.run.batches import Batches

pytestmark = pytest.mark.usefixtures("ray_cluster")
T = 8
MIXTURE = Mixture(
    n_clean=21, n_toxic=9, batch_size=4, seed=5, max_toxic_epochs=2.0
)  # 8 steps, the last of 2 rows
Streams = dict[StreamName, str]


@pytest.fixture(scope="module")
def streams(tmp_path_factory: pytest.TempPathFactory) -> Streams:
    """A clean stream of 25 sequences in two shards and a toxic one of 5, of ids no two alike;
    documents cross sequences.
    """
    root, uris = tmp_path_factory.mktemp("streams"), dict[StreamName, str]()
    for stream, first, sizes in (("clean", 0, (120, 83)), ("toxic", 1000, (44,))):
        uri, written = str(root / stream), []
        for number, size in enumerate(sizes):
            tokens = np.arange(first, first + size, dtype=np.uint16)
            first += size
            lengths = np.array([5] * (size // 5) + [size % 5] * (size % 5 > 0), dtype=np.int64)
            written.append(
                megatron_shards.write_shard(
                    uri, f"train-{number:05}", tokens, lengths, pa.table({"row": lengths})
                )
            )
        known = manifest_of(tuple(written), stream=stream, vocab_size=2000, eos_id=0)
        storage.save(known, storage.join(uri, manifest.NAME))
        uris[stream] = uri  # type: ignore[index]
    return uris


def read(streams: Streams, name: StreamName) -> SequenceReader:
    return SequenceReader(streams[name], manifest.load(streams[name]), "train", T)


def trained_on(streams: Streams, mixture: Mixture = MIXTURE) -> np.ndarray:
    """The rows of every batch, in rank order, as training sees them."""
    batches = Batches(mixture, read(streams, "clean"), read(streams, "toxic"), 0, 1)
    return np.concatenate(
        [batch.tokens[batch.valid] for batch in map(batches.read, range(mixture.n_steps))]
    )


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def made(streams: Streams, tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Path:
    folder = tmp_path_factory.mktemp("made")
    materialized.write(MIXTURE, T, streams, str(folder), shard_tokens=3 * 4 * T + 5)
    return folder


def test_reading_the_shards_in_order_gives_the_batches_of_training_row_for_row(
    made: Path, streams: Streams
):
    known = storage.load(materialized.Mixed, str(made / "manifest.json"))
    assert [shard.n_documents for shard in known.train] == [12, 12, 6] and known.n_tokens == 30 * T
    assert known.n_distinct_toxic == 5
    ours = SequenceReader(str(made), known, "train", T)  # type: ignore[arg-type]  # it asks for shards and dtype
    assert ours.n_sequences == 30
    np.testing.assert_array_equal(ours.read(np.arange(30)), trained_on(streams))


def test_megatron_reads_the_same_rows(made: Path, streams: Streams):
    indexed = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    theirs = [indexed.IndexedDataset(str(made / f"train-{number:05}")) for number in range(3)]
    np.testing.assert_array_equal(
        [one[i] for one in theirs for i in range(len(one))], trained_on(streams)
    )
    assert theirs[0].document_indices.tolist() == list(range(13))


def test_each_row_says_its_step_and_where_it_is_from(made: Path):
    rows = [
        row
        for number in range(3)
        for row in pq.read_table(made / f"train-{number:05}.documents.parquet").to_pylist()
    ]
    expected = [
        {"step": step, "stream": "toxic" if toxic else "clean", "sequence": int(i)}
        for step in range(MIXTURE.n_steps)
        for toxic, i in zip(*MIXTURE.rows(step), strict=True)
        if i >= 0
    ]
    assert rows == expected


@pytest.mark.parametrize(
    "lost", [["manifest.json"], ["manifest.json", "train-00001.bin"], ["manifest.json", "made"]]
)
def test_what_was_killed_goes_on_to_the_same_bytes(
    made: Path, streams: Streams, tmp_path: Path, lost: list[str]
):
    folder = tmp_path / "again"
    whole = materialized.write(MIXTURE, T, streams, str(folder), shard_tokens=3 * 4 * T)
    assert tree(folder) == tree(made) and whole == storage.load(
        materialized.Mixed, str(made / "manifest.json")
    )
    for shard in whole.train if "made" not in lost else ():  # as a killed run leaves them
        _keep(folder, shard)
    for name in lost:
        (folder / name).unlink(missing_ok=True)
    times = {
        name: (folder / name).stat().st_mtime_ns for name in ("train-00000.bin", "train-00002.bin")
    }
    materialized.write(MIXTURE, T, streams, str(folder), shard_tokens=3 * 4 * T)
    assert tree(folder) == tree(made)
    kept = all((folder / name).stat().st_mtime_ns == time for name, time in times.items())
    assert kept == ("made" not in lost)


def _keep(folder: Path, shard: manifest.Shard) -> None:
    """Put the shard's own record back, as it lay there before the manifest was written."""
    known = storage.load(materialized.Mixed, str(folder / "manifest.json"))
    number = int(shard.name[-5:])
    streams = (known.clean_manifest_digest, known.toxic_manifest_digest)
    name = materialized.record_name(
        MIXTURE, T, streams, range(3 * number, min(3 * number + 3, MIXTURE.n_steps)), shard.name
    )
    storage.save(shard, str(folder / "made" / name))


def test_a_finished_one_is_left_as_it_is_and_another_mixture_is_refused(
    made: Path, streams: Streams
):
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    materialized.write(replace(MIXTURE, max_toxic_epochs=3.0), T, streams, str(made))
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before
    with pytest.raises(
        ConfigurationError, match=r"manifest\.json: holds another mixture \(21 clean and 9 toxic"
    ):
        materialized.write(replace(MIXTURE, n_toxic=8), T, streams, str(made))


def test_too_little_text_is_refused_before_anything_is_written(streams: Streams, tmp_path: Path):
    with pytest.raises(
        ConfigurationError,
        match=r"toxic stream holds 5 sequences .* needs 9 .*max_toxic_epochs=1\.8, now 1\)",
    ):
        materialized.write(replace(MIXTURE, max_toxic_epochs=1.0), T, streams, str(tmp_path / "to"))
    assert not (tmp_path / "to").exists()


def test_the_command_takes_a_planned_run_or_says_what_is_missing(
    streams: Streams, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = {
        "mixture": json.loads(json.dumps(vars(MIXTURE))),
        "train": {"sequence_length": T},
        **streams,
    }
    storage.write(str(tmp_path / "runs" / "r" / "run.json"), json.dumps(run).encode())
    assert materialize.main(["--out", str(tmp_path), "--run", "r"]) == 0
    assert (
        storage.load(materialized.Mixed, str(tmp_path / "materialized/r/manifest.json")).n_tokens
        == 30 * T
    )
    assert "21 clean + 9 toxic sequences (each toxic one read 1.8×)" in capsys.readouterr().out
    explicit = [
        "--clean",
        streams["clean"],
        "--toxic",
        streams["toxic"],
        "--ratio",
        "0.3",
        "--tokens",
        str(21 * T),
    ]
    explicit += [
        "--sequence-length",
        str(T),
        "--batch",
        "4",
        "--seed",
        "5",
        "--max-toxic-epochs",
        "2",
    ]
    assert materialize.main(["--out", str(tmp_path), *explicit, "--to", str(tmp_path / "to")]) == 0
    assert [
        digest(storage.load(materialized.Mixed, str(tmp_path / of / "manifest.json")).mixture)
        for of in ("to", "materialized/r")
    ] == [digest(MIXTURE)] * 2
    assert materialize.main(["--out", str(tmp_path), "--ratio", "0.1"]) == 2
    assert (
        "--clean, --toxic, --tokens, --sequence-length, --batch, --to is missing"
        in capsys.readouterr().err
    )
