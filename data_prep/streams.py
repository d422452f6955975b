"""the build in two passes of Ray tasks: files → units, ranges of keys → shards, then the manifest

    file 0 ──tokenize──▶ unit 0  ░░▒▒▓▓██      a unit is sorted by key; a shard reads the same range of keys from every
    file 1 ──tokenize──▶ unit 1  ░░▒▒▓▓██      unit and merges, so the order of the whole stream is the order of the keys,
                                 │  │  └─ …    whatever the number of shards, of workers, or of times the build was killed
                          held_out  train-00000

Plain tasks, one committed output each, a bounded number in flight: nothing is kept in Ray, so a build that was killed
goes on from what the store holds. When the manifest is there the units are removed: they are as large as the stream, and
all of them can be made again. An error that would come again (HormesisError) is not retried and arrives as itself.
"""

import os
import posixpath
from collections import Counter
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from data_prep import card, cleaning, corpora, layout, manifest, shards, storage, tasks, telemetry, tokenizer, units, vocabulary
from data_prep.config import DataConfig, StreamName, TokenizerConfig
from data_prep.manifest import InputFile, Manifest, Shard, Split
from data_prep.records import ArtefactCorrupt, ArtefactMissing, ConfigurationError, digest
from data_prep.tokenizer import Tokenizer


class _Made(NamedTuple):
    """One input file after the first pass."""

    uri: str
    n_bytes: int
    unit_uri: str
    unit: units.Unit
    n_held_out_tokens: int


class _Cut(NamedTuple):
    """A shard to be: the documents with keys in [low, high)."""

    name: str
    split: Split
    low: int
    high: int


def build(config: DataConfig, stream: StreamName, root: str) -> Manifest:
    """The token stream below `root`: built on the first call, checked against settings, input names and sizes ever after."""
    root = storage.absolute(root)
    uri = storage.join(root, layout.stream_uri(config, stream))
    record_uri = storage.join(uri, manifest.NAME)
    engine = vocabulary.build_tokenizer(config, root)
    if not storage.exists(record_uri):
        made = _first_pass(config, stream, root, engine)
        written = _second_pass(config, stream, root, engine, made)
        storage.save(_manifest(config, stream, engine, made, written), record_uri)
    known = manifest.load(uri)
    _check_manifest(known, record_uri, config, engine)
    card.ensure(uri, known, config, engine)
    for leftover in storage.glob(storage.join(root, layout.units_uri(config, stream), "**")):
        storage.delete(leftover)
    telemetry.logger.info("%s stream: %s documents, %s tokens at %s", stream, f"{known.n_documents:,}", f"{known.n_tokens:,}", uri)
    return known


def _first_pass(config: DataConfig, stream: StreamName, root: str, engine: Tokenizer) -> list[_Made]:
    """Every input file's unit, in the order of the files; the largest files are begun first."""
    pinned = (
        storage.join(root, layout.tokenizer_uri(config)),
        replace(config.tokenizer, fingerprint=engine.fingerprint),
    )
    folder = storage.join(root, layout.units_uri(config, stream))
    jobs = [
        tasks.Job(
            f"tokenize {stream} {posixpath.basename(source.uri)}",
            _make_unit,
            (source, storage.absolute(source.uri), config, pinned, folder),
            size,
        )
        for source in corpora.expand(getattr(config, stream))
        for size in [corpora.n_bytes(source)]
    ]
    made: list[_Made] = []
    for result in tasks.run(sorted(jobs, key=lambda job: -job.weight), f"tokenize {stream}", "B"):
        made.append(result)
        telemetry.emit("hormesis_documents", result.unit.n_rows, stream=stream)
        for reason, n in result.unit.drops.items():
            telemetry.emit("hormesis_documents_dropped", n, stream=stream, reason=reason)
    order = {job.arguments[0].uri: number for number, job in enumerate(jobs)}
    made.sort(key=lambda one: order[one.uri])
    _check_made(made, stream)
    return made


