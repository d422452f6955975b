"""faults of the store while a token stream is built or read"""

import gzip
import hashlib
import json
import logging
import os
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from proxy import Fault, Proxy
from result_table import BAD, ERROR, IDENTICAL, RESUMED, TrialResult, attempt, is_clear

from data_prep.build import pipeline, sorted_segments, stream_paths
from data_prep.config import DataConfig, TokenizerConfig
from data_prep.core import ray_session, storage
from data_prep.sources import synthetic
from data_prep.token_stream import manifest, megatron_shards, reader, shuffle_key

BUCKET = "s3://faults"
DEFAULT_RATE = 0.1
RATES = {
    "slow_down": 0.15,
    "stalled": 0.1,
    "duplicate": 0.5,
    "stale_list": 1.0,
    "latency": 0.5,
    "slow": 0.5,
}
GARBLED_RATE = 0.02  # of reads: each one costs a retry of a whole block
N_FILES = {"clean": 3, "toxic": 2}
SMALL_BLOCK_BYTES = 1 << 14  # many blocks in a small stream


class BuildSetup(NamedTuple):
    """What the trials of builds share."""

    config: DataConfig
    proxy: Proxy
    expected: dict[str, str]
    """sha256 per file of the undisturbed build."""
    seconds: Callable[[], float]
    """Duration of an undisturbed build by warm workers; measured at the first call."""
    work: Path


def write_corpus(uri: str) -> DataConfig:
    """A small corpus in several formats, and the settings that build it."""
    for stream, n_files in N_FILES.items():
        source_uri = f"synthetic:{stream}?documents={60 * n_files}&seed=0&parts={n_files}"
        for part, source in enumerate(synthetic.expand(source_uri)):
            rows = synthetic.rows(source)
            lines = "".join(json.dumps({"text": row["text"]}) + "\n" for row in rows).encode()
            if part == 0:
                storage.write(f"{uri}/{stream}-{part}.jsonl", lines)
            else:
                storage.write(f"{uri}/{stream}-{part}.jsonl.gz", gzip.compress(lines, mtime=0))
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


def finished_files(root: str) -> list[str]:
    """URIs of a build's results, without work in progress."""
    return [
        uri
        for part in ("tokenizer", "streams")
        for uri in storage.glob(storage.join(root, part, "**"))
    ]


def checksums(root: str) -> dict[str, str]:
    """sha256 per file that a build leaves, without work in progress."""
    return {
        uri.removeprefix(root).lstrip("/"): hashlib.sha256(storage.read(uri)).hexdigest()
        for uri in finished_files(root)
    }


def check_records(root: str) -> None:
    """Raise unless everything that a record under `root` refers to is whole."""
    for uri in storage.glob(storage.join(root, "streams", "*", manifest.NAME)):
        folder = uri.rpartition("/")[0]
        megatron_shards.verify(folder, manifest.load(folder))
    for uri in storage.glob(storage.join(root, "work", "**", "segment-*.json")):
        name = uri.removesuffix(".json")
        # A segment without a valid record is ignored: a finished build is removing it, or the next
        # build writes it again.
        if sorted_segments.load(name, "uint16") is not None:
            sorted_segments.read(name, 0, shuffle_key.KEY_SPACE, "uint16")


def difference(root: str, expected: dict[str, str]) -> str:
    """How the files under `root` differ from the expected checksums; "" if they do not."""
    actual = checksums(root)
    names = sorted(
        name for name in expected.keys() | actual.keys() if expected.get(name) != actual.get(name)
    )
    return f"{len(names)} files differ, the first is {names[0]}" if names else ""


def judge(
    name: str,
    trial: int,
    setup: BuildSetup,
    root: str,
    error: str | None,
    build_again: Callable[[], str | None],
) -> TrialResult:
    """The outcome of a trial, after the disturbance has ended.

    `error` is None if the disturbed build succeeded and "" if it was killed. `build_again` repeats
    the build without a disturbance and returns its error.
    """

    def bad(reason: str) -> TrialResult:
        return TrialResult(name, trial, BAD, reason)

    try:
        check_records(root)
        if error is None:
            different = difference(root, setup.expected)
            if different:
                return bad(f"it succeeded, but {different}")
            return TrialResult(name, trial, IDENTICAL)
        if error and not is_clear(error):
            return bad(f"the error is not clear: {error}")
        first = error or "killed"
        second_error = build_again()
        if second_error is not None:
            return bad(f"first {first}; repeated without a disturbance: {second_error}")
        different = difference(root, setup.expected)
        if different:
            return bad(f"first {first}; repeated: {different}")
        return TrialResult(name, trial, ERROR if error else RESUMED, error)
    except Exception:
        return bad(traceback.format_exc())


