"""ENTRY (Ray): write a mixture as Megatron shards in training order, for other trainers

    python data_prep/materialize.py --out URI --run RUN_ID [--to URI]
    python data_prep/materialize.py --out URI --clean STREAM --toxic STREAM --ratio R --tokens N
                                    --sequence-length T --batch B [--seed S] --to URI

RUN_ID is a run that launch/sweep.py planned in --out. STREAM is the folder of a token stream, a URI
or relative to --out.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import NamedTuple, get_args

from typing_extensions import TypedDict

from data_prep.build import materialize_mixture
from data_prep.config import StreamName
from data_prep.core import errors, ray_session, records, storage, telemetry
from data_prep.core.command import entry_command
from data_prep.core.records import RelativePath, name_fault
from data_prep.core.settings import Count
from data_prep.token_stream.mixture import Budget, Mixture, sequences_for

REQUIRED_WITHOUT_RUN = ("clean", "toxic", "ratio", "tokens", "sequence_length", "batch", "to")


class _Train(TypedDict):
    sequence_length: Count


class _PlannedRun(TypedDict):
    """The fields of a planned run that are read here."""

    mixture: Mixture
    clean: RelativePath
    toxic: RelativePath
    train: _Train


class MixturePlan(NamedTuple):
    mixture: Mixture
    sequence_length: int
    streams: dict[StreamName, str]


@entry_command
def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    telemetry.configure()
    root = storage.object_root(options.out)
    plan = _plan_of_run(root, options.run) if options.run else _plan_of_options(options)
    to = storage.join(root, "materialized", options.run or "")
    if options.to:
        to = storage.object_root(options.to)
    streams: dict[StreamName, str] = {
        name: uri if "://" in uri else storage.join(root, uri) for name, uri in plan.streams.items()
    }
    storage.check_writable(to)
    with ray_session.session(n_cpus=1):
        written = materialize_mixture.materialize(plan.mixture, plan.sequence_length, streams, to)
    n_toxic = plan.mixture.n_toxic
    epochs = n_toxic / written.n_distinct_toxic if written.n_distinct_toxic else 1.0
    telemetry.console().print(
        f"{plan.mixture.n_clean:,} clean + {n_toxic:,} toxic sequences (each toxic one "
        f"{epochs:.3g} times), {written.n_tokens:,} tokens, {len(written.train)} shards: {to}",
        soft_wrap=True,
    )
    return 0


def _plan_of_run(root: str, run_id: str) -> MixturePlan:
    """The mixture of a planned run; training/config.py owns the record it is read from."""
    if fault := name_fault(run_id):
        raise errors.ConfigurationError(
            f"--run is {run_id!r} and {fault}; launch/sweep.py --plan lists the ids of the runs"
        )
    uri = storage.join(root, "runs", run_id, "run.json")
    run = records.from_json(_PlannedRun, storage.read(uri), uri)
    streams: dict[StreamName, str] = {"clean": run["clean"], "toxic": run["toxic"]}
    return MixturePlan(run["mixture"], run["train"]["sequence_length"], streams)


def _plan_of_options(options: argparse.Namespace) -> MixturePlan:
    missing = [name for name in REQUIRED_WITHOUT_RUN if getattr(options, name) is None]
    if missing:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in missing)
        raise errors.ConfigurationError(
            f"{flags} is missing; give --run RUN_ID, or all of these flags"
        )
    n_clean, n_toxic = sequences_for(
        options.tokens, options.ratio, options.sequence_length, options.budget
    )
    mixture = Mixture(
        n_clean=n_clean,
        n_toxic=n_toxic,
        batch_size=options.batch,
        seed=options.seed,
        max_toxic_epochs=options.max_toxic_epochs,
    )
    streams: dict[StreamName, str] = {"clean": options.clean, "toxic": options.toxic}
    return MixturePlan(mixture, options.sequence_length, streams)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="materialize.py", description="Write a mixture as Megatron shards in training order."
    )
    add = parser.add_argument
    add("--out", required=True, metavar="URI", help="object root: a folder or s3://bucket/prefix")
    add("--to", metavar="URI", help="folder of the shards (OUT/materialized/RUN_ID)")
    add("--run", metavar="RUN_ID", help="a planned run, in place of all options below")
    for name in get_args(StreamName):
        add(f"--{name}", metavar="STREAM", help=f"folder of the {name} token stream")
    add("--ratio", type=float, metavar="R", help="toxic tokens / all tokens, in [0, 1)")
    add("--tokens", type=int, metavar="N", help="budget in tokens")
    add(
        "--budget",
        choices=get_args(Budget),
        default="clean_fixed",
        help="the tokens that --tokens counts (clean_fixed)",
    )
    add("--sequence-length", type=int, metavar="T", help="tokens per sequence")
    add("--batch", type=int, metavar="B", help="sequences per global batch")
    add("--seed", type=int, default=0, metavar="S", help="seed of the order in a batch (0)")
    add(
        "--max-toxic-epochs",
        type=float,
        default=1.0,
        metavar="X",
        help="passes over the toxic stream that are allowed (1)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
