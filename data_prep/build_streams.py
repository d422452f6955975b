"""ENTRY (Ray): clean → tokenize → shuffle once → shards → manifest

    python data_prep/build_streams.py --config data.json --out URI [--stream clean] [--check]
    [--card]

Joins the cluster that RAY_ADDRESS names, or starts one on this machine. A finished stream is
checked and left as it is; so with --card the same command prints the data cards of streams that are
there.
"""

import argparse
import sys
from collections.abc import Sequence

from rich.box import SIMPLE
from rich.table import Table

from data_prep.build import pipeline, stream_paths
from data_prep.config import DataConfig, StreamName
from data_prep.core import errors, ray_tasks, storage, telemetry
from data_prep.token_stream import data_card, megatron_shards
from data_prep.token_stream.data_card import DataCard
from data_prep.token_stream.manifest import Manifest

N_SHOWN = 5  # domains and labels of a stream printed


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="build_streams.py", description="Build the clean and the toxic token stream."
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="DataConfig as JSON")
    parser.add_argument(
        "--out", required=True, metavar="URI", help="object root: a folder or s3://bucket/prefix"
    )
    parser.add_argument(
        "--stream",
        choices=("clean", "toxic"),
        action="append",
        help="only this one; may be repeated",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="afterwards read everything again and compare with the manifests",
    )
    parser.add_argument(
        "--card", action="store_true", help="print the streams' data cards side by side"
    )
    asked = parser.parse_args(arguments)
    telemetry.configure()
    try:
        built = _build(
            storage.load(DataConfig, asked.config),
            asked.stream or ["clean", "toxic"],
            storage.absolute(asked.out),
            asked.check,
        )
    except errors.HormesisError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    telemetry.console().print(
        _cards([data_card.load(uri) for uri, _ in built]) if asked.card else _table(built)
    )
    return 0


def _build(
    config: DataConfig, names: list[StreamName], root: str, check: bool
) -> list[tuple[str, Manifest]]:
    storage.check_writable(root)
    built = []
    with ray_tasks.session(n_cpus=1):
        for name in names:
            built.append(
                (
                    storage.join(root, stream_paths.stream_uri(config, name)),
                    pipeline.build(config, name, root),
                )
            )
            if check:
                megatron_shards.verify(*built[-1])
    return built


def _table(built: list[tuple[str, Manifest]]) -> Table:
    table = Table(
        "stream",
        "documents",
        "dropped",
        "tokens",
        "held out",
        "shards",
        "text MB",
        "where",
        box=SIMPLE,
    )
    for uri, known in built:
        counts = (
            known.n_documents,
            sum(known.drops.values()),
            known.n_tokens,
            known.split_tokens("held_out"),
        )
        n_shards = f"{len(known.train)} + {len(known.held_out)}"
        table.add_row(
            known.stream,
            *(f"{n:,}" for n in counts),
            n_shards,
            f"{known.n_text_bytes / 1e6:,.1f}",
            uri,
        )
    return table


def _cards(cards: list[DataCard]) -> Table:
    """One column a stream: its main numbers, then what not every stream has."""
    table = Table("", *(one.stream for one in cards), box=SIMPLE)
    for column in table.columns[1:]:
        column.justify = "right"
    for same in zip(*map(data_card.facts, cards), strict=True):
        table.add_row(same[0].name, *(fact.value for fact in same))
    details = [_details(one) for one in cards]
    for name in sorted({name for one in details for name in one}):
        table.add_row(name, *(one.get(name, "–") for one in details))
    return table


def _details(one: DataCard) -> dict[str, str]:
    found = {
        f"dropped: {drop.reason}": f"{drop.n_documents:,} ({100 * drop.ratio:.2f} %)"
        for drop in one.drops
    }
    found |= {f"label: {label.name}": f"{label.n_documents:,}" for label in one.labels[:N_SHOWN]}
    found |= {
        f"score: {score.name}": f"mean {score.mean:.3f}, {100 * score.half_ratio:.1f} % ≥ 0.5"
        for score in one.scores
    }
    return found | {
        f"domain: {part.name}": f"{part.n_documents:,}"
        for part in (one.domains.top[:N_SHOWN] if one.domains else ())
    }


if __name__ == "__main__":
    sys.exit(main())