def store_trial(kind: str, trial: int, seed: int, setup: BuildSetup) -> TrialResult:
    """A build while the store has one kind of fault."""
    root = f"{BUCKET}/store-{kind}-{trial}"
    limit = 1 if kind == "stalled" else None
    setup.proxy.inject(Fault(kind, RATES.get(kind, DEFAULT_RATE), seed + trial, limit=limit))
    try:
        error = attempt(lambda: build(setup.config, root))
    finally:
        n_injected = sum(setup.proxy.injected.values())
        setup.proxy.inject(None)

    def build_again() -> str | None:
        return attempt(lambda: build(setup.config, root))

    result = judge(f"build: {kind}", trial, setup, root, error, build_again)
    return result._replace(detail=f"{n_injected} injected. {result.detail}")


def read_trial(kind: str, trial: int, seed: int, setup: BuildSetup) -> TrialResult:
    """Reads of a training reader while the store has one kind of fault.

    The reader must return the right tokens, or raise a clear error and return the right tokens on
    the next attempt.
    """
    name = f"read: {kind}"
    built = storage.join(BUCKET, "undisturbed", stream_paths.stream_uri(setup.config, "clean"))
    built_manifest = manifest.load(built)
    block_bytes = storage.BLOCK_BYTES
    storage.BLOCK_BYTES = SMALL_BLOCK_BYTES
    try:
        read = _stream_reads(f"{BUCKET}/read-stream", built_manifest, trial)
        rate = GARBLED_RATE if kind == "garbled" else RATES.get(kind, DEFAULT_RATE)
        limit = 1 if kind == "stalled" else None
        setup.proxy.inject(Fault(kind, rate, seed + trial, limit=limit))
        try:
            error = attempt(read)
        finally:
            n_injected = sum(setup.proxy.injected.values())
            setup.proxy.inject(None)
        if error is None:
            return TrialResult(name, trial, IDENTICAL, f"{n_injected} injected.")
        if not is_clear(error):
            return TrialResult(name, trial, BAD, f"the error is not clear: {error}")
        detail = f"{n_injected} injected. {error}"
        second_error = attempt(read)
        if second_error:
            detail = f"{detail}; repeated without a disturbance: {second_error}"
            return TrialResult(name, trial, BAD, detail)
        return TrialResult(name, trial, ERROR, detail)
    finally:
        storage.BLOCK_BYTES = block_bytes


def _stream_reads(root: str, like: manifest.Manifest, trial: int) -> Callable[[], None]:
    """Write a stream like a built one, and return a function that reads and compares all of it."""
    import pyarrow as pa

    tokens = np.random.default_rng(0).integers(1, 400, 1 << 19).astype(np.uint16)
    tokens[127::128] = 0
    lengths = np.full(len(tokens) // 128, 128)
    provenance = pa.table({"row": np.arange(len(lengths))})
    shard = megatron_shards.write_shard(root, "train-00000", tokens, lengths, provenance)
    stream_manifest = replace(like, train=(shard,))
    sequences = tokens.reshape(-1, 64)

    def read() -> None:
        sequence_reader = reader.SequenceReader(root, stream_manifest, "train", 64, ahead=2)
        rng = np.random.default_rng(trial)
        for start in range(0, len(sequences), 256):
            indices = rng.permutation(np.arange(start, min(start + 256, len(sequences))))
            if not np.array_equal(sequence_reader.read(indices), sequences[indices]):
                raise AssertionError("the tokens read differ from the tokens written")

    return read


@contextmanager
def _ray_without_dashboard() -> Iterator[None]:
    """A Ray of two CPUs, without the nine processes of the dashboard."""
    for name, value in ray_session.ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=ray_session.OBJECT_STORE_BYTES,
        logging_level=logging.WARNING,
    )
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def undisturbed(proxy: Proxy, work: Path) -> Iterator[BuildSetup]:
    """Start Ray, and build once without a disturbance."""
    config = write_corpus(f"{BUCKET}/corpus")
    with _ray_without_dashboard(), ray_session.session(n_cpus=2):
        build(config, f"{BUCKET}/undisturbed")

        @cache
        def seconds() -> float:
            start = time.monotonic()
            build(config, f"{BUCKET}/timed")
            return time.monotonic() - start

        yield BuildSetup(config, proxy, checksums(f"{BUCKET}/undisturbed"), seconds, work)
