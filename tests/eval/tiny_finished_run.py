"""a finished run, written in a second: two streams, a random model, its export and record"""

from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow

from data_prep.config import StreamName, TokenizerConfig
from data_prep.core import storage
from data_prep.sources import corpus_reader
from data_prep.token_stream import manifest, megatron_shards, tokenizer
from data_prep.token_stream.manifest import Manifest
from data_prep.token_stream.mixture import Mixture
from data_prep.token_stream.tokenizer import Tokenizer
from training import run_record
from training.config import ModelConfig, OptimizerConfig, RunConfig, TrainConfig
from training.model.hf_export import write_export
from training.model.olmo import OLMo
from training.run_record import RunRecord, run_uri

RUN_ID = "toxic-0.10-s0-00000000"
MODEL = ModelConfig(
    d_model=32, n_layers=2, n_heads=4, d_mlp=48, vocab_size=400, max_sequence_length=96
)
STREAMS: tuple[StreamName, ...] = ("clean", "toxic")


def write_run(root: str, model_config: ModelConfig, *, n_documents: int = 60) -> None:
    """Write what an evaluation reads of a run, below `root`."""
    texts = {name: _texts(f"synthetic:{name}?documents={n_documents}") for name in STREAMS}
    engine = tokenizer.train(
        iter(texts["clean"]), TokenizerConfig(source="train", vocab_size=model_config.vocab_size)
    )
    for name in STREAMS:
        _write_stream(storage.join(root, "streams", name), name, texts[name], engine)
    config = RunConfig(
        run_id=RUN_ID,
        clean="streams/clean",
        toxic="streams/toxic",
        tokenizer="tokenizer/tokenizer.json",
        toxic_ratio=0.1,
        seed=0,
        mixture=Mixture(n_clean=9, n_toxic=1, batch_size=2, seed=0),
        train=TrainConfig(
            model=model_config,
            sequence_length=32,
            global_batch=2,
            optimizer=OptimizerConfig(learning_rate=1e-3),
        ),
    )
    export = Path(run_uri(root, RUN_ID)) / "export"
    model = OLMo(model_config)
    model.initialise(0)
    write_export(model.state_dict(), model_config, engine.json, engine.eos_id, export, {})
    storage.save(_record(config, export), storage.join(run_uri(root, RUN_ID), "record.json"))


def _texts(uri: str) -> list[str]:
    return [
        document.text
        for source in corpus_reader.expand([uri])
        for document in corpus_reader.read(source)
    ]


def _write_stream(uri: str, name: StreamName, texts: list[str], engine: Tokenizer) -> None:
    """Write a stream whose last half is held out."""
    half = len(texts) // 2
    train = _write_shard(uri, "train", texts[:half], engine)
    held_out = _write_shard(uri, "held_out", texts[half:], engine)
    stream = Manifest(
        format_version=manifest.FORMAT_VERSION,
        stream=name,
        settings_digest="",
        tokenizer_fingerprint=engine.fingerprint,
        vocab_size=engine.n_ids,
        eos_id=engine.eos_id,
        dtype="uint16",
        cleaning_version=1,
        n_documents=len(texts),
        n_tokens=train.n_tokens + held_out.n_tokens,
        n_text_bytes=sum(map(len, texts)),
        drops={},
        train=(train,),
        held_out=(held_out,),
        inputs=(),
    )
    storage.save(stream, storage.join(uri, manifest.NAME))


def _write_shard(uri: str, split: str, texts: list[str], engine: Tokenizer) -> manifest.Shard:
    rows = [[*engine.encode_batch([text]).ids.tolist(), engine.eos_id] for text in texts]
    return megatron_shards.write_shard(
        uri,
        f"{split}-00000",
        np.array([i for row in rows for i in row], dtype=np.uint16),
        np.array([len(row) for row in rows]),
        pyarrow.table({"row": list(range(len(rows)))}),
    )


def _record(config: RunConfig, export: Path) -> RunRecord:
    return RunRecord(
        format_version=run_record.FORMAT_VERSION,
        config=config,
        clean_manifest_digest="",
        toxic_manifest_digest="",
        n_parameters=config.train.model.n_parameters,
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
