"""What the loop adds to a step: blocks of its steps and of bare ones, in turns, on one engine."""

import tempfile
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import pyarrow
import torch
from scipy.stats import binom
from train_peers import Shape, clock, synchronize

from data_prep import storage, tokenizer
from data_prep.config import TokenizerConfig
from data_prep.manifest import FORMAT_VERSION, Manifest
from data_prep.mixture import Mixture
from data_prep.shards import write_shard
from training import loop, zero
from training.config import RunConfig, TrainConfig
from training.record import run_uri

N_IDS = 257  # of the byte-level tokenizer whose streams the loop reads
BLOCK = 5  # steps, the last of which is logged
CONFIDENCE = 0.95


class Overhead(NamedTuple):
    """Seconds of a block of the loop's steps over those of the bare ones before it, pair by pair; until the first step ended."""

    ratios: list[float]
    step_seconds: float
    first_seconds: float

    def __str__(self) -> str:
        n = len(self.ratios)
        k = max(0, int(binom.ppf((1 - CONFIDENCE) / 2, n, 0.5)) - 1)  # so many at either end: the median's interval in any law
        low, *_, high = sorted(self.ratios)[k : n - k]
        interval = f"{CONFIDENCE:.0%} interval {low - 1:+.2%} to {high - 1:+.2%}"
        return f"{median(self.ratios) - 1:+.2%}, {interval}, {n} pairs of {BLOCK} steps"


def overhead(train: TrainConfig, shape: Shape, n_pairs: int) -> Overhead:
    """Train a run of `loop.train` on streams made here: reading, guard, learning rate, meter, journal; a block of bare steps, which
    are forward, backward and step on tokens that are there, before each block of its own."""
    take_step, bare, full, began, ended = loop.take_step, [], [], [0.0], [0.0]

    def watched(job: Any, engine: Any, guard: Any, batch: Any) -> Any:
        if batch.step and batch.step % BLOCK == 0:
            synchronize()
            if bare:
                full.append(clock(shape) - began[0])
            bare.append(_bare(job, engine, batch, shape))
            began[0] = clock(shape)
        taken = take_step(job, engine, guard, batch)
        if batch.step == 0:
            synchronize()
            ended[0] = clock(shape)
        return taken

    train = replace(train, micro_batch=shape.micro, log_every_steps=BLOCK)
    loop.take_step = watched
    try:
        with tempfile.TemporaryDirectory(prefix="hormesis-") as root:
            run = planned(root, train, (1 + (1 + n_pairs) * BLOCK) * shape.rows)
            start = clock(shape)
            loop.train(root, run)
    finally:
        loop.take_step = take_step
    ratios = [one / other for one, other in zip(full, bare, strict=False)]
    return Overhead(ratios, median(full) / BLOCK, ended[0] - start)


def _bare(job: Any, engine: Any, batch: Any, shape: Shape) -> float:
    """Seconds of a block of steps, without what hangs on the optimizer's."""
    optimizer, tokens_BT = engine.basic_optimizer, batch.tokens.to(job.place.device)
    hooks, optimizer._optimizer_step_pre_hooks = optimizer._optimizer_step_pre_hooks, OrderedDict()
    verdict = {name: optimizer.__dict__.pop(name) for name in ("found_inf", "grad_scale") if name in optimizer.__dict__}
    weight_B = torch.full((job.micro_batch,), 1 / (len(tokens_BT) * (tokens_BT.shape[1] - 1)), device=job.place.device)
    start = clock(shape)
    for _ in range(BLOCK):
        passes = tokens_BT.split(job.micro_batch)
        for n, tokens in enumerate(passes, 1):
            zero.descend(engine, engine(tokens, weight_B).total, last=n == len(passes))
    synchronize()
    seconds = clock(shape) - start
    optimizer._optimizer_step_pre_hooks = hooks
    optimizer.__dict__.update(verdict)
    return seconds


def planned(root: str, train: TrainConfig, n_sequences: int) -> RunConfig:
    words = tokenizer.train(iter(["clean words"]), TokenizerConfig(source="train", vocab_size=N_IDS))
    tokenizer.save(words, str(Path(root, "tokenizer.json")))
    length = train.sequence_length
    for stream in ("clean", "toxic"):
        uri, tables = storage.join(root, "streams", stream), []
        for name, n in (("train-00000", n_sequences), ("held_out-00000", 2)):
            tokens = np.random.default_rng(n).integers(1, N_IDS, (n, length)).astype(np.uint16)
            tokens[:, -1] = words.eos_id
            provenance = pyarrow.table({"document": np.arange(n)})
            tables.append(write_shard(uri, name, tokens.ravel(), np.full(n, length, dtype=np.int64), provenance))
        made: dict[str, Any] = {
            "format_version": FORMAT_VERSION, "stream": stream, "settings_digest": "0" * 16,
            "tokenizer_fingerprint": words.fingerprint, "vocab_size": words.n_ids, "eos_id": words.eos_id, "dtype": "uint16",
            "cleaning_version": 1, "n_documents": n_sequences + 2, "n_tokens": (n_sequences + 2) * length, "n_text_bytes": 0,
            "drops": {}, "train": tables[:1], "held_out": tables[1:], "inputs": (),
        }  # fmt: skip
        made |= {name: tuple(made[name]) for name in ("train", "held_out")}
        storage.save(Manifest(**made), storage.join(uri, "manifest.json"))
    n_toxic = n_sequences // 10
    mixture = Mixture(n_clean=n_sequences - n_toxic, n_toxic=n_toxic, batch_size=train.global_batch, seed=0)
    run = RunConfig(
        run_id="bench", clean="streams/clean", toxic="streams/toxic", tokenizer="tokenizer.json", toxic_ratio=0.1, seed=0,
        mixture=mixture, train=train,
    )  # fmt: skip
    storage.save(run, storage.join(run_uri(root, run.run_id), "run.json"))
    return run