def _second_pass(
    config: DataConfig, stream: StreamName, root: str, engine: Tokenizer, made: list[_Made]
) -> dict[Split, tuple[Shard, ...]]:
    """The shards of both splits in order of their keys; a range of keys without documents makes none."""
    import ray

    uri, folder = (storage.join(root, part(config, stream)) for part in (layout.stream_uri, layout.units_uri))
    n_tokens, shared = sum(one.unit.n_tokens for one in made), ray.put(made)
    cuts = _cuts(n_tokens, sum(one.n_held_out_tokens for one in made), config)
    jobs = [
        tasks.Job(
            f"shard {stream} {cut.name}",
            _make_shard,
            (cut, shared, shards.dtype_for(engine.n_ids), uri, folder),
            n_tokens // len(cuts),
        )
        for cut in cuts
    ]
    written: dict[str, Shard] = {}
    for shard in tasks.run(jobs, f"shard {stream}", "tokens"):
        if shard is not None:
            written[shard.name] = shard
            telemetry.emit("hormesis_tokens_written", shard.n_tokens, stream=stream)
    return {
        split: tuple(written[cut.name] for cut in cuts if cut.split == split and cut.name in written)
        for split in ("train", "held_out")
    }


def _cuts(n_tokens: int, n_held_out_tokens: int, config: DataConfig) -> list[_Cut]:
    """Equal ranges of keys, so many that a shard has about `shard_tokens`: keys are uniform, so sizes are nearly equal."""
    bound = units.held_out_bound(config.held_out_ratio)
    splits: tuple[tuple[Split, int, int, int], ...] = (
        ("train", bound, units.KEY_SPACE, n_tokens - n_held_out_tokens),
        ("held_out", 0, bound, n_held_out_tokens),
    )
    cuts = []
    for split, low, high, n in splits:
        n_shards = max(1, -(-n // config.shard_tokens))
        edges = [low + i * (high - low) // n_shards for i in range(n_shards + 1)]
        cuts += [_Cut(f"{split}-{i:05}", split, *edge) for i, edge in enumerate(pairwise(edges))]
    return cuts


def _manifest(
    config: DataConfig, stream: StreamName, engine: Tokenizer, made: list[_Made], written: dict[Split, tuple[Shard, ...]]
) -> Manifest:
    _check_complete(stream, made, [shard for split in written.values() for shard in split])
    if not written["train"]:
        raise ConfigurationError(f"the {stream} corpus: all its documents fell into the held-out split; add documents")
    if not written["held_out"]:
        telemetry.logger.warning("the %s corpus: no document fell into the held-out split; add documents", stream)
    return Manifest(
        format_version=manifest.FORMAT_VERSION,
        stream=stream,
        settings_digest=layout.stream_digest(config, stream),
        tokenizer_fingerprint=engine.fingerprint,
        vocab_size=engine.n_ids,
        eos_id=engine.eos_id,
        dtype=shards.dtype_for(engine.n_ids),
        cleaning_version=cleaning.VERSION,
        n_documents=sum(one.unit.n_documents for one in made),
        n_tokens=sum(one.unit.n_tokens for one in made),
        n_text_bytes=sum(one.unit.n_text_bytes for one in made),
        drops=_drops(made),
        train=written["train"],
        held_out=written["held_out"],
        inputs=tuple(
            InputFile(
                uri=one.uri,
                sha256=one.unit.input_sha256,
                n_bytes=one.n_bytes,
                n_documents=one.unit.n_documents,
                n_tokens=one.unit.n_tokens,
                n_bad_rows=one.unit.n_bad_rows,
            )
            for one in made
        ),
    )


# The work of one task, run in a Ray worker.


def _make_unit(
    source: corpora.Source, location: str, config: DataConfig, pinned: tuple[str, TokenizerConfig], folder: str
) -> _Made:
    os.environ["RAYON_NUM_THREADS"] = "1"  # the task has one CPU; the fast engine would take all
    here, engine = source._replace(uri=location), _engine(*pinned)
    sha256 = corpora.checksum(here)
    uri = storage.join(folder, units.name_of(source, sha256, engine, config))
    unit = units.make(here, sha256, engine, config, uri)
    _, n_held_out_tokens = units.count_below(uri, units.held_out_bound(config.held_out_ratio))
    return _Made(source.uri, corpora.n_bytes(here), uri, unit, n_held_out_tokens)


@lru_cache(maxsize=1)
def _engine(uri: str, config: TokenizerConfig) -> Tokenizer:
    """One a worker process: loading takes half a second, as long as tokenizing a megabyte."""
    return tokenizer.load(uri, config)


def _make_shard(cut: _Cut, made: list[_Made], dtype: shards.TokenDtype, uri: str, folder: str) -> Shard | None:
    """Publish one shard; the record of it among the units makes a second call cheap."""
    identity = digest(cut.low, cut.high, [(posixpath.basename(one.unit_uri), one.uri) for one in made])
    record_uri = storage.join(folder, "shards", f"{cut.name}-{identity}.json")
    if storage.exists(record_uri):
        shard = storage.load(Shard, record_uri)
        try:
            shards.check_shard(uri, shard)
            return shard
        except (ArtefactCorrupt, ArtefactMissing):
            telemetry.logger.warning("%s/%s is not what its record says; made again", uri, cut.name)
    tokens, lengths, table = _merged(cut, made, dtype)
    if not len(lengths):
        return None
    shard = shards.write_shard(uri, cut.name, tokens, lengths, table)
    storage.save(shard, record_uri)
    return shard


def _merged(cut: _Cut, made: list[_Made], dtype: shards.TokenDtype) -> tuple[np.ndarray, np.ndarray, Any]:
    """(tokens, lengths, provenance) of the documents of all units in the cut, by (key, input's sha256, row)."""
    import pyarrow as pa

    made = sorted(made, key=lambda one: one.unit.input_sha256)
    pieces = [units.read(one.unit_uri, cut.low, cut.high, dtype) for one in made]
    table = pa.concat_tables(piece.table for piece in pieces)
    origin = np.repeat(np.arange(len(made)), [len(piece.tokens) for piece in pieces])
    order = np.lexsort((table["row"].to_numpy(), origin, table["key"].to_numpy()))
    documents = [tokens for piece in pieces for tokens in piece.tokens]
    tokens = np.concatenate([np.empty(0, dtype), *(documents[i] for i in order)])
    uris = pa.array([one.uri for one in made], pa.string()).take(pa.array(origin[order]))
    table = table.take(pa.array(order)).add_column(1, "uri", uris).combine_chunks()
    return tokens, table["n_tokens"].to_numpy(), table


def _check_manifest(known: Manifest, record_uri: str, config: DataConfig, engine: Tokenizer) -> None:
    if known.tokenizer_fingerprint != engine.fingerprint:
        raise ConfigurationError(
            f"{record_uri}: was built with tokenizer {known.tokenizer_fingerprint}, the one below this root is "
            f"{engine.fingerprint}; bring that file back, or delete the manifest to build again"
        )
    inputs = tuple((file.uri, file.n_bytes) for file in known.inputs)
    corpus = config.clean if known.stream == "clean" else config.toxic
    asked = (layout.stream_digest(config, known.stream), vocabulary.names_and_sizes(corpus))
    layout.check_unchanged(record_uri, (known.settings_digest, inputs), asked)


def _check_made(made: list[_Made], stream: StreamName) -> None:
    first: dict[str, str] = {}
    for one in made:
        twin = first.setdefault(one.unit.input_sha256, one.uri)
        if twin != one.uri:
            raise ConfigurationError(
                f"the {stream} corpus: {twin} and {one.uri} have the same bytes (sha256 {one.unit.input_sha256[:16]}…), so every "
                "document would come twice; name one of them"
            )
    if not sum(one.unit.n_documents for one in made):
        rows, bad = sum(one.unit.n_rows for one in made), sum(one.unit.n_bad_rows for one in made)
        raise ConfigurationError(
            f"the {stream} corpus: no document is left of {rows:,} rows in {len(made)} files; unreadable: {bad:,}, dropped: "
            f"{_drops(made)}; check the text field (URI#text=FIELD) and data.cleaning"
        )


def _check_complete(stream: StreamName, made: list[_Made], written: list[Shard]) -> None:
    expected = (sum(one.unit.n_documents for one in made), sum(one.unit.n_tokens for one in made))
    got = (sum(shard.n_documents for shard in written), sum(shard.n_tokens for shard in written))
    if got != expected:
        raise ArtefactCorrupt(
            f"the {stream} stream: its shards hold {got[0]:,} documents and {got[1]:,} tokens, its units {expected[0]:,} and "
            f"{expected[1]:,}; delete {posixpath.dirname(made[0].unit_uri)} and build again"
        )


def _drops(made: list[_Made]) -> dict[str, int]:
    total = sum((Counter(one.unit.drops) for one in made), Counter[str]())
    return dict(sorted(total.items()))
