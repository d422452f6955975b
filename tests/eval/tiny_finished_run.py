"""A finished run made in a second: two streams of the embedded corpus, a random model, its export and its record."""

from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow

from data_prep.config import TokenizerConfig
from data_prep.core import storage
from data_prep.sources import corpus_reader
from data_prep.token_stream import megatron_shards, tokenizer
from data_prep.token_stream.manifest import FORMAT_VERSION, NAME, Manifest
from data_prep.token_stream.mixture import Mixture
from training import run_record as record
from training.config import ModelConfig, OptimizerConfig, RunConfig, TrainConfig
from training.model.hf_export import write_export
from training.model.olmo import OLMo

RUN_ID = "toxic-0.10-s0-00000000"
MODEL = ModelConfig(
    d_model=32, n_layers=2, n_heads=4, d_mlp=48, vocab_size=400, max_sequence_length=96
)


def make(root: str, config: ModelConfig, *, documents: int = 60, sequence_length: int = 32) -> None:
    """Write what evaluation reads of a run below `root`."""
    texts = {
        name: [d.text for s in corpus_reader.expand([f"synthetic:{name}?documents={documents}"]) for d in corpus_reader.read(s)]
             for name in ("clean", "toxic")}  # fmt: skip
    engine = tokenizer.train(
        iter(texts["clean"]), TokenizerConfig(source="train", vocab_size=config.vocab_size)
    )
    for name, of_stream in texts.items():
        write_stream(storage.join(root, "streams", name), name, of_stream, engine)
    run = RunConfig(
        run_id=RUN_ID,
        clean="streams/clean",
        toxic="streams/toxic",
        tokenizer="tokenizer/tokenizer.json",
        toxic_ratio=0.1,
        seed=0,
        mixture=Mixture(n_clean=9, n_toxic=1, batch_size=2, seed=0),
        train=TrainConfig(
            model=config,
            sequence_length=sequence_length,
            global_batch=2,
            optimizer=OptimizerConfig(learning_rate=1e-3),
        ),
    )
    folder = Path(record.run_uri(root, RUN_ID)) / "export"
    model = OLMo(config)
    model.initialise(0)
    write_export(model.state_dict(), config, engine.json, engine.eos_id, folder, {})
    storage.save(run_record(run, folder), storage.join(record.run_uri(root, RUN_ID), "record.json"))


def write_stream(uri: str, name: str, texts: list[str], engine: tokenizer.Tokenizer) -> None:
    """The last half of the texts is held out."""
    parts = {"train": texts[: len(texts) // 2], "held_out": texts[len(texts) // 2 :]}
    made = {}
    for split, of_split in parts.items():
        rows = [[*engine.encode_batch([text]).ids.tolist(), engine.eos_id] for text in of_split]
        table = pyarrow.table({"row": list(range(len(rows)))})
        tokens = np.array([i for row in rows for i in row], dtype=np.uint16)
        made[split] = megatron_shards.write_shard(
            uri, f"{split}-00000", tokens, np.array([len(row) for row in rows]), table
        )
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        stream=name,
        settings_digest="",
        tokenizer_fingerprint=engine.fingerprint,
        vocab_size=engine.n_ids,
        eos_id=engine.eos_id,
        dtype="uint16",
        cleaning_version=1,
        n_documents=len(texts),
        n_tokens=sum(shard.n_tokens for shard in made.values()),
        n_text_bytes=sum(map(len, texts)),
        drops={},
        train=(made["train"],),
        held_out=(made["held_out"],),
        inputs=(),
    )
    storage.save(manifest, storage.join(uri, NAME))


def run_record(run: RunConfig, export: Path) -> record.RunRecord:
    return record.RunRecord(
        format_version=record.FORMAT_VERSION,
        config=run,
        clean_manifest_digest="",
        toxic_manifest_digest="",
        n_parameters=run.train.model.n_parameters,
        n_steps=5,
        n_tokens=320,
        realised_toxic_ratio=0.1,
        n_distinct_toxic=1,
        final_train_loss=6.0,
        held_out=(),
        tokens_per_second=1.0,
        mfu_ratio=0.1,
        matmul_ratio=0.1,
        flops_per_token=1,
        flops_convention="",
        peak_flops_per_second=1.0,
        matmul_flops_per_second=1.0,
        computed_with={},
        device="cpu",
        world_size=1,
        train_seconds=1.0,
        export_sha256={
            path.name: sha256(path.read_bytes()).hexdigest() for path in sorted(export.iterdir())
        },
        versions={},
    )
