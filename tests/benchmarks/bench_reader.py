"""Sequences for training: our shuffled mixture beside a plain memmap, MosaicML streaming and
litdata, on the same tokens.

    make bench-reader ARGS="--peers /path/to/venv/bin/python"

Part one reads all tokens of a local disk (page cache warm), in batches of 512 × 2048 int64: ours in
the order of a mixture, every block's sha256 verified, the peers from first to last, as they are.
Each reader has a process of its own. MosaicML streaming and litdata do not install beside our pins:
`--peers` names the interpreter of an environment that has them.

Part two is a training step that takes 1M tokens at 400k tokens/s, simulated by sleeping, reading
from an S3 server behind a proxy that answers 100 ms late and counts: what share of the time is
spent waiting, and how many GETs a block takes.
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

import numpy as np

T, ROWS = 2048, 512
N_CLEAN, N_TOXIC = 4, 1  # shards of 32 MiB
SHARD_TOKENS = 16 << 20
TOKENS_PER_SECOND, LATENCY_SECONDS, STEP_ROWS = 400_000, 0.1, 512


def ours(folder: Path) -> Iterator[np.ndarray]:
    import torch

    from data_prep.token_stream import manifest
    from data_prep.token_stream.mixture import Mixture
    from data_prep.token_stream.reader import AHEAD_BLOCKS, SequenceReader
    from training.engine.process_group import World
    from training.run.batches import BatchReader

    uris = [str(folder / name) for name in ("clean", "toxic")]
    clean, toxic = (
        SequenceReader(uri, manifest.load(uri), "train", T, ahead=AHEAD_BLOCKS) for uri in uris
    )
    mixture = Mixture(n_clean=clean.n_sequences, n_toxic=toxic.n_sequences, batch_size=ROWS, seed=0)
    batches = BatchReader(mixture, clean, toxic, World(0, 1, torch.device("cpu"), 0, 1))
    return (batch.tokens for batch, _ in batches.prefetch(0, mixture.n_steps))


def memmap(folder: Path) -> Iterator[np.ndarray]:
    for path in sorted(folder.glob("*/train-*.bin")):
        rows = np.memmap(path, "<u2", "r").reshape(-1, T)
        for start in range(0, len(rows), ROWS):
            yield rows[start : start + ROWS].astype(np.int64)


def mosaic(folder: Path) -> Iterator[np.ndarray]:
    from streaming import MDSWriter, StreamingDataset

    if not (folder / "mds").exists():
        with MDSWriter(
            out=str(folder / "mds"), columns={"tokens": "ndarray:uint16:2048"}, size_limit=64 << 20
        ) as out:
            for path in sorted(folder.glob("*/train-*.bin")):
                for row in np.memmap(path, "<u2", "r").reshape(-1, T):
                    out.write({"tokens": np.array(row)})
    rows = StreamingDataset(local=str(folder / "mds"), shuffle=False, batch_size=ROWS)
    return _stacked(row["tokens"] for row in rows)


def litdata(folder: Path) -> Iterator[np.ndarray]:
    import torch
    from litdata import StreamingDataset, TokensLoader
    from litdata.streaming.writer import BinaryWriter

    if not (folder / "lit").exists():
        writer = BinaryWriter(
            str(folder / "lit"), chunk_bytes=64 << 20, item_loader=TokensLoader(block_size=T)
        )
        for n, path in enumerate(sorted(folder.glob("*/train-*.bin"))):
            for at, row in enumerate(np.memmap(path, "<u2", "r").reshape(-1, T)):
                writer[n * SHARD_TOKENS // T + at] = torch.from_numpy(np.array(row))
        writer.done()
        writer.merge()
    rows = StreamingDataset(
        str(folder / "lit"), item_loader=TokensLoader(block_size=T), shuffle=False
    )
    return _stacked(np.asarray(row) for row in rows)


def _stacked(rows: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    batch: list[np.ndarray] = []
    for row in rows:
        batch.append(row)
        if len(batch) == ROWS:
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


def measure(name: str, folder: Path) -> None:
    """Print seconds, CPU seconds, tokens and their sum, best of three passes."""
    passes = []
    for _ in range(3):
        wall, cpu, n, total = time.perf_counter(), time.process_time(), 0, 0
        for batch in READERS[name](folder):
            n += batch.size
            total += int(batch[:, ::64].sum())
        passes.append((time.perf_counter() - wall, time.process_time() - cpu, n, total))
    print(json.dumps(min(passes)))


def make_streams(root: str) -> None:
    """A clean and a toxic stream of random tokens."""
    import pyarrow

    sys.path.insert(0, str(Path(__file__).parents[1] / "data_prep"))
    from tiny_manifest import manifest_of

    from data_prep.core import storage
    from data_prep.token_stream import megatron_shards

    random = np.random.default_rng(0)
    for name, n_shards in (("clean", N_CLEAN), ("toxic", N_TOXIC)):
        uri = storage.join(root, name)
        train = tuple(
            megatron_shards.write_shard(
                uri,
                f"train-{n:05}",
                random.integers(0, 50_000, SHARD_TOKENS).astype(np.uint16),
                np.array([SHARD_TOKENS]),
                pyarrow.table({"row": [0]}),
            )
            for n in range(n_shards)
        )
        made = manifest_of(train, stream=name, vocab_size=50_280, eos_id=0)
        storage.save(made, storage.join(uri, "manifest.json"))


def from_local_disk(peers: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        make_streams(scratch)
        megabytes = (N_CLEAN + N_TOXIC) * SHARD_TOKENS * 2 / 1e6
        print(
            f"local disk, page cache warm, {megabytes:.0f} MB of uint16 tokens, batches of {ROWS} × {T} int64, best of 3"
        )
        found: dict[str, tuple[float, float, int, int]] = {}
        for name in READERS:
            module = {"mosaic": "streaming", "litdata": "litdata"}.get(name)
            interpreter = (
                peers if module and not importlib.util.find_spec(module) else sys.executable
            )
            if not interpreter:
                print(f"  {name:8} not installed: give --peers an interpreter that has it")
                continue
            command = [interpreter, __file__, "--reader", name, "--folder", scratch]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                print(f"  {name:8} failed: {done.stderr.strip().splitlines()[-1][:140]}")
                continue
            found[name] = tuple(json.loads(done.stdout.splitlines()[-1]))
            wall, cpu, n, total = found[name]
            assert (n, total) == found["memmap"][2:], (
                f"{name} read other tokens: {(n, total)}, expected {found['memmap'][2:]}"
            )
            ratio = wall / found["ours"][0] if "ours" in found else found["memmap"][0] / wall
            print(
                f"  {name:8} {megabytes / wall:7.0f} MB/s {megabytes / cpu:7.0f} MB/CPU-s {n / wall / 1e6:7.1f}M tokens/s"
                + (f"   ours is {ratio:.2f} × as fast" if name not in ("memmap", "ours") else "")
            )
        print(f"  ours / memmap {found['memmap'][0] / found['ours'][0]:.2f}")


def through_a_slow_store() -> None:
    from moto.server import ThreadedMotoServer

    sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))
    import torch
    from proxy import Fault, Proxy

    from data_prep.core import storage
    from data_prep.token_stream import manifest
    from data_prep.token_stream.block_cache import BlockCache
    from data_prep.token_stream.mixture import Mixture
    from data_prep.token_stream.reader import AHEAD_BLOCKS, SequenceReader
    from training.engine.process_group import World
    from training.run.batches import BatchReader

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with Proxy(f"http://{host}:{port}") as proxy, tempfile.TemporaryDirectory() as scratch:
        os.environ["AWS_ENDPOINT_URL"] = proxy.url
        subprocess.run(["curl", "-sX", "PUT", f"{proxy.url}/bench"], check=True)
        make_streams("s3://bench")
        known = [manifest.load(f"s3://bench/{name}") for name in ("clean", "toxic")]
        proxy.inject(Fault("latency", rate=1.0, seconds=LATENCY_SECONDS))
        before = proxy.counts["GET"]
        clean, toxic = (
            SequenceReader(
                f"s3://bench/{each.stream}",
                each,
                "train",
                T,
                ahead=AHEAD_BLOCKS,
                cache=BlockCache(scratch, 1 << 30),
            )
            for each in known
        )
        mixture = Mixture(
            n_clean=clean.n_sequences, n_toxic=toxic.n_sequences, batch_size=STEP_ROWS, seed=0
        )
        world = World(0, 1, torch.device("cpu"), 0, 1)
        batches = BatchReader(mixture, clean, toxic, world)
        step_seconds, waits = STEP_ROWS * T / TOKENS_PER_SECOND, []
        began = time.perf_counter()
        for _, waited in batches.prefetch(0, mixture.n_steps):
            waits.append(waited)
            time.sleep(step_seconds)
        seconds = time.perf_counter() - began
        blocks = sum(len(shard.block_sha256) for each in known for shard in each.train)
        print(
            f"S3, {LATENCY_SECONDS * 1e3:.0f} ms late, {TOKENS_PER_SECOND:,} tokens/s, {len(waits)} steps of {step_seconds:.2f} s"
        )
        print(
            f"  waited {sum(waits):.3f} s of {seconds:.1f} s: {sum(waits) / seconds:.2%}, of which the first step {waits[0]:.3f} s"
        )
        print(
            f"  after the first step {sum(waits[1:]) / seconds:.3%}; longest {max(waits[1:]) * 1e3:.1f} ms"
        )
        print(f"  {proxy.counts['GET'] - before} GETs for {blocks} blocks of 8 MiB")
    storage._filesystem.cache_clear()
    server.stop()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--peers",
        default="",
        help="interpreter of an environment that has mosaicml-streaming and litdata",
    )
    parser.add_argument("--reader", choices=READERS, help="measure this one only, in this process")
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    if arguments.reader:
        measure(arguments.reader, arguments.folder)
        return
    from_local_disk(arguments.peers)
    through_a_slow_store()


if __name__ == "__main__":
    main()
