"""ENTRY (Ray): a mixture → Megatron shards in training order, for other trainers

    python data_prep/materialize.py --out URI --run RUN_ID [--to URI]
    python data_prep/materialize.py --out URI --clean STREAM --toxic STREAM --ratio R --tokens N
                                    --sequence-length T --batch B [--seed S] --to URI

RUN_ID is a run that launch/sweep.py planned below --out; STREAM a folder of a token stream,
relative to --out or a URI.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any, get_args

from data_prep.build import materialize_mixture
from data_prep.core import errors, ray_tasks, records, storage, telemetry
from data_prep.token_stream.mixture import Budget, Mixture, sequences_for

EXPLICIT = ("clean", "toxic", "ratio", "tokens", "sequence_length", "batch", "to")


def main(arguments: Sequence[str] | None = None) -> int:
    asked = _parser().parse_args(arguments)
    lacking = [
        f"--{name.replace('_', '-')}"
        for name in EXPLICIT
        if not asked.run and getattr(asked, name) is None
    ]
    telemetry.configure()
    try:
        if lacking:
            raise errors.ConfigurationError(
                f"{', '.join(lacking)} is missing; give all of them, or --run RUN_ID"
            )
        root = storage.absolute(asked.out)
        mixture, length, streams = _of_run(root, asked.run) if asked.run else _explicit(asked)
        to = (
            storage.absolute(asked.to)
            if asked.to
            else storage.join(root, "materialized", asked.run)
        )
        streams = {
            name: uri if "://" in uri else storage.join(root, uri) for name, uri in streams.items()
        }
        storage.check_writable(to)
        with ray_tasks.session(n_cpus=1):
            made = materialize_mixture.materialize(mixture, length, streams, to)
    except errors.HormesisError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    repeated = mixture.n_toxic / made.n_distinct_toxic if made.n_distinct_toxic else 1.0
    telemetry.console().print(
        f"{mixture.n_clean:,} clean + {mixture.n_toxic:,} toxic sequences (each toxic one read {repeated:.3g}×), "
        f"{made.n_tokens:,} tokens, {len(made.train)} shards: {to}",
        soft_wrap=True,
    )
    return 0


def _of_run(root: str, run_id: str) -> tuple[Mixture, int, dict[Any, str]]:
    """Mixture, sequence length and streams of a planned run; training/config.py owns the whole of
    its record.
    """
    uri = storage.join(root, "runs", run_id, "run.json")
    run = json.loads(storage.read(uri))
    mixture = records.from_json(Mixture, json.dumps(run["mixture"]), uri)
    return mixture, run["train"]["sequence_length"], {"clean": run["clean"], "toxic": run["toxic"]}


def _explicit(asked: argparse.Namespace) -> tuple[Mixture, int, dict[Any, str]]:
    n_clean, n_toxic = sequences_for(asked.tokens, asked.ratio, asked.sequence_length, asked.budget)
    mixture = Mixture(
        n_clean=n_clean,
        n_toxic=n_toxic,
        batch_size=asked.batch,
        seed=asked.seed,
        max_toxic_epochs=asked.max_toxic_epochs,
    )
    return mixture, asked.sequence_length, {"clean": asked.clean, "toxic": asked.toxic}


def _parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(
        prog="materialize.py", description="Write a mixture as Megatron shards in training order."
    )
    flags.add_argument(
        "--out", required=True, metavar="URI", help="object root: a folder or s3://bucket/prefix"
    )
    flags.add_argument("--to", metavar="URI", help="where the shards go (OUT/materialized/RUN_ID)")
    flags.add_argument("--run", metavar="RUN_ID", help="a planned run, instead of all below")
    for name in ("clean", "toxic"):
        flags.add_argument(f"--{name}", metavar="STREAM", help=f"folder of the {name} token stream")
    flags.add_argument(
        "--ratio", type=float, metavar="R", help="toxic tokens / all tokens, in [0, 1)"
    )
    flags.add_argument("--tokens", type=int, metavar="N", help="the budget in tokens")
    flags.add_argument(
        "--budget",
        choices=get_args(Budget),
        default="clean_fixed",
        help="what --tokens counts (clean_fixed)",
    )
    flags.add_argument("--sequence-length", type=int, metavar="T", help="tokens a sequence")
    flags.add_argument("--batch", type=int, metavar="B", help="sequences a global batch")
    flags.add_argument(
        "--seed", type=int, default=0, metavar="S", help="of the order within a batch (0)"
    )
    flags.add_argument(
        "--max-toxic-epochs",
        type=float,
        default=1.0,
        metavar="X",
        help="how often toxic text may be read (1)",
    )
    return flags


if __name__ == "__main__":
    sys.exit(main())
