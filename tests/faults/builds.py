"""Faults of the store while a token stream is built or read."""

import hashlib
import json
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from proxy import Fault, Proxy
from result_table import BAD, ERROR, IDENTICAL, RESUMED, Result, attempt, is_clear

from data_prep.build import pipeline, segments, stream_paths, tokenize_file
from data_prep.config import DataConfig, TokenizerConfig
from data_prep.core import ray_tasks, storage
from data_prep.token_stream import manifest, megatron_shards, reader

BUCKET = "s3://faults"
RATES = {
    "slow_down": 0.15,
    "stalled": 0.1,
    "duplicate": 0.5,
    "stale_list": 1.0,
    "latency": 0.5,
    "slow": 0.5,
}


class World(NamedTuple):
    """What trials share: the settings, the proxy before the store, the undisturbed build's files by
    name.
    """

    config: DataConfig
    proxy: Proxy
    expected: dict[str, str]
    seconds: float  # that the undisturbed build took
    work: Path


def write_corpus(uri: str) -> DataConfig:
    """A small corpus in several formats, and the settings that build it."""
    import gzip

    from data_prep.sources import synthetic

    for stream, n_files in (("clean", 3), ("toxic", 2)):
        for part, source in enumerate(
            synthetic.expand(f"synthetic:{stream}?documents={60 * n_files}&seed=0&parts={n_files}")
        ):
            lines = "".join(
                json.dumps({"text": row["text"]}) + "\n" for row in synthetic.rows(source)
            ).encode()
            packed = gzip.compress(lines, mtime=0) if part else lines
            storage.write(f"{uri}/{stream}-{part}.jsonl" + (".gz" if part else ""), packed)
    return DataConfig(
        clean=(f"{uri}/clean-*",),
        toxic=(f"{uri}/toxic-*",),
        tokenizer=TokenizerConfig(source="train", vocab_size=400, train_bytes=40_000),
        held_out_ratio=0.1,
        shard_tokens=20_000,
    )


def build(config: DataConfig, root: str) -> None:
    for stream in ("clean", "toxic"):
        pipeline.build(config, stream, root)


def files(root: str) -> dict[str, str]:
    """What a build leaves, without work in progress: name → sha256."""
    found = [
        uri
        for part in ("tokenizer", "streams")
        for uri in storage.glob(storage.join(root, part, "**"))
    ]
    return {
        uri.removeprefix(root).lstrip("/"): hashlib.sha256(storage.read(uri)).hexdigest()
        for uri in found
    }


def check_records(root: str) -> None:
    """Whatever record is there speaks of whole things."""
    for uri in storage.glob(storage.join(root, "streams", "*", manifest.NAME)):
        folder = uri.rpartition("/")[0]
        megatron_shards.verify(folder, manifest.load(folder))
    for uri in storage.glob(storage.join(root, "units", "**", "segment-*.json")):
        name = uri.removesuffix(".json")
        if (
            segments.load(name, "uint16") is not None
        ):  # else a build that ended is removing it, or it will be made again
            segments.read(name, 0, tokenize_file.KEY_SPACE, "uint16")


def difference(root: str, expected: dict[str, str]) -> str:
    found = files(root)
    names = sorted(
        name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
    )
    return f"{len(names)} files differ, the first is {names[0]}" if names else ""


def judged(
    name: str,
    trial: int,
    world: World,
    root: str,
    error: str | None,
    again: Callable[[], str | None],
) -> Result:
    """The outcome after the disturbance has ended. error: how it ended, "" for killed, None for
    well; again: builds once more.
    """
    try:
        check_records(root)
        if error is None:
            different = difference(root, world.expected)
            return (
                Result(name, trial, BAD, f"ended well, but {different}")
                if different
                else Result(name, trial, IDENTICAL)
            )
        if error and not is_clear(error):
            return Result(name, trial, BAD, f"the error is not clear: {error}")
        second = again()
        if second is not None:
            return Result(
                name, trial, BAD, f"first {error or 'killed'}; again, undisturbed: {second}"
            )
        different = difference(root, world.expected)
        if different:
            return Result(name, trial, BAD, f"first {error or 'killed'}; again: {different}")
        return Result(name, trial, ERROR if error else RESUMED, error)
    except Exception:
        return Result(name, trial, BAD, traceback.format_exc())


def store_trial(kind: str, trial: int, seed: int, world: World) -> Result:
    root = f"{BUCKET}/store-{kind}-{trial}"
    limit = 1 if kind == "stalled" else None
    world.proxy.inject(Fault(kind, RATES.get(kind, 0.1), seed + trial, limit=limit))
    try:
        error = attempt(lambda: build(world.config, root))
    finally:
        n_injected = sum(world.proxy.injected.values())
        world.proxy.inject(None)
    result = judged(
        f"build: {kind}",
        trial,
        world,
        root,
        error,
        lambda: attempt(lambda: build(world.config, root)),
    )
    return result._replace(detail=f"{n_injected} injected. {result.detail}")


def read_trial(kind: str, trial: int, seed: int, world: World) -> Result:
    """A training reader under a fault: the same tokens, or a clear error and the same tokens when
    asked again.
    """
    import pyarrow as pa

    name, root = f"read: {kind}", f"{BUCKET}/read-stream"
    whole = storage.BLOCK_BYTES
    storage.BLOCK_BYTES = 1 << 14
    try:
        tokens = np.random.default_rng(0).integers(1, 400, 1 << 19).astype(np.uint16)
        tokens[127::128] = 0
        lengths = np.full(len(tokens) // 128, 128)
        shard = megatron_shards.write_shard(
            root, "train-00000", tokens, lengths, pa.table({"row": np.arange(len(lengths))})
        )
        known = replace(
            manifest.load(
                storage.join(BUCKET, "undisturbed", stream_paths.stream_uri(world.config, "clean"))
            ),
            train=(shard,),
        )
        sequences = tokens.reshape(-1, 64)

        def read() -> None:
            windows_of, chance = (
                reader.SequenceReader(root, known, "train", 64, ahead=2),
                np.random.default_rng(trial),
            )
            for at in range(0, len(sequences), 256):
                asked = chance.permutation(np.arange(at, min(at + 256, len(sequences))))
                if not np.array_equal(windows_of.read(asked), sequences[asked]):
                    raise AssertionError("other tokens than were written")

        rate = 0.02 if kind == "garbled" else RATES.get(kind, 0.1)
        world.proxy.inject(Fault(kind, rate, seed + trial, limit=1 if kind == "stalled" else None))
        try:
            error = attempt(read)
        finally:
            n_injected = sum(world.proxy.injected.values())
            world.proxy.inject(None)
        if error is None:
            return Result(name, trial, IDENTICAL, f"{n_injected} injected.")
        if not is_clear(error):
            return Result(name, trial, BAD, f"the error is not clear: {error}")
        second = attempt(read)
        detail = f"{n_injected} injected. {error}"
        return (
            Result(name, trial, BAD, f"{detail}; again, undisturbed: {second}")
            if second
            else Result(name, trial, ERROR, detail)
        )
    finally:
        storage.BLOCK_BYTES = whole


@contextmanager
def undisturbed(proxy: Proxy, work: Path) -> Iterator[World]:
    """A Ray, and what an undisturbed build gives."""
    config = write_corpus(f"{BUCKET}/corpus")
    with ray_tasks.session(n_cpus=2):
        build(config, f"{BUCKET}/warm-up")
        start = time.monotonic()
        build(config, f"{BUCKET}/undisturbed")
        seconds = time.monotonic() - start
        yield World(config, proxy, files(f"{BUCKET}/undisturbed"), seconds, work)
