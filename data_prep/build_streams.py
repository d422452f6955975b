"""ENTRY (Ray): clean → tokenize → shuffle once → shards → manifest

    python data_prep/build_streams.py --config data.json --out URI [--stream clean] [--check]

Joins the cluster that RAY_ADDRESS names, or starts one on this machine. A finished stream is checked and left as it is.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from data_prep import layout, records, shards, storage, streams, telemetry
from data_prep.config import DataConfig, StreamName
from data_prep.manifest import Manifest


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="build_streams.py", description="Build the clean and the toxic token stream.")
    parser.add_argument("--config", required=True, metavar="FILE", help="DataConfig as JSON")
    parser.add_argument("--out", required=True, metavar="URI", help="object root: a folder or s3://bucket/prefix")
    parser.add_argument("--stream", choices=("clean", "toxic"), action="append", help="only this one; may be repeated")
    parser.add_argument("--check", action="store_true", help="afterwards read everything again and compare with the manifests")
    asked = parser.parse_args(arguments)
    telemetry.configure()
    try:
        built = _build(storage.load(DataConfig, asked.config), asked.stream or ["clean", "toxic"], asked.out, asked.check)
    except records.HormesisError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    print(_table(built))
    return 0


def _build(config: DataConfig, names: list[StreamName], root: str, check: bool) -> list[tuple[str, Manifest]]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    storage.check_writable(root)
    ray.init(include_dashboard=False if "RAY_ADDRESS" not in os.environ else None, ignore_reinit_error=True)
    built = []
    for name in names:
        built.append((storage.join(root, layout.stream_uri(config, name)), streams.build(config, name, root)))
        if check:
            shards.verify(*built[-1])
    return built


def _table(built: list[tuple[str, Manifest]]) -> str:
    header = ("stream", "documents", "dropped", "tokens", "held out", "shards", "text MB", "where")
    rows = [
        (
            known.stream,
            f"{known.n_documents:,}",
            f"{sum(known.drops.values()):,}",
            f"{known.n_tokens:,}",
            f"{known.split_tokens('held_out'):,}",
            f"{len(known.train)} + {len(known.held_out)}",
            f"{known.n_text_bytes / 1e6:,.1f}",
            uri,
        )
        for uri, known in built
    ]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (header, *rows)
    )


if __name__ == "__main__":
    sys.exit(main())
