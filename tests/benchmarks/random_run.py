"""a planned run on streams of random tokens, to measure training without a corpus"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np

from data_prep.config import TokenizerConfig
from data_prep.core import storage
from data_prep.token_stream import parquet_files, tokenizer
from data_prep.token_stream.manifest import FORMAT_VERSION, Manifest
from data_prep.token_stream.megatron_shards import write_shard
from data_prep.token_stream.mixture import Mixture
from training.config import RunConfig, TrainConfig
from training.run_record import run_uri

N_IDS = 257  # of the byte-level tokenizer


def plan_run(root: str, train: TrainConfig, n_sequences: int) -> RunConfig:
    """A run on streams of random tokens, a tenth of them toxic."""
    engine = tokenizer.train(
        iter(["clean words"]), TokenizerConfig(source="train", vocab_size=N_IDS)
    )
    tokenizer.save(engine, str(Path(root, "tokenizer.json")))
    for stream in ("clean", "toxic"):
        _write_stream(root, stream, engine, n_sequences, train.sequence_length)
    n_toxic = n_sequences // 10
    mixture = Mixture(
        n_clean=n_sequences - n_toxic, n_toxic=n_toxic, batch_size=train.global_batch, seed=0
    )
    run = RunConfig(
        run_id="bench",
        clean="streams/clean",
        toxic="streams/toxic",
        tokenizer="tokenizer.json",
        toxic_ratio=0.1,
        seed=0,
        mixture=mixture,
        train=train,
    )
    storage.save(run, storage.join(run_uri(root, run.run_id), "run.json"))
    return run


def _write_stream(root: str, stream: Any, engine: Any, n_sequences: int, length: int) -> None:
    uri = storage.join(root, "streams", stream)
    shards = []
    for name, n in (("train-00000", n_sequences), ("held_out-00000", 2)):
        tokens = np.random.default_rng(n).integers(1, N_IDS, (n, length)).astype(np.uint16)
        tokens[:, -1] = engine.eos_id
        lengths = np.full(n, length, dtype=np.int64)
        # nobody reads where random tokens come from, and pyarrow need not be installed
        with patch.object(parquet_files, "encode", lambda documents: b""):
            documents: Any = SimpleNamespace(num_rows=n)
            shards.append(write_shard(uri, name, tokens.ravel(), lengths, documents))
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        stream=stream,
        settings_digest="0" * 16,
        tokenizer_fingerprint=engine.fingerprint,
        vocab_size=engine.n_ids,
        eos_id=engine.eos_id,
        dtype="uint16",
        cleaning_version=1,
        n_documents=n_sequences + 2,
        n_tokens=(n_sequences + 2) * length,
        n_text_bytes=0,
        drops={},
        train=(shards[0],),
        held_out=(shards[1],),
        inputs=(),
    )
    storage.save(manifest, storage.join(uri, "manifest.json"))
