"""ENTRY (Ray): build the clean and the toxic token stream from their corpora

    python data_prep/build_streams.py --config data.json --out URI [--stream clean] [--check]
                                      [--verify-inputs] [--card]

Uses the cluster that RAY_ADDRESS names, or starts one on this machine. A finished stream is checked
and kept, so with --card the same command prints the data cards of existing streams.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import get_args

from rich.box import SIMPLE
from rich.table import Table

from data_prep.build import pipeline, stream_paths
from data_prep.cards import data_card
from data_prep.cards.data_card import DataCard
from data_prep.cards.stream_table import stream_table
from data_prep.cleaning import language
from data_prep.config import DataConfig, StreamName
from data_prep.core import ray_session, storage, telemetry
from data_prep.core.command import entry_command
from data_prep.core.records import from_json
from data_prep.core.settings import evolve
from data_prep.sources import corpus_reader, input_files
from data_prep.token_stream import megatron_shards

N_SHOWN = 5  # domains and labels printed per stream


@entry_command
def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    telemetry.configure()
    text = storage.read_text(options.config)
    config = from_json(DataConfig, text, options.config, is_written_by_user=True)
    if options.verify_inputs:
        config = evolve(config, {"verify_inputs": True})
    names = options.stream or list(get_args(StreamName))
    streams = _build(config, names, storage.object_root(options.out), options.check)
    console = telemetry.console()
    cards = {str(name): card for name, card in data_card.load_all(streams).items()}
    console.print(_card_table(list(cards.values())) if options.card else stream_table(cards))
    for name, uri in streams.items():
        console.print(f"{name} stream: {uri}", soft_wrap=True)
    return 0


def _build(
    config: DataConfig, names: list[StreamName], root: str, check: bool
) -> dict[StreamName, str]:
    """The folder of each stream."""
    storage.check_writable(root)
    language.check_codes(config.cleaning.languages)
    corpora = [corpus_reader.expand(getattr(config, name)) for name in dict.fromkeys(names)]
    if len(corpora) > 1:
        input_files.check_distinct(*corpora)
    streams: dict[StreamName, str] = {}
    with ray_session.session(n_cpus=1):
        for name in names:
            streams[name] = storage.join(root, stream_paths.stream_uri(config, name))
            manifest = pipeline.build(config, name, root)
            if check:
                megatron_shards.verify(streams[name], manifest)
    return streams


def _card_table(cards: list[DataCard]) -> Table:
    """One column per stream: first the facts that every stream has, then those of some only."""
    table = Table("", *(card.stream for card in cards), box=SIMPLE)
    for column in table.columns[1:]:
        column.justify = "right"
    for facts in zip(*map(data_card.facts, cards), strict=True):
        table.add_row(facts[0].name, *(fact.value for fact in facts))
    details = [_details(card) for card in cards]
    for name in sorted({name for rows in details for name in rows}):
        table.add_row(name, *(rows.get(name, "–") for rows in details))
    return table


def _details(card: DataCard) -> dict[str, str]:
    """Drops, labels, scores and domains of a stream, as text by name."""
    rows = {}
    for drop in card.drops:
        share = f"{100 * drop.ratio:.3g} %"
        rows[f"dropped: {drop.reason}"] = f"{drop.n_documents:,} ({share})"
    for label in card.labels[:N_SHOWN]:
        rows[f"label: {label.name}"] = f"{label.n_documents:,}"
    for score in card.scores:
        share = f"{100 * score.half_ratio:.1f} % ≥ 0.5"
        rows[f"score: {score.name}"] = f"mean {score.mean:.3f}, {share}"
    for domain in card.domains.top[:N_SHOWN] if card.domains else ():
        rows[f"domain: {domain.name}"] = f"{domain.n_documents:,}"
    return rows


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="build_streams.py", description="Build the clean and the toxic token stream."
    )
    parser.add_argument(
        "--config", required=True, metavar="FILE", help="the data settings (DataConfig) as JSON"
    )
    parser.add_argument(
        "--out", required=True, metavar="URI", help="object root: a folder or s3://bucket/prefix"
    )
    parser.add_argument(
        "--stream",
        choices=get_args(StreamName),
        action="append",
        help="build only this stream; may be repeated",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="read all shards again after the build and compare them with the manifests",
    )
    parser.add_argument(
        "--verify-inputs",
        action="store_true",
        help="compare the content of all input files with that of finished streams",
    )
    parser.add_argument(
        "--card", action="store_true", help="print the data cards of the streams side by side"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
