"""ENTRY (Ray): clean → tokenize → shuffle once → shards → manifest

    python data_prep/build_streams.py --config data.json --out URI [--stream clean] [--check]

Joins the cluster that RAY_ADDRESS names, or starts one on this machine. A finished stream is checked and left as it is.
"""

import argparse
import sys
from collections.abc import Sequence

from rich.box import SIMPLE
from rich.table import Table

from data_prep import layout, records, shards, storage, streams, tasks, telemetry
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
        built = _build(
            storage.load(DataConfig, asked.config), asked.stream or ["clean", "toxic"], storage.absolute(asked.out), asked.check
        )
    except records.HormesisError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    telemetry.console().print(_table(built))
    return 0


def _build(config: DataConfig, names: list[StreamName], root: str, check: bool) -> list[tuple[str, Manifest]]:
    storage.check_writable(root)
    built = []
    with tasks.session(n_cpus=1):
        for name in names:
            built.append((storage.join(root, layout.stream_uri(config, name)), streams.build(config, name, root)))
            if check:
                shards.verify(*built[-1])
    return built


def _table(built: list[tuple[str, Manifest]]) -> Table:
    table = Table("stream", "documents", "dropped", "tokens", "held out", "shards", "text MB", "where", box=SIMPLE)
    for uri, known in built:
        counts = (known.n_documents, sum(known.drops.values()), known.n_tokens, known.split_tokens("held_out"))
        n_shards = f"{len(known.train)} + {len(known.held_out)}"
        table.add_row(known.stream, *(f"{n:,}" for n in counts), n_shards, f"{known.n_text_bytes / 1e6:,.1f}", uri)
    return table


if __name__ == "__main__":
    sys.exit(main())
