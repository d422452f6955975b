"""A study that trains within a second: planted streams, a byte-level tokenizer, planned runs."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow

from data_prep.config import StreamName, TokenizerConfig
from data_prep.core import storage
from data_prep.core.settings import evolve
from data_prep.token_stream import tokenizer
from data_prep.token_stream.manifest import FORMAT_VERSION, Manifest, Shard
from data_prep.token_stream.megatron_shards import write_shard
from data_prep.token_stream.mixture import Mixture
from training.config import (
    MetricsConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    TrainComputeConfig,
    TrainConfig,
    ValidationConfig,
)
from training.run_record import run_uri

N_IDS = 257
SEQUENCE_LENGTH = 16
TRAIN = TrainConfig(
    model=ModelConfig(
        d_model=32, n_layers=2, n_heads=2, d_mlp=64, vocab_size=264, max_sequence_length=32
    ),
    sequence_length=SEQUENCE_LENGTH,
    global_batch=4,
    optimizer=OptimizerConfig(learning_rate=1e-2),
    compute=TrainComputeConfig(precision="fp32"),
    validation=ValidationConfig(sequences=5),
    metrics=MetricsConfig(every_steps=1),
)

Plan = Callable[..., RunConfig]


def planner(root: str | Path) -> Plan:
    """plan(run_id, changes, n_clean=…, n_toxic=…, max_toxic_epochs=…): a run below `root`.

    `changes` maps dotted settings of TRAIN to values, as {"parallel.zero_stage": 2}. The streams
    that the run reads are written, too.
    """
    root = str(root)
    words = tokenizer.train(
        iter(["clean words"]), TokenizerConfig(source="train", vocab_size=N_IDS)
    )
    tokenizer.save(words, storage.join(root, "tokenizer.json"))
    _write_stream(root, "clean", words, seed=0)
    _write_stream(root, "toxic", words, seed=1)

    def plan(
        run_id: str = "run",
        changes: Mapping[str, Any] | None = None,
        *,
        n_clean: int = 17,
        n_toxic: int = 4,
        max_toxic_epochs: float = 1.0,
    ) -> RunConfig:
        train = evolve(TRAIN, changes or {})
        run = RunConfig(
            run_id=run_id,
            clean="streams/clean",
            toxic="streams/toxic",
            tokenizer="tokenizer.json",
            toxic_ratio=n_toxic / (n_clean + n_toxic),
            seed=0,
            mixture=Mixture(
                n_clean=n_clean,
                n_toxic=n_toxic,
                batch_size=train.global_batch,
                seed=0,
                max_toxic_epochs=max_toxic_epochs,
            ),
            train=train,
        )
        storage.save(run, storage.join(run_uri(root, run_id), "run.json"))
        return run

    return plan


def _write_stream(root: str, stream: StreamName, words: tokenizer.Tokenizer, seed: int) -> None:
    uri = storage.join(root, "streams", stream)
    train, held_out = (
        _write_shard(uri, name, n, seed) for name, n in (("train-00000", 24), ("held_out-00000", 6))
    )
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        stream=stream,
        settings_digest="0" * 16,
        tokenizer_fingerprint=words.fingerprint,
        vocab_size=words.n_ids,
        eos_id=words.eos_id,
        dtype="uint16",
        cleaning_version=1,
        n_documents=30,
        n_tokens=30 * SEQUENCE_LENGTH,
        n_text_bytes=30 * SEQUENCE_LENGTH,
        drops={},
        train=(train,),
        held_out=(held_out,),
        inputs=(),
    )
    storage.save(manifest, storage.join(uri, "manifest.json"))


def _write_shard(uri: str, name: str, n_documents: int, seed: int) -> Shard:
    """Documents of one sequence each: consecutive ids from a random start, ended by eos (id 0)."""
    starts = np.random.default_rng([seed, n_documents]).integers(1, 200, n_documents)
    tokens = starts[:, None] + np.arange(SEQUENCE_LENGTH) * (seed + 1)
    tokens[:, -1] = 0
    lengths = np.full(n_documents, SEQUENCE_LENGTH, dtype=np.int64)
    provenance = pyarrow.table({"document": np.arange(n_documents)})
    return write_shard(uri, name, tokens.astype(np.uint16).ravel(), lengths, provenance)
