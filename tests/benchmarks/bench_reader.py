"""training tokens per second: our mixture against memmap, MosaicML streaming, litdata

    make bench-reader ARGS="--peers /path/to/venv/bin/python"

The first part reads all tokens from a local disk (page cache warm), in batches of 512 × 2048 int64.
Ours reads in the order of a mixture and verifies the sha256 of every block; the peers read from
first to last, without a check. Each reader has a process of its own. MosaicML streaming and litdata
conflict with our pinned versions: `--peers` names the interpreter of an environment that has them.

The second part simulates training steps of 1M tokens at 400k tokens/s by sleeping. It reads from an
S3 server behind a proxy that delays each response by 100 ms, and prints the share of the time spent
waiting for data and the number of GETs per block.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

HERE = Path(__file__).parent
SEQUENCE_LENGTH = 2048
BATCH_ROWS = 512
N_SHARDS = {"clean": 4, "toxic": 1}
SHARD_TOKENS = 16 << 20  # 32 MiB
PEER_CHUNK_BYTES = 64 << 20
N_PASSES = 3
TOKENS_PER_SECOND = 400_000
LATENCY_SECONDS = 0.1
CACHE_BYTES = 1 << 30


class ReadPass(NamedTuple):
    """One pass of a reader over all tokens."""

    wall_seconds: float
    cpu_seconds: float
    n_tokens: int
    checksum: int


def ours(folder: Path) -> Iterator[np.ndarray]:
    return (batch.tokens.numpy() for batch, _ in _our_batches(str(folder)))


def _our_batches(root: str, cache: Any = None) -> Iterator[tuple[Any, float]]:
    """All batches of the two streams under `root`, with the seconds waited for each."""
    import torch

    from data_prep.core import storage
    from data_prep.token_stream import manifest
    from data_prep.token_stream.mixture import Mixture
    from data_prep.token_stream.reader import AHEAD_BLOCKS, SequenceReader
    from training.engine.process_group import World
    from training.run.batches import BatchReader

    clean, toxic = (
        SequenceReader(
            uri, manifest.load(uri), "train", SEQUENCE_LENGTH, ahead=AHEAD_BLOCKS, cache=cache
        )
        for uri in (storage.join(root, stream) for stream in N_SHARDS)
    )
    mixture = Mixture(
        n_clean=clean.n_sequences, n_toxic=toxic.n_sequences, batch_size=BATCH_ROWS, seed=0
    )
    reader = BatchReader(mixture, clean, toxic, World(0, 1, torch.device("cpu"), 0, 1))
    return reader.prefetch(0, mixture.n_steps)


def memmap(folder: Path) -> Iterator[np.ndarray]:
    for path in _shard_files(folder):
        rows = np.memmap(path, "<u2", "r").reshape(-1, SEQUENCE_LENGTH)
        for start in range(0, len(rows), BATCH_ROWS):
            yield rows[start : start + BATCH_ROWS].astype(np.int64)


def mosaic(folder: Path) -> Iterator[np.ndarray]:
    from streaming import MDSWriter, StreamingDataset  # pyright: ignore[reportMissingImports]

    copy = folder / "mds"
    if not copy.exists():
        columns = {"tokens": f"ndarray:uint16:{SEQUENCE_LENGTH}"}
        with MDSWriter(out=str(copy), columns=columns, size_limit=PEER_CHUNK_BYTES) as writer:
            for path in _shard_files(folder):
                for row in np.memmap(path, "<u2", "r").reshape(-1, SEQUENCE_LENGTH):
                    writer.write({"tokens": np.array(row)})
    rows = StreamingDataset(local=str(copy), shuffle=False, batch_size=BATCH_ROWS)
    return _stacked(row["tokens"] for row in rows)


def litdata(folder: Path) -> Iterator[np.ndarray]:
    import torch
    from litdata import StreamingDataset, TokensLoader  # pyright: ignore[reportMissingImports]
    from litdata.streaming.writer import BinaryWriter  # pyright: ignore[reportMissingImports]

    copy = folder / "lit"
    loader = TokensLoader(block_size=SEQUENCE_LENGTH)
    if not copy.exists():
        writer = BinaryWriter(str(copy), chunk_bytes=PEER_CHUNK_BYTES, item_loader=loader)
        for shard, path in enumerate(_shard_files(folder)):
            first = shard * SHARD_TOKENS // SEQUENCE_LENGTH
            rows = np.memmap(path, "<u2", "r").reshape(-1, SEQUENCE_LENGTH)
            for index, row in enumerate(rows, first):
                writer[index] = torch.from_numpy(np.array(row))
        writer.done()
        writer.merge()
    rows = StreamingDataset(str(copy), item_loader=loader, shuffle=False)
    return _stacked(np.asarray(row) for row in rows)


def _shard_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/train-*.bin"))


def _stacked(rows: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    batch: list[np.ndarray] = []
    for row in rows:
        batch.append(row)
        if len(batch) == BATCH_ROWS:
            yield np.stack(batch).astype(np.int64)
            batch = []
    if batch:
        yield np.stack(batch).astype(np.int64)


READERS: dict[str, Callable[[Path], Iterator[np.ndarray]]] = {
    "memmap": memmap,
    "ours": ours,
    "mosaic": mosaic,
    "litdata": litdata,
}
PEER_MODULES = {"mosaic": "streaming", "litdata": "litdata"}


def measure(name: str, folder: Path) -> ReadPass:
    """The fastest of N_PASSES passes."""
    passes = []
    for _ in range(N_PASSES):
        wall = time.perf_counter()
        cpu = time.process_time()
        n_tokens = 0
        checksum = 0
        for batch in READERS[name](folder):
            n_tokens += batch.size
            checksum += int(batch[:, ::64].sum())
        wall_seconds = time.perf_counter() - wall
        passes.append(ReadPass(wall_seconds, time.process_time() - cpu, n_tokens, checksum))
    return min(passes)


def write_streams(root: str) -> None:
    """A clean and a toxic stream of random tokens."""
    import pyarrow

    sys.path.insert(0, str(HERE.parent / "data_prep"))
    from tiny_manifest import manifest_of

    from data_prep.core import storage
    from data_prep.token_stream import megatron_shards

    rng = np.random.default_rng(0)
    for stream, n_shards in N_SHARDS.items():
        uri = storage.join(root, stream)
        train = tuple(
            megatron_shards.write_shard(
                uri,
                f"train-{shard:05}",
                rng.integers(0, 50_000, SHARD_TOKENS).astype(np.uint16),
                np.array([SHARD_TOKENS]),
                pyarrow.table({"row": [0]}),
            )
            for shard in range(n_shards)
        )
        stream_manifest = manifest_of(train, stream=stream, vocab_size=50_280, eos_id=0)
        storage.save(stream_manifest, storage.join(uri, "manifest.json"))


def compare_on_local_disk(peers: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        write_streams(scratch)
        megabytes = sum(N_SHARDS.values()) * SHARD_TOKENS * 2 / 1e6
        print(
            f"local disk, page cache warm, {megabytes:.0f} MB of uint16 tokens, "
            f"batches of {BATCH_ROWS} × {SEQUENCE_LENGTH} int64, best of {N_PASSES}"
        )
        passes: dict[str, ReadPass] = {}
        for name in READERS:
            result = _measure_in_process(name, scratch, peers)
            if isinstance(result, str):
                print(f"  {name:8} {result}")
                continue
            passes[name] = result
            expected = passes["memmap"]
            assert result.n_tokens == expected.n_tokens, f"{name}: another number of tokens"
            assert result.checksum == expected.checksum, f"{name}: other tokens"
            ratio = ""
            if name in PEER_MODULES and "ours" in passes:
                speed = result.wall_seconds / passes["ours"].wall_seconds
                ratio = f"   ours is {speed:.2f} × as fast"
            print(
                f"  {name:8} {megabytes / result.wall_seconds:7.0f} MB/s "
                f"{megabytes / result.cpu_seconds:7.0f} MB/CPU-s "
                f"{result.n_tokens / result.wall_seconds / 1e6:7.1f}M tokens/s{ratio}"
            )
        ratio = passes["memmap"].wall_seconds / passes["ours"].wall_seconds
        print(f"  ours / memmap {ratio:.2f}")


def _measure_in_process(name: str, folder: str, peers: str) -> ReadPass | str:
    """What a process of its own measures, or why there is no result."""
    module = PEER_MODULES.get(name)
    needs_peers = module is not None and not importlib.util.find_spec(module)
    interpreter = peers if needs_peers else sys.executable
    if not interpreter:
        return "not installed; --peers names an interpreter that has it"
    command = [interpreter, __file__, "--reader", name, "--folder", folder]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return f"failed: {done.stderr.strip().splitlines()[-1][:140]}"
    return ReadPass(*json.loads(done.stdout.splitlines()[-1]))


def read_from_slow_store() -> None:
    sys.path.insert(0, str(HERE.parent / "faults"))
    from proxy import Fault
    from result_table import AWS, store_behind_proxy

    from data_prep.core import storage
    from data_prep.token_stream import manifest
    from data_prep.token_stream.block_cache import BlockCache

    bucket = "s3://bench"
    os.environ |= AWS
    with store_behind_proxy(bucket) as proxy, tempfile.TemporaryDirectory() as scratch:
        write_streams(bucket)
        proxy.inject(Fault("latency", rate=1.0, seconds=LATENCY_SECONDS))
        batches = _our_batches(bucket, BlockCache(scratch, CACHE_BYTES))
        n_gets_before = proxy.counts["GET"]
        step_seconds = BATCH_ROWS * SEQUENCE_LENGTH / TOKENS_PER_SECOND
        waits = []
        start = time.perf_counter()
        for _, waited_seconds in batches:
            waits.append(waited_seconds)
            time.sleep(step_seconds)
        seconds = time.perf_counter() - start
        n_gets = proxy.counts["GET"] - n_gets_before
        manifests = [manifest.load(storage.join(bucket, stream)) for stream in N_SHARDS]
        n_blocks = sum(len(shard.block_sha256) for each in manifests for shard in each.train)
    print(
        f"S3, {LATENCY_SECONDS * 1e3:.0f} ms latency, {TOKENS_PER_SECOND:,} tokens/s, "
        f"{len(waits)} steps of {step_seconds:.2f} s"
    )
    print(
        f"  waited {sum(waits):.3f} s of {seconds:.1f} s: {sum(waits) / seconds:.2%}, "
        f"of which the first step {waits[0]:.3f} s"
    )
    print(
        f"  after the first step {sum(waits[1:]) / seconds:.3%}; "
        f"longest {max(waits[1:]) * 1e3:.1f} ms"
    )
    print(f"  {n_gets} GETs for {n_blocks} blocks of 8 MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument(
        "--peers",
        default="",
        help="interpreter of an environment with mosaicml-streaming and litdata",
    )
    parser.add_argument("--reader", choices=READERS, help="measure only this one, in this process")
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    if arguments.reader:
        print(json.dumps(measure(arguments.reader, arguments.folder)))
        return
    compare_on_local_disk(arguments.peers)
    read_from_slow_store()


if __name__ == "__main__":
    main()
